"""Is a change complete? It is taken up when looks agree for the settle time, at most 1 s after it was first seen. Pure.

How long looks must agree depends on the writer:

1. something is missing (delete and create, a volume being swapped): up to the 1 s
2. a writer still has the file open: up to the 1 s (where the file system can tell)
3. written in place, same inode: twice the settle time, because chunks may come with pauses
4. replaced by another file or link: the settle time
"""

from __future__ import annotations

from routerd.daemon.watch.look import Look

__all__ = ["AT_MOST_S", "EARLY_S", "SETTLE_S", "Settle"]

SETTLE_S = 0.05
AT_MOST_S = 1.0
EARLY_S = 0.002  # a timer that fires a little early must not cost a whole look


class Settle:
    """Decides from a series of looks when a change is complete. Knows no clock and no file."""

    def __init__(self, settle_s: float = SETTLE_S, at_most_s: float = AT_MOST_S) -> None:
        self.settle_s = settle_s
        self.at_most_s = at_most_s
        self._taken: Look = {}
        self._last: Look = {}
        self._since_s: float | None = None  # when the change was first seen
        self._same_since_s = 0.0  # since when the looks agree

    @property
    def changed_at_s(self) -> float | None:
        """When the change that waits was first seen; None when nothing waits."""
        return self._since_s

    def quiet_s(self, now_s: float) -> float:
        """Return for how long the looks at the change that waits agree."""
        return now_s - self._same_since_s

    def take(self, look: Look) -> None:
        """What is loaded now was there at `look`: compare with it from now on."""
        self._taken = dict(look)
        self._since_s = None

    def see(self, look: Look, now_s: float, *, written: bool = False) -> bool:
        """Return whether the inputs should be loaded now. `written`: a writer has one of them open."""
        if look == self._taken:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = self._same_since_s = now_s
            self._last = look
            return False
        if look != self._last:
            self._last = look
            self._same_since_s = now_s
        return now_s - self._since_s >= self.at_most_s - EARLY_S or (
            not written and now_s - self._same_since_s >= self._patience_s(look) - EARLY_S
        )

    def _patience_s(self, look: Look) -> float:
        patience_s = self.settle_s
        for path, sign in look.items():
            before = self._taken.get(path)
            if before is None or before == sign:
                continue
            if not sign.present:
                return self.at_most_s
            if before.present and before.identity == sign.identity:
                patience_s = 2 * self.settle_s
        return patience_s
