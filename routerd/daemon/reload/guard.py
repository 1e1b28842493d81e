"""The shrink guard: a truncated YAML file is usually valid YAML.

A reader amid a chunked write accepted 1,529 of 2,000 models. So a reload that takes away more than `reload.max_removal` of the
models or of the providers, and at least 4 of them, is refused unless it says that this is meant; so is an empty file. The limit
is that of the graph that serves: the new text may have lost its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from routerd.daemon.reload.outcome import SHRINK_GUARD
from routerd.errors import Problem
from routerd.graph import Graph

__all__ = ["AT_LEAST", "emptied", "shrunk"]

AT_LEAST = 4  # of a handful of models, losing three is an ordinary edit
NAMED = 5
HINT = "if that is meant: routerd reload --allow-removal"


def shrunk(old: Graph, new: Graph, main: Path) -> tuple[Problem, ...]:
    """Return what makes `new`, read from `main`, look like a part of `old`; nothing if it does not."""
    found = (_loss("models", old.routes, new.routes, old), _loss("providers", old.providers, new.providers, old))
    return tuple(replace(problem, file=str(main)) for problem in found if problem is not None)


def emptied(problems: Sequence[Problem], main: Path) -> tuple[Problem, ...]:
    """Return the problem of an empty main file, if that is what `problems` say."""
    return tuple(
        replace(problem, stage=SHRINK_GUARD, hint="what served before still serves")
        for problem in problems
        if problem.code == "empty-file" and os.path.abspath(problem.file) == os.path.abspath(main)
    )


def _loss(what: str, old: Iterable[str], new: Iterable[str], graph: Graph) -> Problem | None:
    before, kept = list(old), set(new)
    lost = [name for name in before if name not in kept]
    limit_ratio = graph.reload.max_removal_ratio
    if len(lost) < AT_LEAST or len(lost) <= limit_ratio * len(before):
        return None
    names = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
    message = f"{len(lost)} of {len(before)} {what} would go, more than reload.max_removal {limit_ratio:g} allows: {names}"
    return Problem(stage=SHRINK_GUARD, code="shrink-guard", path=what, message=message, file="", hint=HINT)
