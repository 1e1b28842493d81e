"""`routerd check`, `test` and `schema`: is this configuration one that the daemon would take, and does it do what it says?

`check` calls the function that the daemon calls; `test` lists the outcome of each of the `tests:`, which `check` runs, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd.daemon.commands.syntax import CANNOT_REACH, FAILED, FINE, INVALID, add_config, add_format, command, config_of
from routerd.daemon.output.report import is_unreadable, problem_as_json, report
from routerd.daemon.output.terminal import paint_for
from routerd.errors import ConfigError, Problem

if TYPE_CHECKING:
    from routerd.config import Loaded
    from routerd.daemon.load.cases import Result

__all__ = ["add_check", "add_schema", "add_test", "check", "load_or_report", "schema", "test"]


def add_check(commands: Any) -> None:
    """Declare `check`."""
    what = "validate a configuration as the daemon does, its tests included"
    parser = command(commands, "check", what, "routerd check routes.yaml --format github", failed="")
    parser.add_argument("file", nargs="?", metavar="FILE", help="default: ROUTERD_CONFIG or routes.yaml")
    parser.add_argument("--config", metavar="FILE", help="the same, as the other commands name it")
    add_format(parser, "github")


def check(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Validate a file exactly as the daemon does, and print every problem."""
    file = config_of(flags["file"] or flags["config"], environ)
    loaded, failed = _load(file)
    problems: tuple[Problem, ...] = failed.problems if failed else loaded.warnings if loaded else ()
    if flags["format"] == "json":
        told = {
            "ok": failed is None,
            "result": failed.stage if failed else "ok",
            "file": str(file),
            "problems": [problem_as_json(problem) for problem in problems],
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
    elif flags["format"] == "github":
        print("".join(_workflow_command(problem) for problem in problems), end="")
    elif problems:
        print(report(problems, sys.stdout))
    if loaded and flags["format"] != "json":
        print(f"{file}: {paint_for(sys.stdout)('good', 'fine')} ({_sizes(loaded)}, digest {loaded.graph.digest[:16]})")
    return _status_of(failed)


def _sizes(loaded: Loaded) -> str:
    graph = loaded.graph
    sizes = {"model": len(graph.routes), "provider": len(graph.providers), "test": len(loaded.tests)}
    return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in sizes.items() if count or what != "test")


def _workflow_command(problem: Problem) -> str:
    """Return a problem as GitHub's runner marks it in a change: `::error file=...::message` (its docs: Workflow commands)."""
    place = {"file": problem.file, "line": problem.line or 1, "col": problem.column or 1, "title": f"routerd {problem.code}"}
    fields = ",".join(f"{key}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}" for key, value in place.items())
    path = f"{problem.path}: " if problem.path else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"::{problem.severity} {fields}::{_escaped(path + problem.message + hint)}\n"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def add_test(commands: Any) -> None:
    """Declare `test`."""
    what = "run the tests of a configuration and say how each ended"
    parser = command(commands, "test", what, "routerd test --config routes.yaml", failed="a test fails")
    add_config(parser)
    add_format(parser)


def test(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Run the tests; print one line for each, and why it failed."""
    from routerd.config import load
    from routerd.daemon.load.cases import run_tests

    file = config_of(flags["config"], environ)
    try:
        results = run_tests(load(file, os.environ))
    except ConfigError as exc:
        print(report(exc.problems, sys.stderr), file=sys.stderr)
        return _status_of(exc)
    failed = sum(bool(result.problems) for result in results)
    if flags["format"] == "json":
        tests = [
            {"name": one.name, "ok": not one.problems, "problems": [problem_as_json(problem) for problem in one.problems]}
            for one in results
        ]
        print(json.dumps({"ok": not failed, "file": str(file), "tests": tests}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*_lines(results), _sum(len(results), failed)]))
    return FAILED if failed else FINE


def _lines(results: Sequence[Result]) -> list[str]:
    paint = paint_for(sys.stdout)
    lines = []
    for result in results:
        lines.append(f"{paint('bad', 'FAILED') if result.problems else paint('good', 'ok    ')} {result.name}")
        for problem in result.problems:
            place = paint("place", f"[{problem.file}:{problem.line}:{problem.column}]")
            lines.append(f"       {problem.message.removeprefix(f'{result.name}: ')}  {place}")
        hints = dict.fromkeys(problem.hint for problem in result.problems if problem.hint)
        lines += [f"       {hint}" for hint in hints]
    return lines


def _sum(count: int, failed: int) -> str:
    if not count:
        return "no tests: the configuration has no `tests`"
    return f"{failed} of {count} failed" if failed else f"{count} passed"


def add_schema(commands: Any) -> None:
    """Declare `schema`."""
    what = "print the JSON schema of routes.yaml"
    parser = command(commands, "schema", what, "routerd schema --out routes.schema.json", failed="", invalid="")
    parser.add_argument("--out", metavar="FILE", help="write it there instead")


def schema(flags: Mapping[str, Any], _environ: Mapping[str, str]) -> int:
    """Print the JSON schema of routes.yaml."""
    from routerd.config import schema_json

    if not flags["out"]:
        print(schema_json().rstrip("\n"))
        return FINE
    try:
        Path(flags["out"]).write_text(schema_json(), encoding="utf-8")
    except OSError as exc:
        print(f"routerd: cannot write {flags['out']}: {exc.strerror or exc}", file=sys.stderr)
        return CANNOT_REACH
    return FINE


def load_or_report(file: Path) -> tuple[Loaded | None, int]:
    """Return the configuration; without one say why on stderr and return the exit status."""
    loaded, failed = _load(file)
    if failed is not None:
        print(report(failed.problems, sys.stderr), file=sys.stderr)
    return loaded, _status_of(failed)


def _status_of(failed: ConfigError | None) -> int:
    if failed is None:
        return FINE
    return CANNOT_REACH if is_unreadable(failed.problems) else INVALID


def _load(file: Path) -> tuple[Loaded | None, ConfigError | None]:
    from routerd.daemon.load.configuration import load_checked

    try:
        return load_checked(file, os.environ), None
    except ConfigError as exc:
        return None, _told_how_to_begin(exc, file)


def _told_how_to_begin(failed: ConfigError, file: Path) -> ConfigError:
    """Say what to do where there is no file at all: the daemon, which had one, must not be told so."""
    if not any(one.code == "missing-file" and one.file == str(file) and not one.line for one in failed.problems):
        return failed
    hint = "`routerd init` writes one, --config names another"
    return ConfigError(tuple(replace(one, hint=hint) if one.code == "missing-file" else one for one in failed.problems))
