"""Reads of streams in progress, looked at together when all sockets of a turn of the event loop have been read.

Between two system calls the processor forgets our code; looked at in a row, only the first chunk pays for that (25 us of CPU a
chunk against 27 in one run). Then all that they brought is written in a row as well, for the reasons in `outbox`.

Such a read is, nearly always, exactly one chunk of a chunked body with one event in it. That is told at a glance, by what it
begins with given its length (`openings`), and a client that is answered in chunks takes it as it is, frame and all. Everything
else (several chunks, half of one, extensions, another spelling of the size) is the parser's. RFC 9112 section 7.1: the size is
hexadecimal; servers write it in small letters (Go, Python, Node) or in capitals (Rust), without leading zeros.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from routerd.upstream.outbox import Outbox

__all__ = ["SMALL_BYTES", "Express", "Inbox", "openings"]

SMALL_BYTES = 2048  # an event of a stream is 200 to 400 bytes; a longer one is worth a parser

# Takes a read: returns where to write it as it came, or None where it must go the usual way.
Express = Callable[[bytes], asyncio.WriteTransport | None]


class Reader(Protocol):
    """Whose read it is."""

    express: Express | None  # what takes its next read

    def parse(self, data: bytes) -> None:
        """Take a read the usual way."""

    def drop(self) -> None:
        """Break off: what it read could not be looked at."""


class Inbox:
    """One a worker. A connection appends to `reads`, and wakes it before the first."""

    __slots__ = ("_loop", "outbox", "reads")

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._loop = loop
        self.outbox = outbox
        self.reads: deque[tuple[Reader, bytes]] = deque()

    def wake(self) -> None:
        """Let the reads be looked at when this turn of the loop is over."""
        self._loop.call_soon(self.drain)

    def drain(self) -> None:
        """Look at everything now, in order, and write what it brought."""
        reads, outbox = self.reads, self.outbox
        while reads:
            reader, data = reads.popleft()
            try:
                express = reader.express
                client = express(data) if express is not None else None
                if client is not None:
                    outbox.queue.append((client, data))
                else:
                    reader.parse(data)
            except BaseException:  # a bug of ours: as in a loop's own callback, it costs this connection and no other
                reader.drop()
                self.wake()
                raise
        outbox.flush()


def openings(data: bytes) -> tuple[bytes | tuple[bytes, ...], ...]:
    """Return, by its length, what a read begins with that is one whole chunk whose content begins with `data`.

    For `bytes.startswith`; the rest of the check is that it ends with CRLF. A length that no such chunk has fits nothing.
    """
    return tuple([_opening(length, data) for length in range(SMALL_BYTES)])


def _opening(length: int, data: bytes) -> bytes | tuple[bytes, ...]:
    for digits in (1, 2, 3):
        size = length - digits - 4
        if size >= len(data) and len(b"%x" % size) == digits:
            small, capital = b"%x\r\n%b" % (size, data), b"%X\r\n%b" % (size, data)
            return small if small == capital else (small, capital)
    return bytes(length + 1)
