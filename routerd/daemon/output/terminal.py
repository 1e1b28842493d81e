"""Colours, for a terminal that wants them: the only place that knows escape sequences.

Renderers name a role (`error`, `place`); `Paint` puts the role's colour around a text. Nothing is painted for a pipe or a file,
with NO_COLOR set (https://no-color.org: to anything but an empty text), or with TERM=dumb.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import IO

__all__ = ["Paint", "paint_for", "plain"]

Paint = Callable[[str, str], str]  # (role, text) -> text
_OFF = "\x1b[0m"
_ROLES: Mapping[str, str] = {
    "error": "\x1b[31m", "bad": "\x1b[31m", "removed": "\x1b[31m",
    "warning": "\x1b[33m", "changed": "\x1b[33m",
    "good": "\x1b[32m", "added": "\x1b[32m",
    "frame": "\x1b[34m", "strong": "\x1b[1m", "place": "\x1b[2m",
}  # fmt: skip


def plain(_role: str, text: str) -> str:
    """Paint nothing."""
    return text


def paint_for(stream: IO[str], environ: Mapping[str, str] = os.environ) -> Paint:
    """Return the paint for what is written to `stream`."""
    wanted = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return _coloured if wanted else plain


def _coloured(role: str, text: str) -> str:
    return f"{_ROLES[role]}{text}{_OFF}" if text else text
