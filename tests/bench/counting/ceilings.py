"""The ceilings in `counts.json`, and what passes them. Counts differ between versions of Python, so the file names its own.

A figure above its ceiling and margin is a regress; one well below asks for a lower ceiling, which `count.py --write` sets.
"""

from __future__ import annotations

import json
import pathlib
import platform
from collections.abc import Mapping

__all__ = ["FILE", "limit", "lower", "over", "read", "write"]

FILE = pathlib.Path(__file__).parents[1] / "counts.json"
SHARES = {"bytecodes": 0.03, "library_bytecodes": 0.03, "calls": 0.03, "peak_bytes": 0.1, "syscalls": 0.15, "transfers": 0.1}
PLUS = {"bytecodes": 3.0, "library_bytecodes": 3.0, "calls": 1.0, "peak_bytes": 512.0, "blocks_kept": 0.5, "syscalls": 0.3}
COMPILED = frozenset({"bytecodes", "library_bytecodes", "calls"})  # another compiler makes other bytecode of the same source
OTHER_PYTHON_SHARE = 0.25
GAIN_SHARE = 0.05  # what a ceiling may be above its figure before it is worth lowering

Figures = Mapping[str, float]


def read() -> dict[str, dict[str, float]]:
    """Return the ceilings, by case and figure."""
    cases: dict[str, dict[str, float]] = json.loads(FILE.read_text())["cases"]
    return cases


def write(counted: Mapping[str, Figures]) -> None:
    """Make what was counted the ceilings of these cases."""
    cases = {**read(), **{name: dict(figures) for name, figures in counted.items()}}
    FILE.write_text(json.dumps({"python": _version(), "cases": cases}, indent=1) + "\n")


def limit(figure: str, ceiling: float) -> float:
    """Return what a figure may be: its ceiling and the margin for what no change of routerd makes."""
    share = SHARES.get(figure, 0.0)
    if figure in COMPILED and _version() != json.loads(FILE.read_text())["python"]:
        share = OTHER_PYTHON_SHARE
    return ceiling * (1 + share) + PLUS.get(figure, 0.05)


def over(figures: Figures, ceilings: Figures) -> list[str]:
    """Return a line for each figure that passes its limit."""
    return [
        f"{name}: {figures[name]:g}, the ceiling is {ceiling:g} (with its margin {limit(name, ceiling):g})"
        for name, ceiling in ceilings.items()
        if figures[name] > limit(name, ceiling)
    ]


def lower(figures: Figures, ceilings: Figures) -> list[str]:
    """Return a line for each figure that stays so far below its ceiling that a regress could hide there."""
    return [
        f"{name}: {figures[name]:g}, the ceiling is {ceiling:g}"
        for name, ceiling in ceilings.items()
        if figures[name] < ceiling * (1 - GAIN_SHARE) - PLUS.get(name, 0.05)
    ]


def _version() -> str:
    return ".".join(platform.python_version_tuple()[:2])
