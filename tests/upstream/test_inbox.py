"""Reads of streams in progress: looked at together, in order, and told from everything that is not one whole chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.upstream import SMALL_BYTES, Inbox, Outbox, openings
from routerd.upstream.inbox import Express, Reader

OPENINGS = openings(b"d")


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


class Client(asyncio.WriteTransport):
    """Keeps what was written, in a log that the reader shares."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.log.append(f"wrote {bytes(data).decode()}")


class Stream(Reader):
    """Takes what begins with `!`; everything else goes the usual way, and ends the shortcut."""

    def __init__(self, log: list[str], client: Client) -> None:
        self.log = log
        self._client = client
        self.express: Express | None = self.take

    def take(self, data: bytes) -> asyncio.WriteTransport | None:
        self.log.append(f"looked at {data.decode()}")
        return self._client if data.startswith(b"!") else None

    def parse(self, data: bytes) -> None:
        self.express = None
        self.log.append(f"parsed {data.decode()}")

    def drop(self) -> None:
        self.log.append("dropped")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def inbox(loop: Loop) -> Inbox:
    return Inbox(loop, Outbox(loop))  # type: ignore[arg-type]


def test_everything_is_looked_at_before_anything_is_written(loop: Loop, inbox: Inbox, log: list[str]) -> None:
    reader = Stream(log, Client(log))
    inbox.reads.append((reader, b"!1"))
    inbox.wake()
    inbox.reads.append((reader, b"!2"))
    assert log == []
    loop.turn()
    assert log == ["looked at !1", "looked at !2", "wrote !1", "wrote !2"]


def test_what_follows_a_refused_read_goes_the_usual_way_too(loop: Loop, inbox: Inbox, log: list[str]) -> None:
    client = Client(log)
    first, second = Stream(log, client), Stream(log, client)
    for reader, data in ((first, b"?1"), (first, b"!2"), (second, b"!3")):
        inbox.reads.append((reader, data))
    inbox.wake()
    loop.turn()
    assert log == ["looked at ?1", "parsed ?1", "parsed !2", "looked at !3", "wrote !3"]


def test_what_is_drained_by_hand_is_not_seen_twice(loop: Loop, inbox: Inbox, log: list[str]) -> None:
    inbox.reads.append((Stream(log, Client(log)), b"!1"))
    inbox.wake()
    inbox.drain()
    loop.turn()
    assert log == ["looked at !1", "wrote !1"]


def test_a_reader_that_fails_takes_nobody_with_it(loop: Loop, inbox: Inbox, log: list[str]) -> None:
    class Broken(Stream):
        def take(self, data: bytes) -> asyncio.WriteTransport | None:
            raise ZeroDivisionError

    client = Client(log)
    inbox.reads.append((Broken(log, client), b"!1"))
    inbox.reads.append((Stream(log, client), b"!2"))
    inbox.wake()
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert log == ["dropped", "looked at !2", "wrote !2"]


@pytest.mark.parametrize("spelling", [b"%x", b"%X"])
def test_every_small_chunk_is_known_by_its_opening(spelling: bytes) -> None:
    for size in range(1, SMALL_BYTES - 7):
        read = (spelling + b"\r\n%b\r\n") % (size, b"d" * size)
        assert read.startswith(OPENINGS[len(read)])


@given(st.integers(0, SMALL_BYTES), st.sampled_from([b"%x", b"%X", b"0%x", b" %x", b"%x;a", b"+%x", b"0x%x"]), st.integers(-3, 3))
def test_nothing_else_is(size: int, spelling: bytes, wrong: int) -> None:
    line = spelling % (size + wrong) if size + wrong >= 0 else b"-1"
    read = line + b"\r\n" + b"d" * size + b"\r\n"
    known = len(read) < SMALL_BYTES and read.startswith(OPENINGS[len(read)])
    assert known == (size > 0 and wrong == 0 and spelling in (b"%x", b"%X") and len(read) < SMALL_BYTES)
