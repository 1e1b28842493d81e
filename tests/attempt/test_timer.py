"""Phase timers under a clock that only the test moves: never early, at most one tick late."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from routerd.attempt.timer import TICK_S, Bounds, Ticker
from tests.attempt.fakes import START_S, Clock, ticker_of

NEVER = ("", math.inf, 0.0)
SLACK_S = 1e-6  # sums of floats


class Timer(Bounds):
    """Calls `tell(phase, length_s)`."""

    def __init__(self, ticker: Ticker, tell: Callable[[str, float], None], cap: tuple[str, float, float]) -> None:
        super().__init__(ticker, cap)
        self._tell = tell

    def expired(self, phase: str, length_s: float) -> None:
        self._tell(phase, length_s)


class Bench:
    """A clock, its ticker, and what expired: (phase, length, when since the start)."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ticker = ticker_of(self.clock)
        self.expired: list[tuple[str, float, float]] = []

    def timer(self, cap: tuple[str, float, float] = NEVER) -> Timer:
        return Timer(self.ticker, lambda phase, s: self.expired.append((phase, s, self.clock.now_s - START_S)), cap)


@given(lengths=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=8), lag_s=st.floats(0.0, TICK_S))
def test_a_timer_expires_once_never_early_and_at_most_one_tick_late(lengths: list[float], lag_s: float) -> None:
    bench = Bench()
    bench.timer().enter("first", START_S, 0.01)  # the ticks are under way when the others begin
    bench.clock.advance(lag_s)
    for length_s in lengths:
        bench.timer().enter("phase", bench.clock.now_s, length_s)
    bench.clock.advance(3.0)
    found = sorted((length_s, at_s) for phase, length_s, at_s in bench.expired if phase == "phase")
    assert [length_s for length_s, _ in found] == sorted(lengths)
    assert all(-SLACK_S <= at_s - lag_s - length_s <= TICK_S + SLACK_S for length_s, at_s in found)


def test_the_cap_beats_a_longer_phase_and_is_named_with_its_own_length() -> None:
    bench = Bench()
    bench.timer(("deadline", START_S + 0.5, 2.5)).enter("first_byte", START_S, 60.0)
    bench.clock.advance(60.0)
    assert [expired[:2] for expired in bench.expired] == [("deadline", 2.5)]
    assert 0.5 - SLACK_S <= bench.expired[0][2] <= 0.5 + TICK_S + SLACK_S


def test_a_shorter_phase_beats_the_cap() -> None:
    bench = Bench()
    bench.timer(("total", START_S + 10.0, 10.0)).enter("idle", START_S, 1.0)
    bench.clock.advance(20.0)
    assert [expired[:2] for expired in bench.expired] == [("idle", 1.0)]


def test_touch_moves_the_phase_but_never_past_the_cap() -> None:
    bench = Bench()
    timer = bench.timer(("total", START_S + 5.0, 5.0))
    timer.enter("idle", START_S, 1.0)
    for _ in range(9):
        bench.clock.advance(0.5)
        timer.touch(bench.clock.now_s)
        assert not bench.expired
    bench.clock.advance(5.0)
    assert [expired[:2] for expired in bench.expired] == [("total", 5.0)]


def test_a_new_cap_counts_from_the_next_phase_on() -> None:
    bench = Bench()
    timer = bench.timer(("deadline", START_S + 1.0, 1.0))
    timer.enter("first_token", START_S, 60.0)
    timer.cap("", math.inf, 0.0)
    timer.enter("idle", START_S, 3.0)
    bench.clock.advance(2.0)
    assert not bench.expired
    bench.clock.advance(2.0)
    assert [expired[:2] for expired in bench.expired] == [("idle", 3.0)]


def test_a_stopped_timer_is_forgotten() -> None:
    bench = Bench()
    timer = bench.timer()
    timer.enter("idle", START_S, 1.0)
    timer.lift()
    timer.lift()
    bench.clock.advance(5.0)
    assert not bench.expired


def test_an_expiry_that_stops_another_due_timer_is_heeded() -> None:
    bench = Bench()
    timers: list[Timer] = []
    told: list[str] = []

    def expire(phase: str, length_s: float) -> None:
        told.append(phase)
        for timer in timers:
            timer.lift()

    timers.extend(Timer(bench.ticker, expire, NEVER) for _ in range(3))
    for timer in timers:
        timer.enter("idle", START_S, 1.0)
    bench.clock.advance(5.0)
    assert told == ["idle"]


def test_the_clock_ticks_only_while_somebody_waits() -> None:
    bench = Bench()
    assert bench.clock.armed == 0
    timer = bench.timer()
    timer.enter("idle", START_S, 1.0)
    other = bench.timer()
    other.enter("idle", START_S, 1.0)
    assert bench.clock.armed == 1  # one for all
    timer.lift()
    other.lift()
    bench.clock.advance(TICK_S * 2)
    assert bench.clock.armed == 0
    bench.timer().enter("idle", bench.clock.now_s, 1.0)  # and wakes again
    bench.clock.advance(2.0)
    assert len(bench.expired) == 1
    assert bench.clock.armed == 0
