"""Rules of sharing inside a group."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.graph import Balance
from routerd.plan.balance import Group


@given(
    st.sampled_from(list(Balance)),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), min_size=1, max_size=6),
    st.integers(),
    st.data(),
)
def test_every_usable_member_appears_exactly_once(
    balance: Balance, members: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    group = Group(balance, [weight for weight, _ in members])
    rng = random.Random(seed)
    for _ in range(4):
        usable = sorted(data.draw(st.sets(st.integers(0, len(members) - 1))))
        assert sorted(group.order(usable, [load for _, load in members], rng)) == usable


def test_equal_weights_rotate_evenly_and_in_turn() -> None:
    group = Group(Balance.ROUND_ROBIN, [1, 1, 1])
    orders = [group.order([0, 1, 2], [0, 0, 0], random.Random(0)) for _ in range(6)]
    assert orders == [[0, 1, 2], [1, 2, 0], [2, 0, 1]] * 2


def test_a_rotation_honours_weights_without_bursts() -> None:
    group = Group(Balance.ROUND_ROBIN, [3, 1])
    assert [group.order([0, 1], [0, 0], random.Random(0))[0] for _ in range(8)] == [0, 0, 1, 0] * 2


def test_a_missing_members_share_is_spread_over_the_others() -> None:
    group = Group(Balance.ROUND_ROBIN, [1, 1, 1])
    first = Counter(group.order([1, 2], [0, 0, 0], random.Random(0))[0] for _ in range(100))
    assert first == {1: 50, 2: 50}


def test_the_first_draw_follows_the_weights() -> None:
    group, rng = Group(Balance.WEIGHTED, [3, 1]), random.Random(5)
    first = Counter(group.order([0, 1], [0, 0], rng)[0] for _ in range(8000))
    assert first[0] / 8000 == pytest.approx(0.75, abs=0.02)


def test_the_failover_draw_follows_the_weights_of_the_rest() -> None:
    group, rng = Group(Balance.WEIGHTED, [1, 3, 1]), random.Random(5)
    orders = [group.order([0, 1, 2], [0, 0, 0], rng) for _ in range(20000)]
    second = Counter(order[1] for order in orders if order[0] == 0)
    assert second[1] / second.total() == pytest.approx(0.75, abs=0.03)


def test_weight_zero_is_only_a_last_resort() -> None:
    group, rng = Group(Balance.WEIGHTED, [0, 1, 1]), random.Random(5)
    assert {group.order([0, 1, 2], [0, 0, 0], rng)[-1] for _ in range(200)} == {0}


def test_the_least_busy_by_weight_goes_first() -> None:
    group = Group(Balance.LEAST_BUSY, [1, 2, 1])
    assert group.order([0, 1, 2], [3, 4, 1], random.Random(0)) == [2, 1, 0]


def test_idle_members_share() -> None:
    group, rng = Group(Balance.LEAST_BUSY, [1, 1]), random.Random(1)
    first = Counter(group.order([0, 1], [0, 0], rng)[0] for _ in range(2000))
    assert first[0] / 2000 == pytest.approx(0.5, abs=0.05)
