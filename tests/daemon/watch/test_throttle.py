"""How often a storm is built."""

from __future__ import annotations

import itertools

import pytest

from routerd.daemon.watch.throttle import CALM_S, FIRST_S, MOST_S, Throttle

LOOK_S = 0.05


def storm(throttle: Throttle, changes: list[float], *, until_s: float, build_s: float = 0.03) -> list[float]:
    """Return when builds begin for changes at these moments, looked at each 50 ms."""
    builds: list[float] = []
    taken = -1.0
    first_s: float | None = None
    now_s = 0.0
    while now_s <= until_s:
        seen = max((at for at in changes if at <= now_s), default=-1.0)
        if seen > taken:
            first_s = now_s if first_s is None else first_s
            quiet_s = now_s - seen
            complete = quiet_s >= 0.05 or now_s - first_s >= 1.0  # as watch.Settle has it
            if complete and throttle.wait_s(now_s, quiet_s) <= 0.001:
                builds.append(now_s)
                taken = seen
                throttle.built(first_s, now_s + build_s)
                first_s = None
                now_s += build_s
        now_s += LOOK_S
    return builds


def test_the_first_change_is_built_at_once() -> None:
    assert Throttle().wait_s(100.0, 0.0) == 0.0


def test_two_builds_are_250_ms_apart() -> None:
    throttle = Throttle()
    throttle.built(100.0, 100.0)
    assert throttle.wait_s(100.1, 0.1) == pytest.approx(0.15)
    assert throttle.wait_s(100.26, 0.0) == 0.0


def test_a_storm_is_built_ever_less_often_down_to_each_five_seconds() -> None:
    throttle = Throttle()
    builds = storm(throttle, [i * 0.01 for i in range(6000)], until_s=60)
    gaps = [b - a for a, b in itertools.pairwise(builds)]
    assert throttle.interval_s == MOST_S
    assert gaps[0] < 1.2
    assert gaps[-2] == pytest.approx(MOST_S, abs=0.2)
    assert len(builds) < 20
    assert throttle.storms(60.0)


def test_the_last_of_a_thousand_changes_in_five_seconds_is_built_within_400_ms() -> None:
    for shift in range(10):
        changes = [shift * 0.007 + i * 0.005 for i in range(1000)]
        builds = storm(Throttle(), changes, until_s=20)
        assert builds[-1] > changes[-1]
        assert builds[-1] - changes[-1] <= 0.4


def test_a_change_that_is_quiet_waits_for_no_storm() -> None:
    throttle = Throttle()
    storm(throttle, [i * 0.01 for i in range(3000)], until_s=30)
    assert throttle.interval_s == MOST_S
    throttle.built(25.0, 30.0)  # first seen amid the storm
    assert throttle.wait_s(30.3, CALM_S) == 0.0
    assert throttle.wait_s(30.1, CALM_S) == pytest.approx(0.15)
    assert throttle.wait_s(31.0, 0.0) == pytest.approx(CALM_S)


def test_a_pause_ends_the_storm() -> None:
    throttle = Throttle()
    storm(throttle, [i * 0.01 for i in range(3000)], until_s=30)
    assert not throttle.storms(50.0)
    throttle.built(49.9, 50.0)
    assert throttle.interval_s == FIRST_S
    assert throttle.wait_s(50.25, 0.0) == 0.0


def test_edits_that_are_seconds_apart_are_no_storm() -> None:
    throttle = Throttle()
    for at_s in range(0, 40, 2):
        assert throttle.wait_s(float(at_s), 0.0) == 0.0
        throttle.built(float(at_s), at_s + 0.05)
    assert throttle.interval_s == FIRST_S


def test_what_is_held_waits_even_when_quiet() -> None:
    throttle = Throttle()
    throttle.hold(101.0)
    assert throttle.wait_s(100.0, 9.0) == pytest.approx(1.0)
    throttle.built(100.0, 100.0)
    throttle.hold(105.0)
    assert throttle.wait_s(102.0, 9.0) == pytest.approx(3.0)
