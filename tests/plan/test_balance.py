"""Rules of sharing inside a group."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.graph import Balance
from routerd.plan.balance import LOAD_BOUND, Group


@given(
    st.sampled_from(list(Balance)),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), min_size=1, max_size=6),
    st.integers(),
    st.data(),
)
def test_every_usable_member_appears_exactly_once(
    balance: Balance, members: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    group = Group(balance, [weight for weight, _ in members], [f"m{i}" for i in range(len(members))])
    rng = random.Random(seed)
    for _ in range(4):
        usable = sorted(data.draw(st.sets(st.integers(0, len(members) - 1))))
        loads, latencies = [load for _, load in members], [seed % 3 * 0.1] * len(members)
        assert sorted(group.order(usable, loads, rng, latencies, seed & 7)) == usable


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


def hashed(names: list[str], weights: list[int] | None = None) -> Group:
    return Group(Balance.PREFIX_HASH, weights or [1] * len(names), names)


def keys(count: int) -> list[int]:
    rng = random.Random(11)
    return [rng.getrandbits(64) or 1 for _ in range(count)]


def firsts(group: Group, asked: list[int], members: int) -> list[int]:
    return [group.order(range(members), [0] * members, random.Random(0), key=key)[0] for key in asked]


def test_keys_are_spread_by_weight() -> None:
    found = Counter(firsts(hashed(["a", "b", "c"], [1, 2, 1]), keys(8000), 3))
    assert [found[i] / 8000 for i in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_a_newcomer_takes_its_share_of_the_keys_and_no_other_key_moves() -> None:
    asked = keys(4000)
    before, after = firsts(hashed(["a", "b", "c", "d"]), asked, 4), firsts(hashed(["a", "b", "c", "d", "e"]), asked, 5)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {4}
    assert len(moved) / 4000 == pytest.approx(1 / 5, abs=0.03)


def test_a_leaver_gives_its_keys_to_all_others_evenly_and_no_other_key_moves() -> None:
    asked = keys(4000)
    group = hashed(["a", "b", "c", "d"])
    before = firsts(group, asked, 4)
    after = [group.order([0, 1, 3], [0] * 4, random.Random(0), key=key)[0] for key in asked]
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {2}
    assert min(Counter(new for _, new in moved).values()) > 0.8 * len(moved) / 3


def test_no_member_holds_more_than_the_bound_even_for_one_key() -> None:
    group, load, rng = hashed(["a", "b", "c", "d"], [1, 1, 2, 1]), [0, 0, 0, 0], random.Random(2)
    for turn in range(400):
        first = group.order(range(4), load, rng, key=7)[0]
        load[first] += 1
        assert load[first] <= math.ceil(LOAD_BOUND * (turn + 1) * [1, 1, 2, 1][first] / 5)
    liked = group.order(range(4), [0] * 4, rng, key=7)[0]
    assert load[liked] == math.ceil(LOAD_BOUND * 400 * [1, 1, 2, 1][liked] / 5)


def test_no_key_is_spread_by_chance() -> None:
    group, rng = hashed(["a", "b"]), random.Random(2)
    found = Counter(group.order([0, 1], [0, 0], rng)[0] for _ in range(2000))
    assert found[0] / 2000 == pytest.approx(0.5, abs=0.05)


def test_of_two_drawn_the_faster_is_asked() -> None:
    group, rng = Group(Balance.LATENCY, [1, 1, 1]), random.Random(4)
    found = Counter(group.order([0, 1, 2], [0, 0, 0], rng, [0.1, 0.5, 0.9])[0] for _ in range(6000))
    assert [found[i] / 6000 for i in range(3)] == pytest.approx([2 / 3, 1 / 3, 0.0], abs=0.03)


def test_a_fast_member_with_a_long_queue_is_not_asked() -> None:
    group, rng = Group(Balance.LATENCY, [1, 1]), random.Random(4)
    assert {group.order([0, 1], [9, 0], rng, [0.1, 0.5])[0] for _ in range(20)} == {1}
    assert {group.order([0, 1], [9, 9], rng, [0.1, 0.5])[0] for _ in range(20)} == {0}


def test_what_was_never_measured_counts_as_average() -> None:
    group, rng = Group(Balance.LATENCY, [1, 1]), random.Random(4)
    assert {group.order([0, 1], [0, 1], rng, [0.0, 0.5])[0] for _ in range(20)} == {0}
    assert {group.order([0, 1], [3, 1], rng, [0.0, 0.0])[0] for _ in range(20)} == {1}


def test_latency_spreads_a_stampede_over_equals() -> None:
    group, rng, load = Group(Balance.LATENCY, [1, 1, 1, 1]), random.Random(4), [0, 0, 0, 0]
    for _ in range(400):
        load[group.order(range(4), load, rng, [0.3, 0.3, 0.3, 0.3])[0]] += 1
    assert max(load) - min(load) <= 8
