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
    """A compiled name pattern. Pickles as its text; the regex is rebuilt on first use."""

    text: str
    literal_chars: int = field(default=0)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Build a pattern from its YAML text."""
        return cls(text=text, literal_chars=len(text.replace("*", "")))

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The pattern as a regular expression with one group a star."""
        pieces = self.text.split("*")
        out = [re.escape(pieces[0])]
        for i, piece in enumerate(pieces[1:], start=1):
            at_end = i == len(pieces) - 1 and piece == ""
            out.append("(.+)" if at_end else "([^/]+)")
            out.append(re.escape(piece))
        return re.compile("".join(out), re.DOTALL)

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return what the stars captured, or None. A pattern without a star matches its own text only."""
        found = self.regex.fullmatch(name)
        return found.groups() if found else None

    def covers(self, name: str) -> bool:
        """Tell whether the pattern as a filter takes in `name`: here every star spans slashes, so `*:free` covers `a/b:free`."""
        first, *middle = self.text.split("*")
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


def fill(template: str, captured: tuple[str, ...]) -> str:
    """Put the captured parts of a pattern into `{1}`, `{2}` ... of an upstream model name; what is put in is not filled again."""
    if template == "{1}" and captured:
        return captured[0]
    return _PLACEHOLDER.sub(lambda found: _captured(found, captured), template)


def _captured(found: re.Match[str], captured: tuple[str, ...]) -> str:
    number = int(found[1])
    return captured[number - 1] if 1 <= number <= len(captured) else found[0]
