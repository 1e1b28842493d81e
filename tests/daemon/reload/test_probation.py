"""Worse than the one before, or not."""

from __future__ import annotations

import pytest

from routerd.daemon.reload.probation import Baseline, Count, Trial
from routerd.graph import Probation

POLICY = Probation(for_s=60.0, max_error_ratio=0.2, min_requests=20)


FINE = Count(100, 0)


def trial(before: Count = FINE) -> Trial:
    return Trial(number=2, policy=POLICY, before=1, before_count=before, began_s=100.0)


@pytest.mark.parametrize(
    ("count", "fails"),
    [
        (Count(20, 5), True),
        (Count(20, 4), False),  # 20 % is still allowed
        (Count(19, 19), False),  # not enough to judge
        (Count(0, 0), False),
        (Count(1000, 201), True),
    ],
)
def test_a_generation_fails_above_the_ratio_once_there_is_enough_to_judge(count: Count, fails: bool) -> None:
    assert trial().fails(count) is fails


def test_where_the_one_before_failed_as_well_nothing_is_rolled_back() -> None:
    assert not trial(Count(10, 5)).fails(Count(100, 100))
    assert trial(Count(10, 2)).fails(Count(100, 100))
    assert trial(Count()).fails(Count(100, 100))  # no evidence is no excuse


def test_it_is_over_after_its_time() -> None:
    assert not trial().over(159.9)
    assert trial().over(160.0)


def test_the_baseline_is_what_ended_in_as_long_a_time_before() -> None:
    baseline = Baseline()
    for second in range(100):
        baseline.sample(1, Count(second * 10, max(0, second - 90)), float(second))
    assert baseline.over(9.0) == Count(90, 9)
    assert baseline.over(99.0) == Count(990, 9)
    assert baseline.over(1000.0) == Count(990, 9)


def test_the_baseline_begins_anew_with_each_generation_and_does_not_grow() -> None:
    baseline = Baseline()
    assert baseline.over(10.0) == Count()
    for second in range(5000):
        baseline.sample(1, Count(second, 0), float(second))
    assert len(baseline._samples) < 700
    baseline.sample(2, Count(3, 1), 5000.0)
    assert baseline.over(60.0) == Count(3, 1)


def test_a_trial_tells_where_it_stands() -> None:
    told = trial(Count(10, 1)).as_json({2: Count(8, 2)}, 130.0)
    assert told == {
        "generation": 2,
        "back_to": 1,
        "left_s": 30.0,
        "ended": 8,
        "failed": 2,
        "error_ratio": 0.25,
        "error_ratio_before": 0.1,
    }
