"""Which target of a plan is tried next, and when. Decided here without clock, loop or socket; `loop` does what is said.

After a failed attempt, in the order of the code:
 1. a model that is being loaded (kind COLD at a provider with `cold_start`) is tried again there by that schedule, which no
    `retry` or `max_attempts` counts. While another target is untried the client waits for it no longer than `fail_over_after`;
 2. the prompt is too long, and the route has a chain for that (`failover.context_overflow`): its targets take the place of all
    others, once, within the same `max_attempts` and deadline;
 3. the verdict is to give up (the client's own fault, or a kind that `failover.on` does not name): that is the answer;
 4. a target of the plan was not tried yet: go there at once, nobody sleeps while another target can answer;
 5. a target may be tried again by its route's `retry`: the earliest of them is next (Retry-After, else backoff), unless that
    passes the time it has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from operator import itemgetter

from routerd.attempt.verdict import Verdict, judge
from routerd.errors import ErrorKind, UpstreamError
from routerd.graph import Backoff, ColdStart, Route
from routerd.plan import Planned

__all__ = ["Next", "Queue", "backoff_s"]


Next = tuple[Planned, float]  # the target to try, not before a moment (monotonic; 0: now)
_when = itemgetter(1)


class Queue:
    """The targets of one request."""

    __slots__ = ("_again", "_cold", "_overflow", "_patient", "_rng", "_route", "_tries", "_untried", "uncounted")

    def __init__(
        self, plan: Sequence[Planned], route: Route, rng: random.Random, overflow: Callable[[], Sequence[Planned]] | None = None
    ) -> None:
        self._untried = list(plan[::-1])
        self._overflow = overflow
        self._route = route
        self._rng = rng
        self._again: list[Next] = []
        self._patient: Next | None = None  # a cold target that the client waits for, though others are untried
        self._tries: dict[int, int] = {}
        self._cold: dict[int, tuple[int, float]] = {}  # tries at a cold target, and since when
        self.uncounted = 0  # attempts that `max_attempts` does not count

    def next(self) -> Next | None:
        """Return who is next; None when nobody is left."""
        if self._patient is not None:
            patient, self._patient = self._patient, None
            return patient
        if self._untried:
            return self._untried.pop(), 0.0
        if not self._again:
            return None
        earliest = min(self._again, key=_when)
        self._again.remove(earliest)
        return earliest

    def failed(self, planned: Planned, error: UpstreamError, now_s: float, until_s: float) -> bool:
        """Take a failure into account; tell whether to go on. `until_s`: when an attempt at this target must have ended."""
        cold = planned.provider.cold_start
        if error.kind is ErrorKind.COLD and cold is not None:
            return self._is_cold(planned, cold, error, (now_s, until_s))
        if error.kind is ErrorKind.CONTEXT_LENGTH and self._overflow is not None:
            return self._overflows(self._overflow)
        verdict = judge(error.kind, self._route.failover)
        if verdict is Verdict.GIVE_UP:
            return False
        retry = self._route.retry
        tries = self._tries[planned.index] = self._tries.get(planned.index, 0) + 1
        if verdict is Verdict.RETRY and tries < retry.attempts:
            at_s = now_s + (error.retry_after_s or backoff_s(retry.backoff, tries - 1, self._rng))
            if at_s < until_s:
                self._again.append((planned, at_s))
        return True

    def _overflows(self, plan: Callable[[], Sequence[Planned]]) -> bool:
        self._overflow = None
        self._untried = list(plan()[::-1])
        self._again.clear()
        return bool(self._untried)

    def _is_cold(self, planned: Planned, cold: ColdStart, error: UpstreamError, times: tuple[float, float]) -> bool:
        now_s, until_s = times
        tries, since_s = self._cold.get(planned.index, (0, now_s))
        tries += 1
        self._cold[planned.index] = (tries, since_s)
        wait_s = error.retry_after_s or backoff_s(cold.backoff, tries - 1, self._rng)
        wait_s = min(wait_s, cold.backoff.max_s) if cold.backoff.max_s > 0 else wait_s
        error.retry_after_s = wait_s  # what the client is told, if nobody else answers
        goes_on = judge(error.kind, self._route.failover) is not Verdict.GIVE_UP
        at_s = now_s + wait_s
        if tries >= cold.attempts or at_s >= until_s:
            return goes_on
        self.uncounted += 1
        others = goes_on and bool(self._untried)
        if not goes_on or (others and at_s - since_s <= cold.fail_over_after_s):
            self._patient = (planned, at_s)
        else:
            self._again.append((planned, at_s))
        return True


def backoff_s(backoff: Backoff, retry: int, rng: random.Random) -> float:
    """Return the wait before retry number `retry` (from 0), jittered."""
    exact = min(backoff.max_s, backoff.first_s * backoff.factor**retry)
    return exact * (1.0 + backoff.jitter_ratio * (2.0 * rng.random() - 1.0))
