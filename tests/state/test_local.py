"""Rules of the counters: all or nothing, honest waits, kept over edits, bounded in a full table."""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.state import LocalCounters
from routerd.state.table import FEW_WORKERS
from tests.state.hammer import Budget

NOW = 5000.0


@pytest.fixture(params=[None, lambda flush: None], ids=["at once", "late"])
def counters(request: pytest.FixtureRequest) -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=64, workers=3, soon=request.param)
    yield counters
    counters.close()


def take(counters: LocalCounters, budget: Budget, amount: int = 1, now_s: float = NOW) -> bool:
    return counters.take([budget], [amount], now_s).refused < 0


def test_the_limit_passes_and_one_more_does_not(counters: LocalCounters) -> None:
    budget = Budget("b", 3, 60.0)
    assert [take(counters, budget) for _ in range(5)] == [True, True, True, False, False]
    assert counters.used(budget, NOW) == 3


def test_a_refused_take_takes_nothing_anywhere(counters: LocalCounters) -> None:
    wide, narrow, held = Budget("wide", 10), Budget("narrow", 1), Budget("held", 5, 0.0)
    assert counters.take([wide, narrow, held], [1, 1, 1], NOW).refused < 0
    refused = counters.take([wide, narrow, held], [1, 1, 1], NOW)
    assert (refused.refused, refused.handles) == (1, ())
    assert [counters.used(b, NOW) for b in (wide, narrow, held)] == [1, 1, 1]


def test_the_longest_wait_of_all_that_refuse_is_told(counters: LocalCounters) -> None:
    short, long = Budget("short", 1, 10.0), Budget("long", 1, 1000.0)
    counters.take([short, long], [1, 1], NOW)
    refused = counters.take([short, long], [1, 1], NOW)
    assert refused.refused == 1
    assert counters.take([short, long], [1, 1], NOW + refused.retry_after_s).refused < 0


def test_no_charge_at_all_passes(counters: LocalCounters) -> None:
    assert counters.take([], [], NOW).refused < 0


def test_an_amount_over_the_whole_limit_never_passes(counters: LocalCounters) -> None:
    assert counters.take([Budget("b", 5)], [6], NOW).retry_after_s == math.inf
    assert counters.take([Budget("c", 5, 0.0)], [6], NOW).retry_after_s == math.inf


@pytest.mark.parametrize(("new", "passes"), [(200, 140), (50, 0), (60, 0), (61, 1)])
def test_a_new_limit_applies_at_once_and_what_was_used_is_kept(counters: LocalCounters, new: int, passes: int) -> None:
    for _ in range(60):
        assert take(counters, Budget("b", 100))
    assert sum(take(counters, Budget("b", new)) for _ in range(150)) == passes


def test_a_removed_and_added_budget_is_not_refilled(counters: LocalCounters) -> None:
    assert take(counters, Budget("b", 1))
    for i in range(40):
        take(counters, Budget(f"other{i}", 1))
    assert not take(counters, Budget("b", 1))


def test_settling_gives_back_what_was_too_much(counters: LocalCounters) -> None:
    budget = Budget("b", 100)
    taken = counters.take([budget], [80], NOW)
    assert not take(counters, budget, 30)
    counters.settle([budget], [taken.handles[0]], [80], [15], NOW + 5)
    assert counters.used(budget, NOW + 5) == 15


def test_settling_adds_what_was_too_little_even_over_the_limit(counters: LocalCounters) -> None:
    budget = Budget("b", 100)
    taken = counters.take([budget], [80], NOW)
    counters.settle([budget], [taken.handles[0]], [80], [130], NOW + 5)
    assert counters.used(budget, NOW + 5) == 130
    assert not take(counters, budget)


def test_what_left_the_window_is_not_given_back(counters: LocalCounters) -> None:
    budget = Budget("b", 100, 10.0)
    taken = counters.take([budget], [80], NOW)
    take(counters, budget, 50, NOW + 20)
    counters.settle([budget], [taken.handles[0]], [80], [0], NOW + 20)
    assert counters.used(budget, NOW + 20) == 50


def test_held_amounts_come_back_only_by_freeing(counters: LocalCounters) -> None:
    slots = Budget("s", 2, 0.0)
    first = counters.take([slots], [1], NOW)
    assert take(counters, slots)
    refused = counters.take([slots], [1], NOW + 1e6)
    assert refused.refused == 0
    assert 0 < refused.retry_after_s < math.inf
    counters.settle([slots], [first.handles[0]], [1], [0], 0.0)
    assert take(counters, slots)


def test_a_lower_concurrency_limit_shrinks_by_attrition(counters: LocalCounters) -> None:
    handles = [counters.take([Budget("s", 4, 0.0)], [1], NOW).handles[0] for _ in range(4)]
    low = Budget("s", 2, 0.0)
    for handle in handles[:2]:
        assert not take(counters, low)
        counters.settle([low], [handle], [1], [0], 0.0)
    assert not take(counters, low)
    counters.settle([low], [handles[2]], [1], [0], 0.0)
    assert take(counters, low)


