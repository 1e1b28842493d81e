"""The seam to aiohttp's server: what we add to it and what we write past it. Nothing else here knows aiohttp's classes.

aiohttp parses, keeps connections alive, limits heads and cancels the handler when its client goes. Two things are ours:
- A response is one prepared block of bytes, written in one call (`Reply`); aiohttp's own response objects cost more than the
  rest of a request together.
- A stream is pushed into the transport from the upstream's read callback (`ClientStream`); the connection's pause and resume go
  to whoever feeds it, so that a slow client slows its upstream down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol, TypeVar, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from routerd.graph import Client
from routerd.policy import ClientIndex
from routerd.server.http.plain import PlainHandler, request_factory
from routerd.upstream import Outbox

__all__ = ["ClientProtocol", "ClientStream", "DataServer", "Feeder", "Proven", "Reply", "head_of"]

_log = logging.getLogger("routerd.server")
T = TypeVar("T")

KEEPALIVE_S = 75.0  # nginx's default; also what a client has to finish its first head
STALLED_S = 60.0  # that a client may leave a whole answer unread before the next one is due; the default of `idle`
MAX_LINE_BYTES = 8190
MAX_FIELD_BYTES = 16 * 1024  # session headers and long bearer tokens (JWT) fit
MAX_HEADERS = 128
_REASONS = {int(status): status.phrase for status in HTTPStatus}


class Feeder(Protocol):
    """Whoever pushes bytes to a client: told when the client's buffer is full."""

    def pause(self) -> None:
        """Push nothing more for now."""

    def resume(self) -> None:
        """Go on."""


class Proven:
    """A key that came on this connection, the index that knew it, and for whom (None: anybody may call)."""

    __slots__ = ("client", "clients", "key")

    def __init__(self, clients: ClientIndex, key: str, client: Client | None) -> None:
        self.clients = clients
        self.key = key
        self.client = client


class Clock:
    """The Date header, formatted once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self) -> str:
        """Return the current date as RFC 9110 section 5.6.7 wants it."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True)
        return self._text


_clock = Clock()


def head_of(status: int, fields: str, *, keep_alive: bool = True) -> bytes:
    """Return a response head up to its last field. `fields` are whole lines, each ended by CRLF, already free of controls."""
    close = "" if keep_alive else "connection: close\r\n"
    text = f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\ndate: {_clock.text()}\r\n{close}{fields}"
    return text.encode("latin-1", "replace")


class Reply:
    """A whole response. Quacks as much of aiohttp's StreamResponse as its server asks for."""

    __slots__ = ("body", "fields", "keep_alive", "status")

    def __init__(self, status: int, fields: str, body: bytes = b"", *, keep_alive: bool = True) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything at once. Raises ConnectionResetError when the client has gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        protocol = cast(ClientProtocol, request.protocol)
        if protocol.writing_paused:
            await protocol.taken()
        self.keep_alive = self.keep_alive and request.keep_alive and not protocol.closing
        head = head_of(self.status, self.fields, keep_alive=self.keep_alive)
        length = b"" if self.status == 204 else b"content-length: %d\r\n" % len(self.body)
        outbox = protocol.outbox
        outbox.post(transport, b"%b%b\r\n%b" % (head, length, b"" if request.method == "HEAD" else self.body))
        if not self.keep_alive:  # aiohttp closes the connection next
            outbox.flush()

    async def write_eof(self) -> None:
        """Nothing is left to write."""


