"""Rules of the breaker, the slow start, drains, latency and load: two workers and control on one board."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.graph import Breaker
from routerd.health import EndpointState, breaker_state, reasons
from routerd.health.endpoint import COLUMN_WORDS, HEAD_WORDS, MIN_SHARE
from routerd.messages import COOLING, DOWN, DRAINED, FREE, OPEN
from routerd.state import Board, board

NOW = 5000.0
RULES = Breaker(failure_ratio=0.5, min_requests=10, window_s=20.0, open_for_s=10.0, ramp_s=10.0)


class Host:
    """Three processes that see one endpoint."""

    def __init__(self) -> None:
        self.board = Board.create(slots=8, workers=2)
        self.boards = [self.board, *(Board.attach(os.dup(self.board.fd), worker=i) for i in range(2))]
        self.control, self.one, self.two = (self.state(b) for b in self.boards)

    def state(self, b: Board, rules: Breaker = RULES) -> EndpointState:
        state = EndpointState(b.slot(b"k" * 16, NOW), b.worker, b.workers, b.lock)
        state.configure(rules, 0.0)
        return state

    def close(self) -> None:
        for b in self.boards:
            os.close(b.fd)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def opened(host: Host) -> None:
    for _ in range(10):
        host.one.failed(NOW, NOW + 1)
    assert breaker_state(host.two, NOW + 1) == 2


def test_the_layout_is_that_of_the_board() -> None:
    assert (board.HEAD_WORDS, board.COLUMN_WORDS) == (HEAD_WORDS, COLUMN_WORDS)


def test_below_the_minimum_volume_nothing_opens(host: Host) -> None:
    assert not any(host.one.failed(NOW, NOW) for _ in range(9))
    assert host.one.standing(NOW) is None


def test_outcomes_of_all_workers_count_together_and_all_see_it_open(host: Host) -> None:
    assert not any(host.one.failed(NOW, NOW) for _ in range(5))
    assert [host.two.failed(NOW, NOW) for _ in range(5)] == [False] * 4 + [True]
    for state in (host.one, host.two, host.control):
        standing = state.standing(NOW + 9.9)
        assert standing is not None
        assert standing.rank == OPEN


def test_below_the_ratio_nothing_opens(host: Host) -> None:
    for _ in range(51):
        host.two.succeeded(NOW, NOW)
    assert not any(host.one.failed(NOW, NOW) for _ in range(50))
    assert [host.one.failed(NOW, NOW)] == [True]


def test_what_left_the_window_does_not_count(host: Host) -> None:
    for _ in range(9):
        host.one.failed(NOW, NOW)
    late = NOW + RULES.window_s + 0.1
    assert not any(host.one.failed(late, late) for _ in range(9))
    assert host.control.outcomes(late) == (9, 9)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.floats(0.0, 3.0)), max_size=120))
def test_the_window_counts_what_is_recent_and_never_what_is_old(steps: list[tuple[int, bool, float]]) -> None:
    host = Host()
    try:
        workers, at, said = (host.one, host.two), NOW, []
        never = Breaker(failure_ratio=1.0, min_requests=1_000_000, window_s=20.0)
        for worker in workers:
            worker.configure(never, 0.0)
        for number, failed, pause_s in steps:
            at += pause_s
            (workers[number].failed if failed else workers[number].succeeded)(at, at)
            said.append((at, failed))
        outcomes, failures = host.one.outcomes(at)
        surely = [bad for when, bad in said if at - when < 15.0]  # a bucket is 5 s wide
        perhaps = [bad for when, bad in said if at - when <= 20.0]
        assert len(surely) <= outcomes <= len(perhaps)
        assert sum(surely) <= failures <= sum(perhaps)
    finally:
        host.close()


def test_half_open_is_a_ramp_that_ends_closed(host: Host) -> None:
    opened(host)
    began = NOW + 11
    assert [breaker_state(host.two, began + t) for t in (-0.1, 5, 10)] == [2, 1, 0]
    shares = [standing.open_share if (standing := host.one.standing(began + t)) else 1.0 for t in (0, 2.5, 5, 9.9, 10)]
    assert shares == pytest.approx([MIN_SHARE, 0.25, 0.5, 0.99, 1.0])
    assert host.two.standing(began + 10) is None


def test_half_open_needs_a_fifth_of_the_volume_to_open_again(host: Host) -> None:
    opened(host)
    began = NOW + 12
    assert not host.one.failed(began, began)
    assert host.two.failed(began, began)
    assert breaker_state(host.one, began + 5) == 2


def test_good_outcomes_in_the_ramp_keep_it_open_for_more(host: Host) -> None:
    opened(host)
    began = NOW + 12
    for _ in range(5):
        host.one.succeeded(began, began)
    assert not any(host.two.failed(began, began) for _ in range(4))
    assert host.two.failed(began, began)


def test_attempts_that_began_before_the_change_tell_nothing(host: Host) -> None:
    opened(host)
    began = NOW + 12
    assert not any(host.one.failed(NOW + 5, began) for _ in range(50))
    assert host.one.outcomes(began) == (0, 0)


def test_new_thresholds_apply_to_the_counts_at_hand(host: Host) -> None:
    for _ in range(6):
        host.one.failed(NOW, NOW)
    host.two.configure(Breaker(failure_ratio=0.5, min_requests=5, window_s=20.0), 0.0)
    assert host.two.failed(NOW, NOW)


def test_a_disabled_breaker_never_opens_and_closes_an_open_one(host: Host) -> None:
    opened(host)
    off = Breaker(enabled=False)
    host.one.configure(off, 0.0)
    assert host.one.standing(NOW + 2) is None
    assert not any(host.one.failed(NOW + 20, NOW + 20) for _ in range(50))


def test_a_restarted_worker_knows_and_a_dead_ones_requests_are_gone(host: Host) -> None:
    host.one.cool(NOW + 30, "rate_limited")
    for state in (host.one, host.one, host.two):
        state.begin()
    assert host.board.drop_worker(0) == 2
    again = host.state(host.boards[1])
    assert (again.inflight, again.cooling(NOW)) == (1, NOW + 30)


def test_outcomes_of_a_dead_worker_count_on_and_its_successor_forgets_none(host: Host) -> None:
    for step in range(4):  # a bucket each
        host.one.failed(NOW, NOW + 5 * step)
        host.one.succeeded(NOW, NOW + 5 * step)
    host.board.drop_worker(0)
    again = host.state(host.boards[1])
    assert again.outcomes(NOW + 16) == (8, 4)
    again.failed(NOW + 16, NOW + 16)
    assert host.two.outcomes(NOW + 16) == (9, 5)
    assert host.two.failed(NOW + 16, NOW + 17)


def test_in_flight_counts_over_all_workers(host: Host) -> None:
    host.one.begin()
    host.two.begin()
    host.two.begin()
    host.one.end()
    host.one.end()
    assert (host.one.inflight, host.control.inflight) == (2, 2)


def test_the_worst_of_all_ranks_counts_and_reasons_name_each(host: Host) -> None:
    assert reasons(host.control, NOW) == []
    host.one.cool(NOW + 30, "rate_limited")
    standing = host.two.standing(NOW)
    assert standing is not None
    assert standing.rank == COOLING
    opened(host)
    standing = host.two.standing(NOW + 1)
    assert standing is not None
    assert standing.rank == OPEN
    host.control.probed(False, NOW)
    standing = host.one.standing(NOW + 1)
    assert standing is not None
    assert standing.rank == DOWN
    host.control.drain(True, NOW)
    standing = host.one.standing(NOW + 1)
    assert standing is not None
    assert standing.rank == DRAINED
    assert reasons(host.one, NOW + 1) == [
        "drained by hand: gets nothing new",
        "down: its probe fails",
        "its breaker is open for 10.0 s",
        "cools down for 29.0 s, rate limited",
    ]
    host.control.drain(False, NOW)
    host.control.probed(True, NOW)
    assert host.one.standing(NOW + 100) is None


def test_failures_that_are_too_few_for_the_breaker_are_told(host: Host) -> None:
    """With one request a minute a dead endpoint never opens its breaker; `explain` said nothing of it."""
    host.one.succeeded(NOW, NOW)
    assert reasons(host.control, NOW) == []
    host.one.failed(NOW, NOW)
    told = f"of 2 requests failed in the last {RULES.window_s:g} s; its breaker would open at {RULES.min_requests}"
    assert reasons(host.control, NOW) == [f"1 {told}"]
    host.two.succeeded(NOW, NOW)
    assert reasons(host.control, NOW) == []  # a third is none that would open it
    assert reasons(host.control, NOW + RULES.window_s + 1) == []
    opened(host)
    assert not [text for text in reasons(host.control, NOW + 1) if "failed" in text]


def test_a_recovered_endpoint_starts_slowly_where_that_is_configured(host: Host) -> None:
    host.control.configure(RULES, 30.0)
    host.one.configure(RULES, 30.0)
    host.control.drain(True, NOW)
    host.control.drain(False, NOW)
    standing = host.one.standing(NOW + 15)
    assert standing is not None
    assert (standing.rank, standing.slow_share) == (FREE, 0.5)
    assert reasons(host.one, NOW + 15) == ["starts slowly: 50 % of its share"]
    assert host.one.standing(NOW + 30) is None


def test_only_a_newcomer_starts_slowly_and_only_once(host: Host) -> None:
    for state in (host.one, host.two):
        state.configure(RULES, 30.0)
    host.one.adopt(NOW, slowly=True)
    host.two.adopt(NOW + 3, slowly=True)
    standing = host.two.standing(NOW + 3)
    assert standing is not None
    assert standing.slow_share == pytest.approx(0.1)


def test_a_peak_counts_at_once_and_fades(host: Host) -> None:
    assert host.one.latency(NOW) == 0.0
    host.one.timed(0.1, NOW)
    host.two.timed(2.0, NOW)
    assert host.one.latency(NOW) == pytest.approx(2.0)
    assert host.one.latency(NOW + 10) == pytest.approx(2.0 / 2.71828, rel=1e-3)
    host.one.timed(0.1, NOW + 5)
    assert 0.1 < host.two.latency(NOW + 5) < 2.0


def test_load_is_the_engines_gauges_plus_what_was_sent_since_until_they_are_old(host: Host) -> None:
    host.one.begin()
    host.control.loaded(running=5, waiting=2, cache_ratio=0.25, for_s=6.0, now_s=NOW)
    assert (host.two.load(NOW), host.two.cache_ratio(NOW), host.two.cache_ratio(NOW + 7)) == (7, 0.25, None)
    host.two.begin()
    host.two.begin()
    assert host.one.load(NOW + 5.9) == 9
    assert host.one.load(NOW + 6.1) is None
    host.control.loaded(running=0, waiting=0, cache_ratio=None, for_s=6.0, now_s=NOW)
    assert host.one.load(NOW) == 3, "what is in flight is there, whatever the engine says"
