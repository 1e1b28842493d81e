"""When an endpoint that is asked for its health counts as down, and when as up again: not at the first odd answer."""

from __future__ import annotations

__all__ = ["Streak"]


class Streak:
    """Answers in a row. `fall` bad ones take an endpoint down, `rise` good ones bring it back."""

    __slots__ = ("_count", "_fall", "_rise", "up")

    def __init__(self, fall: int, rise: int, *, up: bool = True) -> None:
        self._fall = fall
        self._rise = rise
        self._count = 0
        self.up = up

    def seen(self, good: bool) -> bool:
        """Take one answer; return whether it changed the verdict, which is `up` then."""
        if good == self.up:
            self._count = 0
            return False
        self._count += 1
        if self._count < (self._fall if self.up else self._rise):
            return False
        self.up = good
        self._count = 0
        return True
