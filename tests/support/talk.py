"""A data server without sockets: packets in, answers out, time that passes when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVarTuple, cast

from aiohttp import web

from routerd.errors import RequestError
from routerd.server.http.plain import taken
from routerd.server.http.protocol import ClientProtocol, DataServer, Reply
from routerd.server.http.render import error_reply
from routerd.upstream import Outbox
from tests.bench.counting.loop import StepLoop, Wire

__all__ = ["Heard", "Talk", "ask", "body_of", "talking"]

_Ts = TypeVarTuple("_Ts")
Heard = tuple[str, str, bytes]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HandLoop(StepLoop):
    """Timers fire when `wait` passes them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.time = lambda: self.now_s  # type: ignore[method-assign]  # StepLoop's own moves at each look
        self._timers: list[tuple[float, asyncio.TimerHandle, Callable[[], Any]]] = []

    def call_at(self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._timers.append((when, handle, partial(callback, *args)))
        return handle

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        due = [timer for timer in self._timers if timer[0] <= self.now_s]
        self._timers = [timer for timer in self._timers if timer[0] > self.now_s]
        for _, handle, call in due:
            if not handle.cancelled():
                call()
        self.turn()


class Talk:
    """One client of a server whose handler is `handler`; without one, requests are heard and answered with their number."""

    def __init__(self, loop: HandLoop, handler: Handler | None = None) -> None:
        self.loop = loop
        self.heard: list[Heard] = []
        self.server = DataServer(handler or self._hear, self._refused, Outbox(loop))
        loop.run(loop.create_server(self.server))
        self.wire: Wire = loop.connect()

    @property
    def protocol(self) -> ClientProtocol:
        """The server's end."""
        return cast(ClientProtocol, self.wire.get_protocol())

    @property
    def open(self) -> bool:
        """Whether the server has not closed."""
        return not self.wire.is_closing()

    def say(self, *packets: bytes, turn: bool = True) -> bytes:
        """Send packets, the loop at rest behind each; return what came back. Whoever is hung up on sends nothing more."""
        for packet in packets:
            if self.open:
                self.wire.feed(packet)
            if turn:
                self.loop.turn()
        return self.wire.taken()

    def hang_up(self) -> None:
        """Close the client's end."""
        self.wire.close()
        self.loop.turn()

    async def _hear(self, request: web.BaseRequest) -> web.StreamResponse:
        for _ in range(int(request.headers.get("Turns", "0"))):
            await asyncio.sleep(0)
        body = b"" if "Unread" in request.headers else await body_of(request)
        self.heard.append((request.method, request.raw_path, body))
        return cast(web.StreamResponse, Reply(200, "", b"%d" % len(self.heard)))

    def _refused(self, _: web.BaseRequest, status: int, message: str) -> Reply:
        error = RequestError(message, code="invalid_http")
        error.status = status
        return error_reply(error, "")


async def body_of(request: web.BaseRequest) -> bytes:
    """Return the body, taken where it is whole, else read as it comes."""
    body = taken(request)
    if body is not None:
        return body
    pieces = []
    while piece := await request.content.readany():
        pieces.append(piece)
    return b"".join(pieces)


def ask(body: bytes = b"", *fields: str, line: str = "POST /v1 HTTP/1.1", length: bool = True) -> bytes:
    """Build a request."""
    lines = [line, "Host: routerd", *([f"Content-Length: {len(body)}"] if length and line.startswith("POST") else []), *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def talking(handler: Handler | None = None) -> Iterator[Talk]:
    """Give a talk in a running loop."""
    loop = HandLoop()  # type: ignore[abstract]  # what nobody asks for is not there
    with loop.running():
        talk = Talk(loop, handler)
        try:
            yield talk
        finally:
            talk.hang_up()
