"""`routerd diff`: what a configuration would change for clients, and which state is kept.

Against a file, both are loaded here. Against what runs (the default) the daemon compares: it reads its own files again, with its
own environment and secrets, so the answer is what a reload would do, and no configuration leaves it. It knows no other file than
its own: with a `--config` that is another one, the answer is refused.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routerd.daemon.commands.check import load_or_report
from routerd.daemon.commands.live import ask
from routerd.daemon.commands.syntax import (
    FAILED,
    FINE,
    INVALID,
    add_admin,
    add_config,
    add_format,
    admin_of,
    command,
    complain,
    config_of,
)
from routerd.daemon.output.report import report
from routerd.daemon.output.terminal import paint_for
from routerd.daemon.settings import Address
from routerd.errors import Problem

__all__ = ["add_diff", "diff"]

RUNNING = "running"
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def add_diff(commands: Any) -> None:
    """Declare `diff`."""
    what = "say what a configuration changes for clients, and which state is kept"
    example = "routerd diff --against running"
    parser = command(commands, "diff", what, example, fine="no difference", failed="a difference")
    against = "another configuration, or `running` (the default): what the daemon at --admin serves, against its own files"
    parser.add_argument("--against", default=RUNNING, metavar="FILE", help=against)
    add_config(parser)
    add_admin(parser)
    add_format(parser)


def diff(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Print the differences from the other configuration to this one."""
    if flags["against"] == RUNNING:
        return _running(admin_of(flags, environ), flags["config"], flags["format"])
    from routerd.config import diff as differences

    file, other = config_of(flags["config"], environ), Path(flags["against"])
    old, status = load_or_report(other)
    if old is None:
        return status
    new, status = load_or_report(file)
    if new is None:
        return status
    from routerd.daemon.reload.guard import shrunk

    _warn(shrunk(old.graph, new.graph, file))
    return _show([change.as_json() for change in differences(old.graph, new.graph)], str(other), str(file), flags["format"])


def _running(admin: Address, config: str | None, form: str) -> int:
    code, answer = ask(admin, "POST", "/-/diff")
    if answer is None:
        return code
    if code == 422:
        print(report([Problem(**problem) for problem in answer["problems"]], sys.stderr), file=sys.stderr)
        return INVALID
    if code != 200:
        return complain(f"{admin} refused: {answer.get('error', code)}", FAILED)
    if config is not None and os.path.realpath(config) != os.path.realpath(answer["config"]):
        return complain(f"the daemon at {admin} reads {answer['config']}, not {config}; name one with --against", INVALID)
    _warn([Problem(**problem) for problem in answer["refused"]])
    return _show(answer["changes"], f"generation {answer['generation']}", answer["config"], form)


def _warn(refused: Sequence[Problem]) -> None:
    """Say beside the changes, on stderr, that a reload would refuse them."""
    if refused:
        print(report(refused, sys.stderr), file=sys.stderr)
        print("routerd: a reload refuses this as it stands", file=sys.stderr)


def _show(changes: Sequence[Mapping[str, str]], old: str, new: str, form: str) -> int:
    """Print changes; return the exit status."""
    if form == "json":
        print(json.dumps({"same": not changes, "from": old, "to": new, "changes": list(changes)}, indent=2, ensure_ascii=False))
    elif not changes:
        print(f"{new} changes nothing against {old}")
    else:
        paint = paint_for(sys.stdout)
        for one in changes:
            state = paint("place", f"  ({one['state']})") if one["state"] else ""
            print(f"{paint(one['kind'], _SIGNS[one['kind']])} {one['text']}{state}")
    return FAILED if changes else FINE
