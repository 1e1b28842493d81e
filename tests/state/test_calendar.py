"""Rules of calendar windows: they end when the calendar says, and an edit of the window forgets nothing."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.state import LocalCounters, calendar, period, window
from routerd.state.table import BUCKETS, DATA, DIRTY
from tests.state.hammer import Budget
from tests.state.test_window import Killed, Mortal

NOW = 5000.0
DAY_S = 86400


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


class Wall:
    """A wall clock that the test turns."""

    def __init__(self, text: str) -> None:
        self.unix_s = float(unix(text))

    def __call__(self) -> float:
        return self.unix_s


@pytest.fixture
def wall() -> Wall:
    return Wall("2026-03-31T22:30:00")


@pytest.fixture
def counters(wall: Wall) -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=64, workers=2, unix=wall)
    yield counters
    counters.close()


def per(word: str, limit: int = 3, name: str = "b") -> Budget:
    return Budget(name, limit, 0.0, word)


def take(counters: LocalCounters, budget: Budget, amount: int = 1, now_s: float = NOW) -> bool:
    return counters.take([budget], [amount], now_s).refused < 0


@pytest.mark.parametrize(
    ("word", "moment", "begin", "end"),
    [
        ("hour", "2026-03-31T22:30:00", "2026-03-31T22:00:00", "2026-03-31T23:00:00"),
        ("day", "2026-03-31T22:30:00", "2026-03-31T00:00:00", "2026-04-01T00:00:00"),
        ("week", "2026-03-31T22:30:00", "2026-03-30T00:00:00", "2026-04-06T00:00:00"),
        ("week", "2026-03-30T00:00:00", "2026-03-30T00:00:00", "2026-04-06T00:00:00"),
        ("week", "2026-03-29T23:59:59", "2026-03-23T00:00:00", "2026-03-30T00:00:00"),
        ("month", "2026-03-31T22:30:00", "2026-03-01T00:00:00", "2026-04-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ],
)
def test_the_periods_are_those_of_the_calendar_in_utc(word: str, moment: str, begin: str, end: str) -> None:
    assert period(word, unix(moment)) == (unix(begin), unix(end))


@given(st.sampled_from(["hour", "day", "week", "month"]), st.integers(0, 4_000_000_000))
def test_periods_follow_each_other_without_a_gap(word: str, unix_s: int) -> None:
    begin, end = period(word, unix_s)
    assert begin <= unix_s < end
    assert period(word, end)[0] == end
    assert period(word, begin - 1)[1] == begin if begin else True


def test_all_is_there_again_when_the_period_ends_and_not_before(counters: LocalCounters, wall: Wall) -> None:
    assert [take(counters, per("day")) for _ in range(4)] == [True] * 3 + [False]
    refused = counters.take([per("day")], [1], NOW)
    assert refused.retry_after_s == 90 * 60
    wall.unix_s += 90 * 60 - 1
    assert not take(counters, per("day"))
    wall.unix_s += 1
    assert [take(counters, per("day")) for _ in range(4)] == [True] * 3 + [False]


def test_more_than_the_limit_never_fits(counters: LocalCounters) -> None:
    assert counters.take([per("day")], [4], NOW).retry_after_s == float("inf")


def test_settling_counts_for_the_period_of_the_take_only(counters: LocalCounters, wall: Wall) -> None:
    budget = per("hour", 100)
    first = counters.take([budget], [80], NOW)
    second = counters.take([budget], [10], NOW)
    counters.settle([budget], [first.handles[0]], [80], [15], NOW)
    assert counters.used(budget, NOW) == 25
    wall.unix_s += 3600
    assert take(counters, budget, 50)
    counters.settle([budget], [second.handles[0]], [10], [0], NOW)
    assert counters.used(budget, NOW) == 50


def test_more_than_was_reserved_is_added(counters: LocalCounters) -> None:
    budget = per("hour", 100)
    taken = counters.take([budget], [80], NOW)
    counters.settle([budget], [taken.handles[0]], [80], [130], NOW)
    assert counters.used(budget, NOW) == 130


def test_a_wall_clock_that_is_set_back_refills_nothing(counters: LocalCounters, wall: Wall) -> None:
    assert take(counters, per("day"), 3)
    wall.unix_s -= 2 * DAY_S
    assert not take(counters, per("day"))
    wall.unix_s += 2 * DAY_S
    assert not take(counters, per("day"))


SLIDING = Budget("b", 3, 86400.0)
FORMS = [per("hour"), per("day"), per("month"), SLIDING]


@pytest.mark.parametrize("before", FORMS, ids=lambda b: b.calendar or "sliding")
@pytest.mark.parametrize("after", FORMS, ids=lambda b: b.calendar or "sliding")
def test_another_window_keeps_what_is_used(counters: LocalCounters, before: Budget, after: Budget) -> None:
    assert take(counters, before, 2)
    assert take(counters, after)
    assert not take(counters, after)
    assert counters.used(after, NOW) == 3


def test_a_longer_calendar_window_takes_over_and_ends_at_its_own_end(counters: LocalCounters, wall: Wall) -> None:
    assert take(counters, per("hour"), 3)
    assert not take(counters, per("week"))
    wall.unix_s += 3600
    assert not take(counters, per("week"))
    wall.unix_s += 7 * DAY_S
    assert take(counters, per("week"))


def test_what_a_period_that_is_over_counted_does_not_begin_to_slide(counters: LocalCounters, wall: Wall) -> None:
    assert take(counters, per("hour"), 3)
    wall.unix_s += 3600
    assert counters.used(SLIDING, NOW + 3600) == 0


def test_what_slid_out_does_not_count_for_the_day(counters: LocalCounters) -> None:
    short = Budget("b", 3, 1.0)
    assert take(counters, short, 3)
    assert counters.used(per("day"), NOW + 2) == 0


def test_a_lease_from_before_the_change_of_the_window_is_settled_without_harm(counters: LocalCounters) -> None:
    sliding = counters.take([SLIDING], [2], NOW)
    assert counters.used(per("day"), NOW) == 2
    counters.settle([SLIDING], [sliding.handles[0]], [2], [0], NOW)
    assert counters.used(per("day"), NOW) == 2  # it cannot be told apart any more: it stays
    daily = counters.take([per("day")], [1], NOW)
    assert counters.used(SLIDING, NOW) == 3
    counters.settle([per("day")], [daily.handles[0]], [1], [0], NOW)
    assert counters.used(SLIDING, NOW) == 3
    counters.settle([SLIDING], [(sliding.handles[0][0], -1, 0, -1)], [2], [5], NOW)  # more than reserved is added in any form
    assert counters.used(SLIDING, NOW) == 6


def test_a_slot_of_a_period_that_is_over_may_go_to_another_key(wall: Wall) -> None:
    counters = LocalCounters.create(slots=1, workers=1, unix=wall)
    assert take(counters, per("hour", name="a"))
    assert counters.take([per("hour", name="b")], [1], NOW).handles == ((0, 0, 0, 0),)
    wall.unix_s += 3600
    assert counters.take([per("hour", name="b")], [1], NOW).handles != ((0, 0, 0, 0),)
    counters.close()


def test_a_kill_amid_the_change_of_the_window_forgets_nothing() -> None:
    bounds, unix_s, now_us = (0, 3600), 1800, 50_000
    for stores in range(60):
        mortal = Mortal(array("q", [0] * (DATA + BUCKETS)), 10**9)
        words: memoryview[int] = mortal  # type: ignore[assignment]
        window.advance(words, 0, 1000, now_us)
        window.add(words, 0, 7)
        mortal.left = stores
        try:
            calendar.advance(words, 0, bounds, unix_s, now_us)
        except Killed:
            pass
        mortal.left = 10**9
        assert calendar.advance(words, 0, bounds, unix_s, now_us) == 7
        mortal.left = stores
        try:
            window.advance(words, 0, 1000, now_us)
        except Killed:
            pass
        mortal.left = 10**9
        assert window.advance(words, 0, 1000, now_us) == 7
        assert mortal.words[DIRTY] == 0
