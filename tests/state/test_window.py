"""Rules of the sliding window, and what is left when a process dies at any single store."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.state import window
from routerd.state.table import BUCKETS, DATA, DIRTY, TOTAL

W_US = 32_000  # so that a bucket is 1000 us wide
WIDTH = 1000


class Killed(Exception):
    """The process died here."""


class Mortal:
    """Words of a slot whose process dies before its n-th store."""

    def __init__(self, words: array[int], stores: int) -> None:
        self.words = words
        self.left = stores

    def __getitem__(self, at: int | slice) -> int | array[int]:
        return self.words[at]

    def __setitem__(self, at: int, value: int) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        self.words[at] = value


def slot() -> memoryview[int]:
    return memoryview(array("q", [0] * (DATA + BUCKETS)))


def filled(entries: list[tuple[int, int]]) -> memoryview[int]:
    words = slot()
    for at_us, amount in entries:
        window.advance(words, 0, WIDTH, at_us)
        window.add(words, 0, amount)
    return words


ENTRIES = [(500, 5), (9_500, 7), (20_500, 11), (31_900, 13)]


def test_a_bucket_is_a_32nd_rounded_up() -> None:
    assert window.width_us(60.0) == 1_875_000
    assert window.width_us(0.000033) * 32 >= 33
    assert window.width_us(0.0000001) == 1


def test_an_entry_counts_for_the_whole_window_and_at_most_one_bucket_more() -> None:
    words = filled([(999, 1)])
    assert window.advance(words, 0, WIDTH, 999 + W_US) == 1
    assert window.advance(words, 0, WIDTH, 1000 + W_US) == 0
    words = filled([(1000, 1)])
    assert window.advance(words, 0, WIDTH, 1000 + W_US + WIDTH - 1) == 1
    assert window.advance(words, 0, WIDTH, 1000 + W_US + WIDTH) == 0


def test_a_clock_that_lags_adds_to_the_newest_bucket() -> None:
    words = filled([(50_000, 1), (10_000, 2)])
    assert window.advance(words, 0, WIDTH, 50_000 + W_US) == 3


def test_the_wait_for_more_than_there_is_has_no_end() -> None:
    assert window.wait_s(filled([(0, 5)]), 0, 6, 0) == math.inf


def test_what_left_the_window_is_not_given_back_twice() -> None:
    words = slot()
    window.advance(words, 0, WIDTH, 0)
    stamp_us = window.add(words, 0, 5)
    window.advance(words, 0, WIDTH, 100_000)
    window.add(words, 0, 3)
    window.subtract(words, 0, stamp_us, 5)
    assert words[TOTAL] == 3


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 9)), max_size=20), st.integers(1, 200), st.integers(0, 50_000))
def test_a_new_window_length_forgets_nothing_that_it_still_covers(
    steps: list[tuple[int, int]], new_width: int, later_us: int
) -> None:
    words, now_us, true = slot(), 10**9, []
    window.advance(words, 0, WIDTH, now_us)
    for step_us, amount in steps:
        now_us += step_us
        window.advance(words, 0, WIDTH, now_us)
        window.add(words, 0, amount)
        true.append((now_us, amount))
    now_us += later_us
    used = window.advance(words, 0, new_width * 10, now_us)
    covered_us = min(W_US, 32 * new_width * 10)
    assert used >= sum(amount for at_us, amount in true if at_us > now_us - covered_us)
    assert used <= sum(amount for _, amount in true)
    window._close(words, 0)
    assert used == sum(words[DATA : DATA + BUCKETS])
    soon_us = now_us + 160 * new_width
    still = sum(amount for at_us, amount in true if at_us > soon_us - 320 * new_width and at_us > now_us - covered_us)
    assert window.advance(words, 0, new_width * 10, soon_us) >= still
    assert window.advance(words, 0, new_width * 10, now_us + 33 * new_width * 10) == 0


def die(words: memoryview[int], stores: int, change: Callable[[memoryview[int]], object]) -> bool:
    """Do `change` with a process that dies after that many stores; False when it needed no more than these."""
    kept = array("q", words.tolist())
    try:
        change(Mortal(kept, stores))  # type: ignore[arg-type]
    except Killed:
        return True
    finally:
        for at, value in enumerate(kept):
            words[at] = value
    return False


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [
        pytest.param(lambda w: window.add(w, 0, 100), 36, 136, id="add"),
        pytest.param(lambda w: window.subtract(w, 0, 9_999, 3), 33, 36, id="subtract"),
        pytest.param(lambda w: window.advance(w, 0, WIDTH, 43_500), 24, 24, id="expire"),
        pytest.param(lambda w: window.advance(w, 0, 2 * WIDTH, 43_500), 24, 36, id="longer window"),
        pytest.param(lambda w: window.advance(w, 0, WIDTH // 2, 43_500), 13, 36, id="shorter window"),
    ],
)
def test_a_kill_at_any_store_loses_nothing_and_invents_nothing(
    change: Callable[[memoryview[int]], object], least: int, most: int
) -> None:
    stores = 0
    while True:
        words = filled(ENTRIES)
        killed = die(words, stores, change)
        width = words[2]
        at_us = 43_500 if least < 33 else 31_900
        used = window.advance(words, 0, width, at_us)
        assert least <= used <= most
        assert words[DIRTY] == 0
        window._close(words, 0)
        assert words[TOTAL] == sum(words[DATA : DATA + BUCKETS])
        assert min(words[DATA : DATA + BUCKETS]) >= 0
        if not killed:
            break
        stores += 1
    assert stores >= 1


def test_a_kill_during_the_repair_is_repaired() -> None:
    stores = 0
    while True:
        words = filled(ENTRIES)
        assert die(words, 10, lambda w: window.advance(w, 0, 2 * WIDTH, 31_900))
        killed = die(words, stores, lambda w: window.advance(w, 0, 2 * WIDTH, 31_900))
        assert window.advance(words, 0, 2 * WIDTH, 31_900) == 36
        window._close(words, 0)
        assert sum(words[DATA : DATA + BUCKETS]) == 36
        if not killed:
            break
        stores += 1
    assert stores >= 3
