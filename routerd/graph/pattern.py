"""Model-name patterns: `*` captures, everything else is literal.

`*` matches one or more characters and spans slashes only where it is the last character of the pattern; elsewhere it stops at
a `/`. So `*/*` splits an id at its first slash (`together/meta-llama/Llama-3.3-70B` gives `together` and the rest).
Precedence among patterns: more literal characters first, then file order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

_PLACEHOLDER = re.compile(r"\{([1-9][0-9]?)\}")


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A compiled name pattern. Pickles as its text."""

    text: str
    literal_chars: int = field(default=0)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Build a pattern from its YAML text."""
        return cls(text=text, literal_chars=len(text.replace("*", "")))

    @cached_property
    def _pieces(self) -> list[str]:
        """The literal texts before, between and behind the stars."""
        return self.text.split("*")

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return what the stars captured (the earlier take as much as they can), or None.

        From the right, each literal at its last possible place: one pass. A regular expression would try every division, and a
        name of 255 letters against four stars would keep it busy for a second.
        """
        first, *middle = self._pieces
        if not name.startswith(first):
            return None
        if not middle:
            return () if name == first else None
        last = middle.pop()
        if not last:
            return self._match_open(name, middle)
        end = len(name) - len(last)
        if not name.endswith(last):
            return None
        captured = _stars(name, len(first), middle, end)
        return None if captured is None or any("/" in part for part in captured) else captured

    def _match_open(self, name: str, middle: list[str]) -> tuple[str, ...] | None:
        """Match where the last star takes all the rest: what stands before it has the slashes of the literals and no other."""
        start = len(self._pieces[0])
        if not middle:
            return (name[start:],) if len(name) > start else None
        limit = -1
        for _ in range(self.text.count("/") + 1):
            limit = name.find("/", limit + 1)
            if limit < 0:
                limit = len(name)
                break
        piece = middle.pop()
        place = name.rfind(piece, start + 1, min(limit, len(name) - 1)) if name else -1
        captured = _stars(name, start, middle, place) if place >= 0 else None
        return None if captured is None else (*captured, name[place + len(piece) :])

    def covers(self, name: str) -> bool:
        """Tell whether the pattern as a filter takes in `name`: here every star spans slashes, so `*:free` covers `a/b:free`."""
        first, *middle = self._pieces
        if not middle:
            return name == first
        last = middle.pop()
        end = len(name) - len(last)
        if not name.startswith(first) or not name.endswith(last):
            return False
        place = len(first)
        for piece in middle:  # the first fit leaves the most room for what follows
            place = name.find(piece, place + 1, end)
            if place < 0:
                return False
            place += len(piece)
        return place < end

    def __getstate__(self) -> dict[str, object]:
        return {"text": self.text, "literal_chars": self.literal_chars}


def _stars(name: str, start: int, middle: list[str], end: int) -> tuple[str, ...] | None:
    """Divide name[start:end] among stars with these literals between them; each star has at least one character."""
    captured = []
    for piece in reversed(middle):
        place = name.rfind(piece, start + 1, end - 1) if end > 1 else -1
        if place < 0:
            return None
        captured.append(name[place + len(piece) : end])
        end = place
    if end <= start:
        return None
    captured.append(name[start:end])
    captured.reverse()
    return tuple(captured)


def fill(template: str, captured: tuple[str, ...]) -> str:
    """Put the captured parts of a pattern into `{1}`, `{2}` ... of an upstream model name; what is put in is not filled again."""
    if template == "{1}" and captured:
        return captured[0]
    return _PLACEHOLDER.sub(lambda found: _captured(found, captured), template)


def _captured(found: re.Match[str], captured: tuple[str, ...]) -> str:
    number = int(found[1])
    return captured[number - 1] if 1 <= number <= len(captured) else found[0]
