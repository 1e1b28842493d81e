"""Writes of one turn: done together, in order, and not on a transport that closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from routerd.upstream import Outbox
from routerd.upstream.outbox import HIGH_BYTES


class Loop:
    """Keeps what is to be called soon."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self) -> None:
        calls, self.soon = self.soon, []
        for call in calls:
            call()


class Transport(asyncio.WriteTransport):
    """Tells a shared list what was written to whom; `on_write` runs inside a write."""

    def __init__(self, name: str, log: list[tuple[str, bytes]], on_write: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.name = name
        self.log = log
        self.closing = False
        self.on_write = on_write

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.log.append((self.name, bytes(data)))
        if self.on_write is not None:
            self.on_write()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def outbox(loop: Loop) -> Outbox:
    return Outbox(loop)  # type: ignore[arg-type]


@pytest.fixture
def log() -> list[tuple[str, bytes]]:
    return []


def test_nothing_is_written_before_the_turn_is_over_and_then_everything_in_order(
    loop: Loop, outbox: Outbox, log: list[tuple[str, bytes]]
) -> None:
    a, b = Transport("a", log), Transport("b", log)
    outbox.post(a, b"1")
    outbox.post(b, b"2")
    outbox.post(a, b"3")
    assert log == []
    loop.turn()
    assert log == [("a", b"1"), ("b", b"2"), ("a", b"3")]


def test_a_turn_has_one_flush_however_much_is_posted(loop: Loop, outbox: Outbox, log: list[tuple[str, bytes]]) -> None:
    for _ in range(5):
        outbox.post(Transport("a", log), b"x")
    assert len(loop.soon) == 1
    loop.turn()
    assert (outbox.turn, loop.soon) == (1, [])
    outbox.post(Transport("a", log), b"y")
    assert len(loop.soon) == 1


def test_a_transport_that_closes_is_skipped_and_the_others_are_not(
    loop: Loop, outbox: Outbox, log: list[tuple[str, bytes]]
) -> None:
    gone, there = Transport("gone", log), Transport("there", log)
    outbox.post(gone, b"1")
    outbox.post(there, b"2")
    gone.closing = True
    loop.turn()
    assert log == [("there", b"2")]


def test_a_flush_by_hand_leaves_nothing_for_the_turn_to_write_twice(
    loop: Loop, outbox: Outbox, log: list[tuple[str, bytes]]
) -> None:
    outbox.post(Transport("a", log), b"1")
    outbox.flush()
    assert log == [("a", b"1")]
    loop.turn()
    assert log == [("a", b"1")]


def test_what_a_write_posts_waits_for_the_next_turn(loop: Loop, outbox: Outbox, log: list[tuple[str, bytes]]) -> None:
    second = Transport("second", log)
    first = Transport("first", log, lambda: outbox.post(second, b"2"))
    outbox.post(first, b"1")
    loop.turn()
    assert log == [("first", b"1")]
    loop.turn()
    assert log == [("first", b"1"), ("second", b"2")]


def test_much_of_one_turn_is_written_at_once_so_that_a_full_client_can_say_so(
    loop: Loop, outbox: Outbox, log: list[tuple[str, bytes]]
) -> None:
    slow, other = Transport("slow", log), Transport("other", log)
    outbox.post(other, b"first")
    outbox.post(slow, b"x" * HIGH_BYTES)
    assert [name for name, _ in log] == ["other", "slow"]
    outbox.post(slow, b"y")
    assert len(log) == 2
    loop.turn()
    assert log[2:] == [("slow", b"y")]
