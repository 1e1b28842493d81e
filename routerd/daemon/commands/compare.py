"""`routerd diff`: what a configuration would change for clients, and which state is kept.

Both files are loaded here, with this environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routerd.daemon.commands.check import load_or_report
from routerd.daemon.commands.syntax import FAILED, FINE, add_config, add_format, command, config_of
from routerd.daemon.terminal import paint_for

__all__ = ["add_diff", "diff", "show"]

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def add_diff(commands: Any) -> None:
    """Declare `diff`."""
    what = "say what a configuration changes for clients, and which state is kept"
    example = "routerd diff --config new.yaml --against routes.yaml"
    parser = command(commands, "diff", what, example, fine="no difference", failed="a difference")
    parser.add_argument("--against", required=True, metavar="FILE", help="what it is compared with")
    add_config(parser)
    add_format(parser)


def diff(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Print the differences from the other configuration to this one."""
    from routerd.config import diff as differences

    file, other = config_of(flags["config"], environ), Path(flags["against"])
    old, status = load_or_report(other)
    if old is None:
        return status
    new, status = load_or_report(file)
    if new is None:
        return status
    changes = [as_json(one) for one in differences(old.graph, new.graph)]
    return show(changes, str(other), str(file), flags["format"])


def as_json(change: Any) -> dict[str, str]:
    """Return a change with plain values."""
    return {name: getattr(change, name) for name in change.__slots__}


def show(changes: Sequence[Mapping[str, str]], old: str, new: str, form: str) -> int:
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
