"""The built-in upstream: plays what `wire.simulator` composed into a Sink, with its delays, on the event loop.

It opens nothing; an attempt cannot tell it from a Connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from routerd.upstream.connection import Headers, Sink
from routerd.upstream.inbox import Express

__all__ = ["Script", "SimulatedExchange"]

# What the simulator answers to a request: (status, headers, [(delay before it in seconds, piece of the body), ...])
Script = Callable[[bytes], tuple[int, Headers, Iterator[tuple[float, bytes]]]]


class SimulatedExchange:
    """One simulated exchange. `send` takes the request's body (there is no head to write)."""

    __slots__ = ("_handle", "_held", "_loop", "_paused", "_pieces", "_script", "_sink")

    def __init__(self, loop: asyncio.AbstractEventLoop, script: Script) -> None:
        self._loop = loop
        self._script = script
        self._sink: Sink | None = None
        self._pieces: Iterator[tuple[float, bytes]] = iter(())
        self._handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._paused = False
        self._held: bytes | None = None

    def send(self, data: bytes, sink: Sink, rest: bytes = b"") -> None:
        """Compose the answer and start to play it."""
        self._sink = sink
        status, headers, self._pieces = self._script(data + rest)
        self._handle = self._loop.call_soon(self._start, status, headers)

    def _start(self, status: int, headers: Headers) -> None:
        if self._sink is not None:
            self._sink.on_head(status, headers)
            self._next()

    def _next(self) -> None:
        step = next(self._pieces, None)
        if step is not None:
            self._handle = self._loop.call_later(step[0], self._play, step[1])
            return
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_end()

    def _play(self, piece: bytes) -> None:
        if self._paused:
            self._held = piece
            return
        if self._sink is not None:
            self._sink.on_body(piece)
        if self._sink is not None:
            self._sink.on_flush()
            self._next()

    def abort(self) -> None:
        """Stop; the sink hears nothing more."""
        self._sink = None
        if self._handle is not None:
            self._handle.cancel()

    def linger(self) -> None:
        """Nothing is left to read."""
        self.abort()

    def expedite(self, take: Express) -> None:
        """Nothing comes in chunks."""

    def pause(self) -> None:
        """Hold the next piece."""
        self._paused = True

    def resume(self) -> None:
        """Go on with the held piece."""
        self._paused = False
        held, self._held = self._held, None
        if held is not None:
            self._play(held)
