"""Rules of what a worker reserved: settled once, or given back by control when the worker is dead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.state import LocalCounters, journal
from tests.state.hammer import Budget

NOW = 5000.0
UNIX = 1.7e9
FORMS = {"sliding": (60.0, "", 0.0), "month": (0.0, "month", 0.0), "ever": (0.0, "ever", 0.0), "bucket": (0.0, "", 30.0)}


def tokens(form: str, limit: int = 1000, name: str = "t") -> Budget:
    window_s, calendar, drain_s = FORMS[form]
    return Budget(name, limit, window_s, calendar, drain_s, settled=True)


@pytest.fixture
def pair() -> Iterator[list[LocalCounters]]:
    """Two workers on one table."""
    made = [LocalCounters.create(slots=64, workers=2, unix=lambda: UNIX)]
    made.append(LocalCounters.attach(os.dup(made[0].fd), worker=1))
    made[1]._unix = made[0]._unix
    yield made
    for one in made:
        one.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("among", [False, True], ids=["alone", "among others"])
def test_what_a_dead_worker_reserved_is_given_back_and_nothing_else(pair: list[LocalCounters], form: str, among: bool) -> None:
    one, two = pair
    budget = tokens(form)
    charged, amounts = ([budget, Budget("requests", 100)], [100, 1]) if among else ([budget], [100])
    settled, kept, lost, others = (counters.take(charged, amounts, NOW) for counters in (one, one, one, two))
    one.settle([budget], [settled.handles[0]], [100], [30], NOW)
    one.settle([budget], [kept.handles[0]], [100], [100], NOW)
    assert lost.refused < 0
    assert one.used(budget, NOW) == 330
    assert two.drop_worker(0) == 100
    assert two.used(budget, NOW) == 230
    assert two.drop_worker(0) == 0
    two.settle([budget], [others.handles[0]], [100], [10], NOW)
    assert two.used(budget, NOW) == 140
    if among:
        assert two.used(Budget("requests", 100), NOW) == 4  # who was admitted stays counted


def test_what_has_left_its_window_is_not_given_back(pair: list[LocalCounters]) -> None:
    one, two = pair
    one.take([tokens("sliding")], [400], NOW)
    two.take([tokens("sliding")], [500], NOW + 70)
    two.drop_worker(0)
    assert two.used(tokens("sliding"), NOW + 70) == 500


def test_a_slot_that_went_to_another_key_is_left_alone() -> None:
    one = LocalCounters.create(slots=1, workers=2)
    two = LocalCounters.attach(os.dup(one.fd), worker=1)
    one.take([tokens("sliding", name="old")], [400], NOW)
    assert two.take([tokens("sliding", name="new")], [500], NOW + 70).handles[0] != (0, 0, 0, 0)
    two.drop_worker(0)
    assert two.used(tokens("sliding", name="new"), NOW + 70) == 500
    one.close()
    two.close()


def test_beyond_the_records_a_take_stays_charged_and_is_settled_all_the_same(
    pair: list[LocalCounters], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RECORDS", 3)  # two, and their number
    one, two = pair
    budget = tokens("sliding")
    taken = [one.take([budget], [100], NOW) for _ in range(4)]
    one.settle([budget], [taken[3].handles[0]], [100], [1], NOW)
    assert two.drop_worker(0) == 200
    assert two.used(budget, NOW) == 101


def test_a_successor_has_the_records_of_its_predecessor_for_itself(pair: list[LocalCounters]) -> None:
    one, two = pair
    budget = tokens("ever")
    for _ in range(3):
        for _ in range(5):
            one.take([budget], [10], NOW)
        assert two.drop_worker(0) == 50
        one = LocalCounters.attach(os.dup(two.fd), worker=0)
    assert two.used(budget, NOW) == 0


def test_what_was_used_elsewhere_is_counted_for_good_and_beyond_the_limit(pair: list[LocalCounters]) -> None:
    one, two = pair
    one.count(tokens("ever", 100), 150, NOW)
    assert two.drop_worker(0) == 0
    assert two.used(tokens("ever", 100), NOW) == 150


events = st.lists(
    st.tuples(st.sampled_from(["take", "settle", "keep", "die"]), st.integers(0, 1), st.integers(1, 50), st.integers(0, 60)),
    max_size=40,
)


@given(events, st.sampled_from(sorted(FORMS)))
@settings(max_examples=150, deadline=None)
def test_the_counter_is_always_what_was_settled_and_what_is_reserved(steps: list[tuple[str, int, int, int]], form: str) -> None:
    control = LocalCounters.create(slots=8, workers=3, worker=2, unix=lambda: UNIX)
    budget, settled = tokens(form, 10**9), 0

    def start(worker: int) -> LocalCounters:
        started = LocalCounters.attach(os.dup(control.fd), worker=worker)
        started._unix = control._unix
        return started

    workers = [start(0), start(1)]
    runs: list[list[tuple[tuple[int, ...], int]]] = [[], []]
    for what, worker, amount, used in steps:
        if what == "take":
            runs[worker].append((workers[worker].take([budget], [amount], NOW).handles[0], amount))
        elif what == "die":
            workers[worker].close()
            assert control.drop_worker(worker) == sum(taken for _, taken in runs[worker])
            runs[worker] = []
            workers[worker] = start(worker)
        elif runs[worker]:
            handle, taken = runs[worker].pop(amount % len(runs[worker]))
            workers[worker].settle([budget], [handle], [taken], [taken if what == "keep" else used], NOW)
            settled += taken if what == "keep" else used
        assert control.used(budget, NOW) == settled + sum(taken for run in runs for _, taken in run)
    for one in (*workers, control):
        one.close()