class Streamed:
    """What a handler returns after it has streamed: the response is out already."""

    __slots__ = ("keep_alive", "status")

    def __init__(self, keep_alive: bool) -> None:
        self.status = 200
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to do."""

    async def write_eof(self) -> None:
        """Nothing to do."""


class ClientStream:
    """The client's side of a stream: the head goes out with the first bytes. Framed by `length` where that is known, else in
    chunks (HTTP/1.0: until close).
    """

    __slots__ = ("_chunked", "_head", "_outbox", "_transport", "keep_alive")

    def __init__(self, request: web.BaseRequest, fields: str, *, status: int = 200, length: int | None = None) -> None:
        protocol = cast(ClientProtocol, request.protocol)
        self._chunked = length is None and request.version >= (1, 1)
        self.keep_alive = request.keep_alive and not protocol.closing and (self._chunked or length is not None)
        framing = "transfer-encoding: chunked\r\n" if self._chunked else ""
        if length is not None:
            framing = f"content-length: {length}\r\n"
        self._head = head_of(status, f"{fields}{framing}", keep_alive=self.keep_alive) + b"\r\n"
        self._transport = request.transport
        self._outbox = protocol.outbox

    def write(self, data: bytes) -> None:
        """Push bytes of the body."""
        transport = self._transport
        if transport is None or not data:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._outbox.post(transport, data)

    def framed(self) -> asyncio.WriteTransport | None:
        """Return where whole chunks go that are framed already, behind the first `write`. None: this body is not in chunks."""
        return self._transport if self._chunked else None

    def end(self) -> None:
        """Push the end of the body."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        last = b"0\r\n\r\n" if self._chunked else b""
        self._outbox.post(transport, self._head + last)
        self._head = b""
        if not self.keep_alive:  # aiohttp closes the connection next
            self._outbox.flush()

    def cut(self) -> None:
        """Close without an end: the client must see that something is missing.

        In the next turn, behind whoever waits for the end of the stream: an abort cancels the handler.
        """
        transport, self._transport = self._transport, None
        self.keep_alive = False
        if transport is not None:
            self._outbox.flush()
            asyncio.get_running_loop().call_soon(transport.abort)

    def finished(self) -> web.StreamResponse:
        """Return what the handler gives back to aiohttp."""
        return cast(web.StreamResponse, Streamed(self.keep_alive))


class ClientProtocol(PlainHandler):
    """One client connection. `feeder` is set while a stream runs on it."""

    __slots__ = ("feeder", "proven", "render_error")

    def __init__(
        self,
        manager: web.Server,
        *,
        outbox: Outbox,
        render_error: Callable[[web.BaseRequest, int, str], Reply],
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, outbox=outbox, **kwargs)
        self.feeder: Feeder | None = None
        self.proven: Proven | None = None
        self.render_error = render_error

    def feed(self, feeder: Feeder) -> None:
        """Let `feeder` push from now on; paused, where the client has not yet taken the answer before (it pipelines)."""
        self.feeder = feeder
        if self._paused:
            feeder.pause()

    async def taken(self, within_s: float = STALLED_S) -> None:
        """Wait while the client's buffer is full: one that pipelines and reads nothing gets no second answer into it.

        A client that has read nothing for so long is cut off, which cancels the handler.
        """
        if self._paused and self.transport is not None:
            timer = self._loop.call_later(within_s, self.transport.abort)
            try:
                await self._drain_helper()
            finally:
                timer.cancel()

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        super().pause_writing()
        if self.feeder is not None:
            self.feeder.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self.feeder is not None:
            self.feeder.resume()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Keep clients from writing tracebacks into the log: a body that cannot be decoded is theirs, and answered."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, or a bug of ours, in the shape of every other error."""
        if isinstance(exc, HttpProcessingError) or status < 500:
            text = "The request is not valid HTTP: " + " ".join((message or str(exc)).split())[:200]
        else:
            _log.error("a request failed inside routerd", exc_info=exc)
            text = "routerd failed on this request; its log has the details."
        reply = self.render_error(request, status, text)
        reply.keep_alive = False
        return cast(web.StreamResponse, reply)


class DataServer(web.Server):
    """aiohttp's low-level server with our connection class; calling it makes a connection."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        render_error: Callable[[web.BaseRequest, int, str], Reply],
        outbox: Outbox,
    ) -> None:
        super().__init__(handler, handler_cancellation=True, request_factory=request_factory())
        self._outbox = outbox
        self._render_error = render_error
        self._event_loop = asyncio.get_running_loop()

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one accepted connection."""
        return ClientProtocol(
            self,
            outbox=self._outbox,
            render_error=self._render_error,
            loop=self._event_loop,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=5.0,
        )
