"""Did you mean ...: the closest offered name, at a bounded cost.

difflib over 10,000 names takes a tenth of a second, which would make a typo a weapon. So only neighbours are looked at: those
beside the asked name in the sorted names (they share its beginning) and in the sorted reversed names (they share its end).
One typo leaves a beginning and an end intact, so the right name is among them. The best few go to difflib.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Callable, Iterable

WINDOW = 12  # neighbours on each side in each of the two orders: at most 48 names are looked at
FINALISTS = 8  # names that difflib compares: 8 x about 30 us
MAX_CHARS = 96  # difflib is quadratic in the length
CUTOFF = 0.6


class Suggester:
    """The sorted names of one graph. Building sorts once: about 10 ms for 10,000 names, at the first unknown name."""

    __slots__ = ("_backward", "_forward")

    def __init__(self, names: Iterable[str]) -> None:
        # One string a row, key and name with a NUL between: thousands of tuples would wake the garbage collector.
        offered = {name for name in names if len(name) <= MAX_CHARS and "\0" not in name}
        self._forward = sorted(f"{name.lower()}\0{name}" for name in offered)
        self._backward = sorted(f"{name.lower()[::-1]}\0{name}" for name in offered)

    def closest(self, asked: str, visible: Callable[[str], bool] | None = None) -> str | None:
        """Return the visible name most like `asked`, or None when nothing is near."""
        if not asked or len(asked) > MAX_CHARS:
            return None
        low = asked.lower()
        near = _around(self._forward, low) | _around(self._backward, low[::-1])
        ranked = sorted(near, key=lambda name: (-_shared_ends(name.lower(), low), name))
        finalists: list[str] = []
        for name in ranked:
            if visible is None or visible(name):
                finalists.append(name)
                if len(finalists) == FINALISTS:
                    break
        found = difflib.get_close_matches(low, [name.lower() for name in finalists], n=1, cutoff=CUTOFF)
        return next((name for name in finalists if name.lower() == found[0]), None) if found else None


def _around(rows: list[str], key: str) -> set[str]:
    place = bisect_left(rows, key)
    return {row.partition("\0")[2] for row in rows[max(0, place - WINDOW) : place + WINDOW]}


def _shared_ends(name: str, asked: str) -> int:
    """Count the characters that both begin and end with."""
    start = _shared_start(name, asked)
    return start + _shared_start(name[start:][::-1], asked[start:][::-1])


def _shared_start(one: str, other: str) -> int:
    for count, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return count
    return min(len(one), len(other))
