"""Rules of the board: slots by identity, kept over removals, shared by processes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from routerd.state import Board
from routerd.state.board import COLUMN_WORDS, GONE_US, HEAD_WORDS, KEEP_REMOVED_S

MARK = HEAD_WORDS - 1  # a word of the head that nobody uses


def key(number: int) -> bytes:
    return struct.pack("=qq", number + 1, number)


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(slots=4, workers=2)
    yield board
    os.close(board.fd)


def test_an_identity_has_one_slot_in_every_process(board: Board) -> None:
    board.slot(key(1), 10.0)[MARK] = 7
    other = Board.attach(os.dup(board.fd), worker=1)
    assert other.slot(key(1), 11.0)[MARK] == 7
    assert other.slot(key(2), 11.0)[MARK] == 0
    assert other.slot(key(5), 11.0)[MARK] == 0, "another key with the same first place"
    os.close(other.fd)


@pytest.mark.parametrize(("later_s", "kept"), [(KEEP_REMOVED_S - 1, 7), (KEEP_REMOVED_S + 1, 0)])
def test_removed_and_back_within_ten_minutes_is_the_last_state(board: Board, later_s: float, kept: int) -> None:
    words = board.slot(key(1), 10.0)
    words[MARK] = 7
    board.retire(words, 10.0)
    again = board.slot(key(1), 10.0 + later_s)
    assert (again[MARK], again[GONE_US]) == (kept, 0)


def test_a_full_board_takes_the_slot_that_is_gone_longest_and_holds_nothing(board: Board) -> None:
    slots = [board.slot(key(n), 10.0) for n in range(4)]
    for words in slots:
        words[MARK] = 7
    for n in (1, 2, 3):
        board.retire(slots[n], 10.0 + n)
    slots[1][HEAD_WORDS] = 1
    assert board.slot(key(9), 20.0)[MARK] == 0
    assert [board.slot(key(n), 20.0)[MARK] for n in (0, 1, 3)] == [7, 7, 7]


def test_a_board_without_room_gives_memory_of_its_own(board: Board) -> None:
    for n in range(4):
        board.slot(key(n), 10.0)
    words = board.slot(key(9), 10.0)
    words[MARK] = 1
    assert len(words) == HEAD_WORDS + 2 * COLUMN_WORDS
    assert board.slot(key(9), 10.0)[MARK] == 0


def test_a_dead_worker_holds_nothing_and_what_it_counted_stays(board: Board) -> None:
    words = board.slot(key(1), 10.0)
    words[MARK], words[HEAD_WORDS], words[HEAD_WORDS + 3], words[HEAD_WORDS + COLUMN_WORDS] = 7, 2, 9, 5
    assert board.drop_worker(0) == 2
    assert (words[MARK], words[HEAD_WORDS], words[HEAD_WORDS + 3], words[HEAD_WORDS + COLUMN_WORDS]) == (7, 0, 9, 5)


def test_what_is_no_board_is_refused(board: Board) -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="no board"):
        Board.attach(fd, worker=0)
    os.close(fd)
    with pytest.raises(ValueError, match="worker 2 of 2"):
        Board.attach(board.fd, worker=2)


def test_endless_reloads_with_other_endpoints_stay_bounded() -> None:
    board = Board.private(slots=8)
    for turn in range(200):
        words = board.slot(key(turn), float(turn))
        words[MARK] = turn
        board.retire(words, float(turn))
    assert board.slot(key(199), 200.0)[MARK] == 199
