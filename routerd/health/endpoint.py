"""What all workers know of one endpoint: its in-flight requests, cooldown, breaker, drain, probe, load and latency.

The words are shared memory (`state.board` gives them): a head that every process writes, and a column for each worker. A change
of one word needs no lock, of several the board's; counting an outcome touches only the worker's own column. FLAGS is 0 for an
endpoint with nothing against it: a plan pays one read for it. What ends by time is cleared by whoever sees that it has ended.

The breaker, a circuit breaker over a sliding window of four buckets a worker:
    closed      at least `min_requests` outcomes in the window, `failure_ratio` of them failed  -> open
    open        for `open_for`; behind the others, no outcome counts                            -> half-open
    half-open   a share of the requests that grows to all of them over `ramp`. A fifth of `min_requests` outcomes, but at least
                two, decide: the ratio failed -> open; the ramp ends                            -> closed
An outcome of an attempt that began before the last change tells nothing of now and does not count. Times are monotonic
microseconds; 0 means never. Which failures count is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

from routerd.graph import Breaker
from routerd.messages import COOLING, DOWN, DRAINED, FREE, OPEN, Standing

__all__ = ["COLUMN_WORDS", "HEAD_WORDS", "REASONS", "EndpointState"]

# The words of a head; the first three are the board's.
FLAGS, COOL_UNTIL, COOL_WHY, OPEN_UNTIL, SINCE, OPENINGS, SLOW_FROM = 3, 4, 5, 6, 7, 8, 9
LATENCY, LATENCY_AT, RUNNING, WAITING, LOAD_AT, LOAD_OWN, LOAD_FOR, ADOPTED, CACHE = 10, 11, 12, 13, 14, 15, 16, 17, 18
HEAD_WORDS = 32

# The words of a column: requests in flight, then four buckets of (begun at, outcomes, failures).
INFLIGHT, BUCKETS_FROM = 0, 1
BUCKETS, BEGUN, OUTCOMES, FAILURES, BUCKET_WORDS = 4, 0, 1, 2, 3
COLUMN_WORDS = 16

IS_COOLING, IS_OPEN, IS_DOWN, IS_DRAINED, IS_SLOW = 1, 2, 4, 8, 16

REASONS = ("", "rate_limited", "auth", "credits", "used_up")  # why an endpoint cools down; unknown ones are ""
MIN_SHARE = 0.05  # the ramp and the slow start begin with one request in twenty, not with none
LATENCY_TAU_S = 10.0  # the weight of an old latency falls to a third in this time, and so does a peak

_DRAINED = Standing(DRAINED)


class EndpointState:
    """The words of one endpoint, and the thresholds as the newest generation has them."""

    __slots__ = (
        "_bucket",
        "_column",
        "_inflights",
        "_lock",
        "_width_us",
        "_window_us",
        "_workers",
        "breaker",
        "slow_start_s",
        "words",
    )

    def __init__(self, words: memoryview, worker: int, workers: int, lock: Callable[[], AbstractContextManager[None]]) -> None:
        self.words = words
        self._workers = workers
        self._column = HEAD_WORDS + COLUMN_WORDS * max(worker, 0)
        self._inflights = words[HEAD_WORDS::COLUMN_WORDS]
        self._lock = lock
        first = self._column + BUCKETS_FROM  # a worker goes on where one of the same number ended
        self._bucket = max(range(first, first + BUCKETS * BUCKET_WORDS, BUCKET_WORDS), key=words.__getitem__)
        self.slow_start_s = 0.0
        self.configure(Breaker(), 0.0)

    def configure(self, breaker: Breaker, slow_start_s: float) -> None:
        """Take over new thresholds; they apply to the counts at hand."""
        self.breaker = breaker
        self.slow_start_s = slow_start_s
        self._window_us = int(breaker.window_s * 1e6)
        self._width_us = self._window_us // BUCKETS

    def adopt(self, now_s: float, slowly: bool) -> None:
        """Take it up in this process. The first process that sees a new endpoint begins its slow start, if `slowly`."""
        with self._lock():
            is_new = not self.words[ADOPTED]
            self.words[ADOPTED] = 1
        if is_new and slowly:
            self.start_slowly(now_s)

    # ── in flight ──

    def begin(self) -> None:
        """Count one request more."""
        self.words[self._column] += 1

    def end(self) -> None:
        """Count one request less."""
        held = self.words[self._column]
        if held > 0:
            self.words[self._column] = held - 1

    @property
    def inflight(self) -> int:
        """Requests in flight over all workers."""
        return sum(self._inflights)

    # ── outcomes ──

    def succeeded(self, started_s: float, now_s: float) -> None:
        """Count a good outcome of an attempt that began at `started_s`."""
        words = self.words
        since = words[SINCE]
        if started_s * 1e6 < since:
            return
        at, now_us = self._bucket, int(now_s * 1e6)
        begun = words[at]
        if now_us - begun >= self._width_us or begun < since or not begun:
            at = self._turn(now_us)
        words[at + OUTCOMES] += 1

    def failed(self, started_s: float, now_s: float) -> bool:
        """Count a failure; return whether it opened the breaker."""
        words = self.words
        since = words[SINCE]
        if started_s * 1e6 < since or not self.breaker.enabled:
            return False
        self.succeeded(started_s, now_s)
        words[self._bucket + FAILURES] += 1
        now_us = int(now_s * 1e6)
        outcomes, failures = self.outcomes(now_s)
        needed = self.breaker.min_requests
        if since > 0 and now_us - since < self.breaker.ramp_s * 1e6:
            needed = max(2, math.ceil(needed / 5))
        if outcomes < needed or failures < self.breaker.failure_ratio * outcomes:
            return False
        with self._lock():
            if words[SINCE] != since:  # another worker was first
                return False
            until = now_us + int(self.breaker.open_for_s * 1e6)
            words[OPEN_UNTIL] = words[SINCE] = until
            words[OPENINGS] += 1
            words[FLAGS] |= IS_OPEN
        return True

    def outcomes(self, now_s: float) -> tuple[int, int]:
        """Return the outcomes and the failures in the window, over all workers."""
        words = self.words
        oldest = max(words[SINCE], int(now_s * 1e6) - self._window_us, 1)
        outcomes = failures = 0
        for column in range(HEAD_WORDS, HEAD_WORDS + COLUMN_WORDS * self._workers, COLUMN_WORDS):
            first = column + BUCKETS_FROM
            for at in range(first, first + BUCKETS * BUCKET_WORDS, BUCKET_WORDS):
                if words[at] >= oldest:
                    outcomes += words[at + OUTCOMES]
                    failures += words[at + FAILURES]
        return outcomes, failures

    def _turn(self, now_us: int) -> int:
        """Begin the next bucket and return where it is."""
        words, first = self.words, self._column + BUCKETS_FROM
        at = first + (self._bucket - first + BUCKET_WORDS) % (BUCKETS * BUCKET_WORDS)
        words[at] = 0  # a reader in between finds an empty bucket
        words[at + OUTCOMES] = words[at + FAILURES] = 0
        words[at] = now_us
        self._bucket = at
        return at

    # ── standing ──

    def standing(self, now_s: float) -> Standing | None:
        """Return what stands against the endpoint; None, the usual case, when nothing does."""
        words = self.words
        flags = words[FLAGS]
        if not flags:
            return None
        if flags & IS_DRAINED:
            return _DRAINED
        now_us = int(now_s * 1e6)
        rank, ended, open_share, slow_share = FREE, 0, 1.0, 1.0
        if flags & IS_COOLING:
            if words[COOL_UNTIL] > now_us:
                rank = COOLING
            else:
                ended |= IS_COOLING
        if flags & IS_OPEN:
            if words[OPEN_UNTIL] > now_us:
                rank = OPEN
            else:
                open_share = _share(now_us - words[OPEN_UNTIL], self.breaker.ramp_s)
            if (open_share >= 1.0 and rank != OPEN) or not self.breaker.enabled:
                ended |= IS_OPEN
        if flags & IS_DOWN:
            rank = DOWN
        if flags & IS_SLOW:
            slow_share = _share(now_us - words[SLOW_FROM], self.slow_start_s)
            if slow_share >= 1.0:
                ended |= IS_SLOW
        if ended:
            self._clear(ended, now_us)
            if not flags & ~ended:
                return None
        return Standing(rank, open_share, slow_share)

    def cooling(self, now_s: float) -> float:
        """Return the end of the cooldown, or 0.0."""
        until_s = self.words[COOL_UNTIL] / 1e6
        return until_s if until_s > now_s else 0.0

    def cool(self, until_s: float, why: str) -> None:
        """Let it cool down until then; a cooldown that runs is never shortened."""
        until = int(until_s * 1e6)
        with self._lock():
            if until > self.words[COOL_UNTIL]:
                self.words[COOL_UNTIL] = until
                self.words[COOL_WHY] = REASONS.index(why) if why in REASONS else 0
                self.words[FLAGS] |= IS_COOLING

    def drain(self, drained: bool, now_s: float) -> None:
        """Take it out by hand, or let it come back."""
        self._mark(IS_DRAINED, drained, now_s)

    def probed(self, up: bool, now_s: float) -> None:
        """Note the verdict of the active probe."""
        self._mark(IS_DOWN, not up, now_s)

    def start_slowly(self, now_s: float) -> None:
        """Begin a slow start, where one is configured."""
        if self.slow_start_s > 0:
            with self._lock():
                self.words[SLOW_FROM] = int(now_s * 1e6)
                self.words[FLAGS] |= IS_SLOW

    @property
    def is_well(self) -> bool:
        """Whether nothing was against it lately; what has ended by time may still be noted."""
        return not self.words[FLAGS]

    @property
    def is_drained(self) -> bool:
        """Whether it was taken out by hand."""
        return bool(self.words[FLAGS] & IS_DRAINED)

    @property
    def is_down(self) -> bool:
        """Whether its probe fails."""
        return bool(self.words[FLAGS] & IS_DOWN)

    @property
    def has_opened(self) -> bool:
        """Whether its breaker is open or half open; by time it may have closed meanwhile."""
        return bool(self.words[FLAGS] & IS_OPEN)

    def _mark(self, flag: int, value: bool, now_s: float) -> None:
        with self._lock():
            before = bool(self.words[FLAGS] & flag)
            self.words[FLAGS] = self.words[FLAGS] | flag if value else self.words[FLAGS] & ~flag
        if before and not value:
            self.start_slowly(now_s)

    def _clear(self, ended: int, now_us: int) -> None:
        """Take away what has ended, unless another process has just begun it anew."""
        words = self.words
        with self._lock():
            if words[COOL_UNTIL] > now_us:
                ended &= ~IS_COOLING
            if words[OPEN_UNTIL] > now_us and self.breaker.enabled:
                ended &= ~IS_OPEN
            words[FLAGS] &= ~ended

    # ── latency and load ──

    def timed(self, took_s: float, now_s: float) -> None:
        """Note a time to the first byte or token: a peak counts at once, anything lower by its age (peak EWMA).

        Workers may overwrite each other's: the value stays one that was measured.
        """
        words, now_us, took_us = self.words, int(now_s * 1e6), took_s * 1e6
        old = words[LATENCY]
        if took_us < old:
            kept = math.exp((words[LATENCY_AT] - now_us) / (LATENCY_TAU_S * 1e6))
            took_us += (old - took_us) * min(1.0, kept)
        words[LATENCY] = max(1, int(took_us))
        words[LATENCY_AT] = now_us

    def latency(self, now_s: float) -> float:
        """Return the latency in seconds, 0.0 if none was measured; it fades, so that a slow endpoint is asked again."""
        latency = self.words[LATENCY]
        if not latency:
            return 0.0
        age_us = max(0, int(now_s * 1e6) - self.words[LATENCY_AT])
        return latency / 1e6 * math.exp(-age_us / (LATENCY_TAU_S * 1e6))

    def loaded(self, running: int, waiting: int, cache_ratio: float | None, for_s: float, now_s: float) -> None:
        """Note the engine's own gauges; they hold for `for_s`. `cache_ratio`: how full its cache is, if it says so."""
        words = self.words
        words[LOAD_AT] = 0  # a reader in between finds none
        words[RUNNING], words[WAITING], words[LOAD_OWN] = running, waiting, self.inflight
        words[LOAD_FOR] = int(for_s * 1e6)
        words[CACHE] = -1 if cache_ratio is None else int(cache_ratio * 1000)
        words[LOAD_AT] = int(now_s * 1e6)

    def load(self, now_s: float) -> int | None:
        """Return the engine's requests now: its gauges, plus what we sent or finished since; None when they are old."""
        words = self.words
        at = words[LOAD_AT]
        if not at or int(now_s * 1e6) - at > words[LOAD_FOR]:
            return None
        own = self.inflight
        return int(max(own, words[RUNNING] + words[WAITING] + own - words[LOAD_OWN]))

    def cache_ratio(self, now_s: float) -> float | None:
        """Return how full the engine's cache is, None when it does not say or its gauges are old."""
        ratio = self.words[CACHE]
        return None if ratio < 0 or self.load(now_s) is None else ratio / 1000


def _share(since_us: int, length_s: float) -> float:
    """Return the share of a ramp that began `since_us` ago."""
    return 1.0 if since_us >= length_s * 1e6 else max(MIN_SHARE, since_us / (length_s * 1e6))