def test_workers_share_the_limit_and_each_gives_back_its_own(counters: LocalCounters) -> None:
    slots = Budget("s", 3, 0.0)
    other = LocalCounters.attach(os.dup(counters.fd), worker=1)
    assert take(counters, slots)
    assert take(other, slots)
    assert take(other, slots)
    assert not take(counters, slots)
    assert counters.drop_worker(1) == 2
    assert counters.used(slots, NOW) == 1
    other.close()


def test_dropping_a_worker_leaves_windows_alone(counters: LocalCounters) -> None:
    assert take(counters, Budget("b", 5), 3)
    assert counters.drop_worker(0) == 0
    assert counters.used(Budget("b", 5), NOW) == 3


def test_another_file_is_refused() -> None:
    fd = os.memfd_create("x")
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="no table"):
        LocalCounters.attach(fd, worker=0)
    os.close(fd)


def test_a_worker_without_a_column_is_refused(counters: LocalCounters) -> None:
    with pytest.raises(ValueError, match="worker 3 of 3"):
        LocalCounters.attach(os.dup(counters.fd), worker=3)


@pytest.mark.parametrize("workers", [1, FEW_WORKERS, FEW_WORKERS + 1])
def test_a_full_table_lets_pass_uncounted_and_says_so(workers: int) -> None:
    counters = LocalCounters.create(slots=2, workers=workers)
    for name in ("a", "b"):
        assert take(counters, Budget(name, 1))
    over = Budget("c", 1)
    taken = counters.take([over, Budget("a", 5)], [1, 1], NOW)
    assert taken.refused < 0
    assert taken.handles[0] == (0, 0, 0, 0)
    assert counters.overflows == 1
    counters.settle([over], [taken.handles[0]], [1], [5], NOW)
    counters.settle([over], [taken.handles[0]], [1], [0], 0.0)
    counters.count(over, 1, NOW)
    assert counters.used(over, NOW) == 0
    assert not take(counters, Budget("a", 2))  # what has a slot stays exact
    assert free(counters)
    counters.close()


@pytest.mark.parametrize("workers", [2, FEW_WORKERS])
def test_no_lock_is_left_behind(workers: int) -> None:
    counters = LocalCounters.create(slots=64, workers=workers)
    meters, limits = (Budget("t", 100, settled=True), Budget("s", 2, 0.0)), [30, 1]
    done = [counters.take(meters, limits, NOW) for _ in range(2)]
    assert counters.take(meters, limits, NOW).refused >= 0
    for taken, used in zip(done, ([5, 0], [80, 0]), strict=True):  # less and more than was taken
        counters.settle(meters, taken.handles, limits, used, NOW)
    counters.settle(meters[:1], done[0].handles[:1], [30], [5], NOW + 9e5)  # its window is over
    assert counters.drop_worker(1) == 0
    assert free(counters)
    counters.close()


def test_what_is_given_back_late_is_seen_by_its_worker_at_once_and_by_others_at_the_end_of_the_turn() -> None:
    soon: list[Callable[[], None]] = []
    counters = LocalCounters.create(slots=64, workers=2, soon=soon.append)
    other = LocalCounters.attach(os.dup(counters.fd), worker=1)
    meters, slot = (Budget("t", 100, settled=True),), Budget("s", 5, 0.0)
    first, second = (counters.take((*meters, slot), [30, 1], NOW) for _ in range(2))
    for taken in (first, second):
        counters.settle((*meters, slot), taken.handles, [30, 1], [10, 0], NOW)
    assert len(soon) == 1  # once a turn
    assert other.used(slot, NOW) == 0  # that has no lock to wait for
    assert other.used(meters[0], NOW) == 60
    third = counters.take(meters, [80], NOW)
    assert (third.refused, third.used) == (-1, (100,))
    assert other.used(meters[0], NOW) == 100
    counters.settle(meters, third.handles, [80], [0], NOW)
    assert len(soon) == 2
    assert other.used(meters[0], NOW) == 100
    soon[-1]()
    assert other.used(meters[0], NOW) == 20
    soon[-1]()  # nothing is given back twice
    assert other.used(meters[0], NOW) == 20
    assert free(counters)
    other.close()
    counters.close()


def test_a_worker_killed_before_the_end_of_the_turn_leaves_nothing_reserved() -> None:
    counters = LocalCounters.create(slots=64, workers=2)
    killed = LocalCounters.attach(os.dup(counters.fd), worker=1, soon=lambda flush: None)
    meter = Budget("t", 100, settled=True)
    taken = killed.take((meter,), [30], NOW)
    killed.settle((meter,), taken.handles, [30], [10], NOW)
    assert counters.drop_worker(1) == 30
    assert counters.used(meter, NOW) == 0


def test_what_is_given_back_late_goes_to_its_own_window() -> None:
    counters = LocalCounters.create(slots=1, workers=2, soon=lambda flush: None)
    meter, other = Budget("t", 100, 32.0, settled=True), Budget("u", 100, 32.0)
    early = counters.take((meter,), [30], NOW)
    later = counters.take((meter,), [20], NOW + 5.0)
    counters.settle((meter,), early.handles, [30], [10], NOW + 5.0)
    assert counters.used(meter, NOW + 5.0) == 30
    counters.settle((meter,), later.handles, [20], [0], NOW + 100.0)  # nothing of it counts any more
    assert take(counters, other, 7, NOW + 200.0)  # nor is the slot its own
    assert counters.used(other, NOW + 200.0) == 7
    counters.close()


