"""Is a new generation worse than the one before? Pure: control brings counts and time, and rolls back when told to.

Rule: within `for_s` of its swap, a generation that ended at least `min_requests` and failed more than `max_error_ratio` of them
is rolled back, unless the one before failed more than that, too, in as long a time before the swap: then the fault is not the
edit's. Ended and failed are counted where a request reached a target: `ok`, `upstream_error` and `truncated`; what the client did
wrong, or a budget refused, says nothing about a configuration. Who comes during a probation is measured against the same good
generation, not against one that is on probation itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from routerd.graph import Probation

__all__ = ["Baseline", "Count", "Trial"]

REMEMBERED_S = 600.0


@dataclass(frozen=True, slots=True)
class Count:
    """Requests of one generation that ended, and those that failed."""

    ended: int = 0
    failed: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.ended + other.ended, self.failed + other.failed)

    def __sub__(self, other: Count) -> Count:
        return Count(self.ended - other.ended, self.failed - other.failed)

    @property
    def error_ratio(self) -> float:
        """The part that failed; 0 of nothing."""
        return self.failed / self.ended if self.ended else 0.0

    def __str__(self) -> str:
        return f"{self.failed} of {self.ended} requests"


class Baseline:
    """What the generation that serves did lately, so that the next one can be compared with it."""

    def __init__(self) -> None:
        self.number = 0
        self._samples: deque[tuple[float, Count]] = deque()

    def sample(self, number: int, count: Count, now_s: float) -> None:
        """Take the count of the generation that serves; to be called each second or so."""
        if number != self.number:
            self.number = number
            self._samples.clear()
            self._samples.append((now_s, Count()))
        self._samples.append((now_s, count))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - REMEMBERED_S:
            self._samples.popleft()

    def over(self, length_s: float) -> Count:
        """Return what ended in the last `length_s` before the last sample."""
        if not self._samples:
            return Count()
        end_s, end = self._samples[-1]
        begin = next((count for at_s, count in reversed(self._samples) if at_s <= end_s - length_s), self._samples[0][1])
        return end - begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One generation on probation. `before` and `before_count`: the one to go back to, and what it did in as long a time."""

    number: int
    policy: Probation
    before: int
    before_count: Count
    began_s: float

    def over(self, now_s: float) -> bool:
        """Return whether it has passed."""
        return now_s - self.began_s >= self.policy.for_s

    def fails(self, count: Count) -> bool:
        """Return whether it did so badly that it must go."""
        limit = self.policy.max_error_ratio
        return (
            count.ended >= self.policy.min_requests
            and count.error_ratio > limit
            and not self.before_count.error_ratio > limit
        )

    def as_json(self, counts: Mapping[int, Count], now_s: float) -> dict[str, float]:
        """Return it with plain values."""
        count = counts.get(self.number, Count())
        return {
            "generation": self.number,
            "back_to": self.before,
            "left_s": round(max(0.0, self.began_s + self.policy.for_s - now_s), 3),
            "ended": count.ended,
            "failed": count.failed,
            "error_ratio": round(count.error_ratio, 4),
            "error_ratio_before": round(self.before_count.error_ratio, 4),
        }
