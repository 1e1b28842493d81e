"""`routerd check` and `routerd schema`: is this configuration one that the daemon would take?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd.daemon.commands.syntax import CANNOT_REACH, FINE, INVALID, add_format, command, config_of
from routerd.daemon.report import is_unreadable, problem_as_json, report
from routerd.errors import ConfigError, Problem

if TYPE_CHECKING:
    from routerd.config import Loaded

__all__ = ["add_check", "add_schema", "check", "load_or_report", "schema", "status_of"]


def add_check(commands: Any) -> None:
    """Declare `check`."""
    parser = command(commands, "check", "validate a configuration as the daemon does", "routerd check routes.yaml --format json")
    parser.add_argument("file", nargs="?", metavar="FILE", help="default: ROUTERD_CONFIG or routes.yaml")
    parser.add_argument("--config", metavar="FILE", help="the same, as the other commands name it")
    add_format(parser)


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
    else:
        if problems:
            print(report(problems, sys.stdout))
        if loaded:
            models, providers = len(loaded.graph.routes), len(loaded.graph.providers)
            print(f"{file}: fine ({models} models, {providers} providers, digest {loaded.graph.digest[:16]})")
    return status_of(failed)


def add_schema(commands: Any) -> None:
    """Declare `schema`."""
    command(commands, "schema", "print the JSON schema of routes.yaml", "routerd schema > routes.schema.json")


def schema(_flags: Mapping[str, Any], _environ: Mapping[str, str]) -> int:
    """Print the JSON schema of routes.yaml."""
    from routerd.config import schema_json

    print(schema_json().rstrip("\n"))
    return FINE


def load_or_report(file: Path) -> tuple[Loaded | None, int]:
    """Return the configuration; without one say why on stderr and return the exit status."""
    loaded, failed = _load(file)
    if failed is not None:
        print(report(failed.problems, sys.stderr), file=sys.stderr)
    return loaded, status_of(failed)


def status_of(failed: ConfigError | None) -> int:
    """Return the exit status of a load."""
    if failed is None:
        return FINE
    return CANNOT_REACH if is_unreadable(failed.problems) else INVALID


def _load(file: Path) -> tuple[Loaded | None, ConfigError | None]:
    from routerd.config import load

    try:
        return load(file, os.environ), None
    except ConfigError as exc:
        return None, exc
