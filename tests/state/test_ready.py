"""Rules of takes that were made ready: they count as the long way does, whatever else happens to their slots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.messages import Taken
from routerd.state import LocalCounters
from tests.state.hammer import Budget

NOW = 5000.0
UNIX = 1_699_999_990  # ten seconds before an hour ends
KINDS = {
    "sliding": Budget("sliding", 12, 10.0),
    "tokens": Budget("tokens", 30, 60.0, settled=True),
    "hour": Budget("hour", 25, 0.0, "hour", settled=True),
    "shadow": Budget("shadow", 5, 1.0, enforced=False),
    "held": Budget("held", 4, 0.0),
    "paced": Budget("paced", 8, 0.0, "", 5.0),
}


@pytest.fixture
def counters() -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=64, workers=2)
    yield counters
    counters.close()


def is_ready(counters: LocalCounters, meters: Sequence[Budget]) -> bool:
    return id(meters) in counters._ready


def test_the_second_take_of_a_bucket_makes_ready_and_a_new_bucket_or_a_refusal_goes_the_long_way(counters: LocalCounters) -> None:
    meters = (Budget("a", 4, 32.0), Budget("b", 9, 320.0))
    assert counters.take(meters, [1, 1], NOW).used == (1, 1)
    assert not is_ready(counters, meters)
    assert counters.take(meters, [1, 1], NOW).used == (2, 2)
    assert is_ready(counters, meters)
    assert counters.take(meters, [1, 1], NOW).used == (3, 3)
    assert counters.take(meters, [1, 1], NOW + 1.5).used == (4, 4)
    refused = counters.take(meters, [1, 1], NOW + 1.5)
    assert (refused.refused, refused.used) == (0, (4, 4))
    assert counters.take(meters, [1, 1], NOW + 33.5).used == (2, 5)


@pytest.mark.parametrize("other", [Budget("a", 9, 5.0), Budget("a", 9, 0.0, "day")])
def test_a_slot_that_is_counted_in_another_way_now_is_not_taken_from_as_before(counters: LocalCounters, other: Budget) -> None:
    meters = (Budget("a", 9, 10.0),)
    for _ in range(3):
        counters.take(meters, [1], NOW)
    counters.take([other], [1], NOW)
    assert counters.take(meters, [1], NOW).refused < 0
    assert counters.used(meters[0], NOW) <= 5


def test_what_makes_a_slot_anothers_is_seen() -> None:
    counters = LocalCounters.create(slots=1, workers=2)
    other = LocalCounters.attach(os.dup(counters.fd), worker=1)
    meters = (Budget("a", 9, 1.0),)
    for _ in range(3):
        counters.take(meters, [1], NOW)
    late = NOW + 1.0 / 32 * 40
    assert other.take([Budget("b", 9, 1.0)], [5], late).handles[0][0]
    assert counters.take(meters, [1], NOW).handles == ((0, 0, 0, 0),)  # a clock that lags: it has not passed the end
    assert other.used(Budget("b", 9, 1.0), late) == 5
    other.close()
    counters.close()


def test_other_workers_share_what_is_held(counters: LocalCounters) -> None:
    other = LocalCounters.attach(os.dup(counters.fd), worker=1)
    for meters in ((Budget("s", 3, 0.0),), (Budget("w", 99, 3600.0), Budget("s", 3, 0.0))):
        mine = [counters.take(meters, [1] * len(meters), NOW) for _ in range(2)]
        assert is_ready(counters, meters)
        theirs = other.take(meters, [1] * len(meters), NOW)
        assert theirs.used[-1] == 3
        assert counters.take(meters, [1] * len(meters), NOW).refused == len(meters) - 1
        other.settle(meters, theirs.handles, [1] * len(meters), [1] * (len(meters) - 1) + [0], NOW)
        mine.append(counters.take(meters, [1] * len(meters), NOW))
        assert mine[-1].used[-1] == 3
        for taken in mine:
            counters.settle(meters, taken.handles, [1] * len(meters), [1] * (len(meters) - 1) + [0], NOW)
    other.close()


def test_only_so_many_are_kept_ready(counters: LocalCounters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerd.state.local.MOST_READY", 3)
    kept = [(Budget(f"b{i}", 9),) for i in range(5)]
    for meters in kept:
        counters.take(meters, [1], NOW)
        counters.take(meters, [1], NOW)
    assert [is_ready(counters, meters) for meters in kept] == [False, False, True, True, True]
    assert [counters.take(meters, [1], NOW).used for meters in kept] == [(3,)] * 5


class Both:
    """The same history in two tables: the one is asked with the same meters each time, the other with a list of its own."""

    def __init__(self, workers: int) -> None:
        self.unix_s = float(UNIX)
        self.tables: list[list[LocalCounters]] = []
        for _ in range(2):
            crew = [LocalCounters.create(slots=64, workers=workers, unix=lambda: self.unix_s)]
            crew += [LocalCounters.attach(os.dup(crew[0].fd), worker=i) for i in range(1, workers)]
            for one in crew:
                one._unix = crew[0]._unix
            self.tables.append(crew)
        self.open: list[list[tuple[tuple[Budget, ...], Sequence[int], tuple[Taken, Taken]]]] = [[] for _ in range(workers)]

    def take(self, worker: int, meters: tuple[Budget, ...], amounts: tuple[int, ...], now_s: float) -> None:
        ready, slow = self.tables[0][worker].take(meters, amounts, now_s), self.tables[1][worker].take([*meters], amounts, now_s)
        assert ready[1:] == slow[1:]
        if ready.refused < 0:
            self.open[worker].append((meters, amounts, (ready, slow)))

    def settle(self, worker: int, which: int, used: int, now_s: float) -> None:
        if not self.open[worker]:
            return
        meters, amounts, both = self.open[worker].pop(which % len(self.open[worker]))
        left = [used if m.settled else 0 if m is KINDS["held"] else a for m, a in zip(meters, amounts, strict=True)]
        for crew, taken in zip(self.tables, both, strict=True):
            crew[worker].settle(meters, taken.handles, amounts, left, now_s)

    def die(self, worker: int) -> None:
        """Let a worker die, and another one take its place."""
        if len(self.open) > 1:
            assert len({crew[1 - worker].drop_worker(worker) for crew in self.tables}) == 1
            for crew in self.tables:
                crew[worker] = LocalCounters.attach(os.dup(crew[1 - worker].fd), worker=worker)
                crew[worker]._unix = crew[1 - worker]._unix
            self.open[worker] = []

    def agree(self, now_s: float) -> None:
        for meter in KINDS.values():
            assert len({one.used(meter, now_s) for crew in self.tables for one in crew}) == 1, meter.name

    def close(self) -> None:
        for crew in self.tables:
            for one in crew:
                one.close()


bills = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4, unique=True)
steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "settle", "die"]),
        st.integers(0, 1),
        st.integers(0, 7),
        st.integers(1, 6),
        st.sampled_from([0, 0, 0, 1_000, 40_000, 400_000, 5_000_000]),
    ),
    max_size=60,
)


@given(st.lists(bills, min_size=1, max_size=3), steps, st.integers(1, 2), st.integers(0, 300_000))
@settings(max_examples=250, deadline=None)
def test_what_was_made_ready_counts_as_the_long_way_does(
    names: list[list[str]], plan: list[tuple[str, int, int, int, int]], workers: int, lag_us: int
) -> None:
    both, now_us = Both(workers), 5_000_000_000
    made = [tuple(KINDS[name] for name in some) for some in names]
    for what, worker, number, amount, step_us in plan:
        worker %= workers
        now_us += step_us
        both.unix_s += step_us / 1e6
        now_s = (now_us - lag_us * worker) / 1e6  # the clock of the second one lags
        if what == "take":
            meters = made[number % len(made)]
            both.take(worker, meters, tuple(amount if meter.settled else 1 for meter in meters), now_s)
        elif what == "settle":
            both.settle(worker, number, amount - 1 if number % 3 else amount + 2, now_s)
        else:
            both.die(worker)
    both.agree(now_us / 1e6)
    both.close()