def free(counters: LocalCounters) -> bool:
    """Tell whether another process could lock the slots now, where they have one lock."""
    other = os.open(f"/proc/self/fd/{counters.fd}", os.O_RDWR)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(other)
    return True


def test_a_churn_of_subjects_never_fills_the_table() -> None:
    counters = LocalCounters.create(slots=8, workers=1)
    slots = Budget("held", 5, 0.0)
    assert take(counters, slots)
    for i in range(2000):
        assert take(counters, Budget(f"client{i}", 1, 1.0), 1, NOW + i)
    assert counters.overflows == 0
    assert counters.used(slots, NOW) == 1
    counters.close()


def test_a_slot_that_went_to_another_key_is_looked_for_anew() -> None:
    counters = LocalCounters.create(slots=1, workers=1)
    other = LocalCounters.attach(os.dup(counters.fd), worker=0)
    a, b = Budget("a", 1, 1.0), Budget("b", 1, 1.0)
    early = counters.take([a], [1], NOW)
    assert take(other, b, 1, NOW + 10)
    counters.settle([a], [early.handles[0]], [1], [0], NOW + 10)  # gives nothing back to b
    assert counters.take([a], [1], NOW + 10).handles == ((0, 0, 0, 0),)  # the only slot is b's while it counts
    assert counters.used(b, NOW + 10) == 1
    assert not take(counters, b, 1, NOW + 10)
    assert counters.used(a, NOW + 10) == 0
    assert take(counters, a, 1, NOW + 20)
    assert other.used(b, NOW + 20) == 0
    other.close()
    counters.close()


steps = st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(1, 6)), min_size=1, max_size=40)


@given(steps, st.integers(1, 12), st.sampled_from([1.0, 7.3, 10.0, 60.0]))
@settings(max_examples=150, deadline=None)
def test_no_window_of_the_full_length_ever_holds_more_than_the_limit(
    plan: list[tuple[int, int]], limit: int, window_s: float
) -> None:
    counters = LocalCounters.create(slots=4, workers=1)
    budget, window_us = Budget("b", limit, window_s), round(window_s * 1e6)
    late_us = window_us // 32 + 2
    now_us, taken = 3_000_000_000, list[tuple[int, int]]()
    for step_us, amount in plan:
        now_us += step_us
        answer = counters.take([budget], [amount], now_us / 1e6)
        if answer.refused < 0:
            taken.append((now_us, amount))
            assert sum(a for at, a in taken if at > now_us - window_us) <= limit
            continue
        # Refused: the window was full, at most 1/32 of it ago.
        assert sum(a for at, a in taken if at >= now_us - window_us - late_us) + amount > limit
        if amount > limit:
            assert answer.retry_after_s == math.inf
        else:
            assert 0 < answer.retry_after_s <= (window_us + late_us) / 1e6
    counters.close()


@given(steps, st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 7.3, 10.0, 60.0]))
@settings(max_examples=100, deadline=None)
def test_the_told_wait_is_honest(plan: list[tuple[int, int]], limit: int, amount: int, window_s: float) -> None:
    counters = LocalCounters.create(slots=4, workers=1)
    budget, now_us = Budget("b", limit, window_s), 3_000_000_000
    for step_us, size in plan:
        now_us += step_us
        counters.take([budget], [size], now_us / 1e6)
    now_s = now_us / 1e6
    answer = counters.take([budget], [min(amount, limit)], now_s)
    if answer.refused >= 0:
        assert take(counters, budget, min(amount, limit), now_s + answer.retry_after_s)
    counters.close()


windows = st.sampled_from([("", 10.0, 0.0), ("", 0.0, 0.0), ("day", 0.0, 0.0), ("", 0.0, 5.0)])
takes = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 4)), max_size=25)


@given(takes, windows, st.booleans())
@settings(max_examples=100, deadline=None)
def test_one_charge_alone_is_counted_as_one_among_others(
    plan: list[tuple[int, int]], form: tuple[str, float, float], enforced: bool
) -> None:
    calendar, window_s, drain_s = form
    alone = LocalCounters.create(slots=8, workers=2, unix=lambda: 1.7e9)
    among = LocalCounters.create(slots=8, workers=2, unix=lambda: 1.7e9)
    budget, wide = Budget("b", 7, window_s, calendar, drain_s, enforced), Budget("wide", 10**9)
    now_us = 3_000_000_000
    for step_us, amount in plan:
        now_us += step_us
        one = alone.take([budget], [amount], now_us / 1e6)
        two = among.take([budget, wide], [amount, 1], now_us / 1e6)
        assert (one.refused, one.retry_after_s, one.used, one.over) == (two.refused, two.retry_after_s, two.used[:1], two.over)
    alone.close()
    among.close()
