"""`routerd rehearse`: what clients would see if upstreams failed as a scenario says. Package `daemon.drill` plays it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routerd.daemon.commands.syntax import (
    CANNOT_REACH,
    FAILED,
    FINE,
    INVALID,
    add_config,
    add_format,
    command,
    complain,
    config_of,
    text_of,
)
from routerd.daemon.output.terminal import paint_for

__all__ = ["add_rehearse", "rehearse"]

EXAMPLE = """routerd rehearse scenario.yaml

a scenario:
  routes: routes.yaml              # beside the scenario; default: --config
  speed: 10                        # times are a tenth, and told tenfold
  load: {model: chat, per_s: 20, stream: true}   # client: NAME; a list; a phase may have its own
  phases:
    - {name: all is well, for: 5s, expect: {max_errors: 0, max_failed_over: 0}}
    - name: gpu-a is gone
      for: 30s
      faults: {gpu-a: refuse}      # endpoint or provider: refuse, reset, hang, cut, 503, or
                                   # {status: 429, retry_after: 5s, late: 2s, ratio: 0.3}
      expect: {min_ok: 99%, max_p99: 3s, answered_by: [gpu-b, openrouter]}
expectations: min_ok, max_errors, min_failed_over, max_failed_over (counts or %), max_p50, max_p99, answered_by"""


def add_rehearse(commands: Any) -> None:
    """Declare `rehearse`."""
    what = "play a scenario of failing upstreams and say what clients would see"
    parser = command(commands, "rehearse", what, EXAMPLE.replace("%", "%%"), failed="something is not as expected")
    parser.add_argument("file", metavar="FILE", help="the scenario")
    add_config(parser)
    add_format(parser)


def rehearse(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Play the scenario; print a line for each phase."""
    from routerd.daemon.commands.check import load_or_report
    from routerd.daemon.drill.scenario import ScenarioError, parse
    from routerd.daemon.drill.stage import play

    file = Path(flags["file"])
    try:
        scenario = parse(text_of(file))
    except OSError as exc:
        return complain(f"cannot read {file}: {exc.strerror or exc}", CANNOT_REACH)
    except ScenarioError as exc:
        return _invalid(file, exc)
    routes = file.parent / scenario.routes if scenario.routes and not flags["config"] else config_of(flags["config"], environ)
    loaded, status = load_or_report(routes)
    if loaded is None:
        return status
    quiet = flags["format"] == "json"
    try:
        told = asyncio.run(play(loaded.graph, scenario, lambda phase: None if quiet else _begin(phase.name)))
    except ScenarioError as exc:
        return _invalid(file, exc)
    failed = any(one["failed"] for one in told)
    if quiet:
        print(json.dumps({"ok": not failed, "phases": told}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_table(told)))
    return FAILED if failed else FINE


def _begin(name: str) -> None:
    if sys.stderr.isatty():
        print(f"  {name} ...", file=sys.stderr)


def _invalid(file: Path, exc: Exception) -> int:
    for line in str(exc).splitlines():
        complain(f"{file}: {line}", INVALID)
    return INVALID


def _table(told: Sequence[Mapping[str, Any]]) -> list[str]:
    paint = paint_for(sys.stdout)
    width = max(5, *(len(one["phase"]) for one in told))
    lines = [f"{'phase':<{width}}  requests      ok  failed over  errors      p50      p99  answered by"]
    for one in told:
        answered = ", ".join(f"{name} {count}" for name, count in one["answered_by"].items()) or "nobody"
        lines.append(
            f"{one['phase']:<{width}}  {one['requests']:>8}  {one['ok']:>6}  {one['failed_over']:>11}  {one['errors']:>6}  "
            f"{one['p50_s']:>5.2f} s  {one['p99_s']:>5.2f} s  {answered}"
        )
        if one["errors_by"]:
            lines.append(f"{'':<{width}}  errors: " + ", ".join(f"{what} {count}" for what, count in one["errors_by"].items()))
        lines += [f"{'':<{width}}  {paint('bad', 'not as expected')}: {why}" for why in one["failed"]]
    return lines
