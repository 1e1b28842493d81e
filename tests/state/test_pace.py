"""Rules of the bucket: a burst at once, then the even rate, whatever the pattern of requests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.state import LocalCounters
from tests.state.hammer import Budget

NOW = 5000.0


def bucket(size: int, rate: float, *, enforced: bool = True, name: str = "p") -> Budget:
    """Make a bucket of `size` that drains at `rate` a second."""
    return Budget(name, size, 0.0, "", size / rate, enforced)


@pytest.fixture
def counters() -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=16, workers=2)
    yield counters
    counters.close()


def take(counters: LocalCounters, budget: Budget, amount: int = 1, now_s: float = NOW) -> bool:
    return counters.take([budget], [amount], now_s).refused < 0


def test_a_burst_passes_at_once_and_then_the_rate(counters: LocalCounters) -> None:
    b = bucket(5, 10.0)
    assert [take(counters, b) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not take(counters, b, now_s=NOW + 0.099)
    assert take(counters, b, now_s=NOW + 0.101)
    assert not take(counters, b, now_s=NOW + 0.102)
    assert sum(take(counters, b, now_s=NOW + 0.101 + 0.1001 * i) for i in range(1, 50)) == 49


def test_more_than_the_bucket_never_fits(counters: LocalCounters) -> None:
    assert counters.take([bucket(5, 10.0)], [6], NOW).retry_after_s == math.inf


def test_looking_often_does_not_stop_it_from_draining(counters: LocalCounters) -> None:
    slow = bucket(1, 1 / 86400)
    assert take(counters, slow)
    assert not any(take(counters, slow, now_s=NOW + i * 1e-6) for i in range(100))
    assert take(counters, slow, now_s=NOW + 86400.1)


def test_settling_takes_out_what_was_too_much_and_adds_what_was_too_little(counters: LocalCounters) -> None:
    b = bucket(100, 1.0)
    one = counters.take([b], [80], NOW)
    counters.settle([b], [one.handles[0]], [80], [10], NOW)
    assert counters.used(b, NOW) == 10
    two = counters.take([b], [20], NOW)
    counters.settle([b], [two.handles[0]], [20], [120], NOW)
    assert counters.used(b, NOW) == 130
    assert counters.used(b, NOW + 30) == 100


@pytest.mark.parametrize(("size", "passes"), [(10, 4), (6, 0), (3, 0), (7, 1)])
def test_another_size_or_rate_keeps_the_level(counters: LocalCounters, size: int, passes: int) -> None:
    assert take(counters, bucket(10, 1.0), 6)
    assert sum(take(counters, bucket(size, 99.0)) for _ in range(9)) == passes


def test_shadow_mode_fills_it_without_end_and_says_so(counters: LocalCounters) -> None:
    b = bucket(2, 1e-9, enforced=False)
    assert [counters.take([b], [1], NOW).over for _ in range(4)] == [(), (), (0,), (0,)]
    counters.take([b], [10**15], NOW)
    counters.take([b], [10**15], NOW)
    assert counters.used(b, NOW) > 10**12


def test_a_drained_bucket_may_go_to_another_key() -> None:
    counters = LocalCounters.create(slots=1, workers=1)
    assert take(counters, bucket(5, 1.0, name="a"), 5)
    assert counters.take([bucket(5, 1.0, name="b")], [1], NOW + 4.9).handles == ((0, 0, 0, 0),)
    assert counters.take([bucket(5, 1.0, name="b")], [1], NOW + 5.1).handles != ((0, 0, 0, 0),)
    counters.close()


steps = st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 4)), max_size=40)


@given(steps, st.integers(4, 9), st.sampled_from([1.0, 7.3, 50.0]))
@settings(max_examples=150, deadline=None)
def test_no_stretch_of_time_ever_holds_more_than_a_burst_and_the_rate(
    plan: list[tuple[int, int]], size: int, rate: float
) -> None:
    counters = LocalCounters.create(slots=4, workers=1)
    b, now_us, taken = bucket(size, rate), 3_000_000_000, list[tuple[int, int]]()
    for step_us, amount in plan:
        now_us += step_us
        answer = counters.take([b], [amount], now_us / 1e6)
        if answer.refused < 0:
            taken.append((now_us, amount))
            for begin_us, _ in taken:
                inside = sum(a for at_us, a in taken if at_us >= begin_us)
                assert inside <= size + rate * (now_us - begin_us) / 1e6 + 1e-3
        else:
            assert 0 < answer.retry_after_s < math.inf
            assert b.limit >= amount
            now_us += round(answer.retry_after_s * 1e6) + 1  # the told wait is honest
            assert take(counters, b, amount, now_us / 1e6)
            taken.append((now_us, amount))
    counters.close()
