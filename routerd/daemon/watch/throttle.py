"""How often a storm of changes is built. Pure: the watcher asks at each look.

1. The first change is built at once.
2. Between two builds lie at least 250 ms. While changes keep coming this doubles with each build, up to 5 s.
3. Inputs that stayed the same for 200 ms may be the last change: they wait for the 250 ms only, however long the storm was. So
   after 1,000 writes in 5 s the last one serves 200 ms of quiet, one look and one build later, below 500 ms.
4. A change that was first seen a second or more after the last build is the first one of its own: the storm before is over.
Changes without any pause are built by force after 1 s (`watch.settle`), and then as seldom as the interval says.
"""

from __future__ import annotations

__all__ = ["Throttle"]

FIRST_S = 0.25
MOST_S = 5.0
CALM_S = 0.2
OVER_S = 1.0


class Throttle:
    """The pace of builds for changes of files."""

    def __init__(self) -> None:
        self.interval_s = FIRST_S
        self._built_at_s: float | None = None
        self._not_before_s = 0.0

    def wait_s(self, now_s: float, quiet_s: float) -> float:
        """Return how long a change must still wait that has not changed again for `quiet_s`; 0: build it now."""
        if self._built_at_s is None:
            return max(0.0, self._not_before_s - now_s)
        storm_s = self._built_at_s + self.interval_s - now_s
        calm_s = max(CALM_S - quiet_s, self._built_at_s + FIRST_S - now_s)
        return max(0.0, min(storm_s, calm_s), self._not_before_s - now_s)

    def built(self, seen_at_s: float, ended_s: float) -> None:
        """Count one build, of a change that was first seen at `seen_at_s`."""
        if self._built_at_s is not None:
            over = seen_at_s - self._built_at_s >= OVER_S
            self.interval_s = FIRST_S if over else min(MOST_S, 2 * self.interval_s)
        self._built_at_s = ended_s

    def hold(self, until_s: float) -> None:
        """Build nothing before `until_s`."""
        self._not_before_s = until_s

    def storms(self, now_s: float) -> bool:
        """Return whether changes come so fast that builds are spaced out."""
        last_s = self._built_at_s
        return self.interval_s > FIRST_S and last_s is not None and now_s - last_s < self.interval_s + OVER_S
