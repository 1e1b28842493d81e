"""Problems to text, as a compiler prints them: place, code, path, message; the line with a caret; a hint."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from routerd.errors import Problem

WIDTH = 120  # of a source line; longer ones are cut around the place
_RED, _YELLOW, _BLUE, _BOLD, _OFF = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[1m", "\x1b[0m"


def render(problems: Sequence[Problem], *, color: bool = False) -> str:
    """Return the report of `problems`, in their order, with a line break at its end."""
    return "".join(_one(problem, color) for problem in problems)


def _one(problem: Problem, color: bool) -> str:
    tint = (_RED if problem.severity == "error" else _YELLOW) if color else ""
    bold, blue, off = (_BOLD, _BLUE, _OFF) if color else ("", "", "")
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    path = f" {_printable(problem.path[:WIDTH])}" if problem.path else ""
    colon = ":" if path else ""
    kind = f"{tint}{problem.severity}[{problem.code}]{off}"
    head = f"{bold}{_printable(place)}:{off} {kind}{path}{colon} {_printable(problem.message)}\n"
    if problem.line and problem.source.strip():
        text, offset = _cut(problem.source, problem.column - 1)
        number = str(problem.line)
        pad = " " * sum(_cells(char) for char in text[:offset])
        head += f"{blue}{number:>5} |{off} {text}\n      {blue}|{off} {pad}{tint}^{off}\n"
    if problem.hint:
        head += f"      {blue}={off} {_printable(problem.hint)}\n"
    return head


def _cut(source: str, offset: int) -> tuple[str, int]:
    """Return the part of a line around `offset` that fits, and the offset in it."""
    start = max(0, offset - WIDTH * 2 // 3) if len(source) > WIDTH else 0
    part = source[start : start + WIDTH]
    text = ("..." if start else "") + _printable(part) + ("..." if start + WIDTH < len(source) else "")
    return text, max(0, offset - start + (3 if start else 0))


def _printable(text: str) -> str:
    """Replace what would move the cursor or change the terminal; a tab is one space, so that the caret fits."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in text)


def _cells(char: str) -> int:
    """Return how many columns a character takes on a terminal."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
