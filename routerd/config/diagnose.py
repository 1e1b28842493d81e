"""Problems to text, as a compiler prints them: place, code, path, message; the line with a caret; a hint."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from routerd.errors import Problem

WIDTH = 120  # of a source line; longer ones are cut around the place
Paint = Callable[[str, str], str]  # (role, text) -> text; what a role looks like is known to who prints


def render(problems: Sequence[Problem], *, paint: Paint = lambda _role, text: text) -> str:
    """Return the report of `problems`, in their order, with a line break at its end."""
    return "".join(_one(problem, paint) for problem in problems)


def _one(problem: Problem, paint: Paint) -> str:
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    path = f" {_printable(problem.path[:WIDTH])}" if problem.path else ""
    colon = ":" if path else ""
    kind = paint(problem.severity, f"{problem.severity}[{problem.code}]")
    head = f"{paint('strong', f'{_printable(place)}:')} {kind}{path}{colon} {_printable(problem.message)}\n"
    if problem.line and problem.source.strip():
        text, offset = _cut(problem.source, problem.column - 1)
        pad = " " * sum(_cells(char) for char in text[:offset])
        head += f"{paint('frame', f'{problem.line:>5} |')} {text}\n"
        head += f"      {paint('frame', '|')} {pad}{paint(problem.severity, '^')}\n"
    if problem.hint:
        head += f"      {paint('frame', '=')} {_printable(problem.hint)}\n"
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
