"""A plain request's way through aiohttp's server: its parser, its bodies and its timers, without most of what surrounds them.

Plain is a request that asks for no upgrade and that nothing stands behind when its turn comes; its body is here or on its way.
The first thing on a connection that is not plain (what is not HTTP, an upgrade, several requests in one packet) goes to aiohttp's
own loop, and so does all behind it. What a handler raises is answered by aiohttp, too.

A request is handled in the connection's own task. aiohttp makes a task for each, to give it a context of its own (aiohttp issue
3406); no handler here changes the context, and a task costs two turns of the loop.

`INSIDE` names what is used of aiohttp's inside. A release that lacks any of it (those before 3.14) serves by its own loop:
slower, and the same to clients. Tests hold these names, and that aiohttp's loop looks at nothing that is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH
from aiohttp.http import HttpRequestParser, HttpVersion, RawRequestMessage, StreamWriter
from aiohttp.streams import StreamReader

from routerd.upstream import Outbox

__all__ = ["ClientRequest", "PlainHandler", "request_factory", "taken"]

INSIDE = frozenset(
    {"_loop", "_messages", "_waiter", "_parser", "_handle_request", "_request_handler", "_task_handler"}
    | {"_close", "_force_close", "_current_request", "_lingering_time", "_reading_paused"}
    | {"_next_keepalive_close_time", "_keepalive_handle", "_process_keepalive"}
)
KNOWN = all(hasattr(web.RequestHandler, name) for name in INSIDE) and hasattr(HttpRequestParser, "message_consumed")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_NONE: Final[deque[bytes]] = deque()


class ClientRequest(web.BaseRequest):
    """aiohttp's request; what every request is asked for stands ready, all else is made when something asks for it."""

    __slots__ = ("_connection", "_read", "content", "headers", "keep_alive", "method", "raw_path")
    _whole = False

    def __init__(self, message: RawRequestMessage, payload: StreamReader, protocol: PlainHandler, *_: Any) -> None:
        self._read = message
        self._connection = protocol
        self.content = payload
        self.headers = message.headers
        self.method = message.method
        self.raw_path = message.path
        self.keep_alive = not message.should_close

    def __getattr__(self, name: str) -> Any:
        """Make the rest; called for what is not there."""
        if self._whole:
            raise AttributeError(name)
        self._whole = True
        protocol, loop = self._connection, asyncio.get_running_loop()
        task = cast("asyncio.Task[None]", protocol._task_handler)
        super().__init__(self._read, self.content, protocol, StreamWriter(protocol, loop), task, loop)
        return getattr(self, name)

    @property
    def version(self) -> HttpVersion:
        """Of HTTP."""
        return self._read.version

    @property
    def protocol(self) -> PlainHandler:
        """The connection's protocol."""
        return self._connection

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection; None when it is lost."""
        return self._connection.transport

    @property
    def remote(self) -> str | None:
        """The client's address, when it has gone, too."""
        return self._connection.remote

    @property
    def content_length(self) -> int | None:
        """The length of the body, where the client said it."""
        length = self.headers.get(CONTENT_LENGTH)
        return None if length is None else int(length)


def request_factory() -> Any:
    """Return what aiohttp's loop makes requests with; None: its own. Every connection here is a PlainHandler."""
    return ClientRequest if KNOWN else None  # older ones cannot be completed when the client has gone


def taken(request: web.BaseRequest) -> bytes | None:
    """Return the body when the whole of it is here; None: it is not.

    Raises RequestPayloadError for one that could not be decoded. A read by aiohttp's own means resumes what may be paused, parser
    and transport; there is nothing to resume for a body of one piece that has come to its end without a pause.
    """
    content = request.content
    if not content.is_eof():
        return None
    pieces: deque[bytes] = getattr(content, "_buffer", _NONE)  # the reader of an empty body has none
    if len(pieces) == 1 and content.exception() is None and not request.protocol._reading_paused:
        return pieces.popleft()
    return content.read_nowait()


class PlainHandler(web.RequestHandler):
    """One connection, on which plain requests are served here and all else by aiohttp's loop."""

    __slots__ = ("outbox", "remote")

    def __init__(self, manager: web.Server, *, outbox: Outbox, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.outbox = outbox
        self.remote: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the connection."""
        address = transport.get_extra_info("peername")
        if address is not None:
            self.remote = str(address[0] if isinstance(address, tuple) else address)
        super().connection_made(transport)

    @property
    def closing(self) -> bool:
        """Whether no request is taken any more: the answer that is due is the last."""
        return self._close

    def force_close(self) -> None:
        """Close now; an answer that was given is sent."""
        self.outbox.flush()
        super().force_close()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on. At the end of each body, too (and then only the transport): nothing is to do where nothing was paused."""
        if resume_parser:
            super().resume_reading()
        elif self._reading_paused:
            super().resume_reading(resume_parser=False)

    async def start(self) -> None:
        """Serve the connection."""
        if not KNOWN or self._parser is None or self._request_handler is None:
            return await super().start()
        loop, handler, consumed = self._loop, self._request_handler, self._parser.message_consumed
        patience_s = self.keepalive_timeout
        messages = cast("deque[tuple[RawRequestMessage, StreamReader]]", self._messages)
        while not self._force_close:
            if not messages:
                self._waiter = loop.create_future()
                try:
                    await self._waiter
                except asyncio.CancelledError:  # closed while it was idle
                    break
                finally:
                    self._waiter = None
            message, payload = messages[0]
            if len(messages) > 1 or message.__class__ is not RawRequestMessage or message.upgrade:
                return await super().start()
            messages.popleft()
            consumed()
            if not await self._serve(handler, message, payload):
                break
            del message, payload  # while the connection is idle
            self._next_keepalive_close_time = due_s = loop.time() + patience_s
            if self._keepalive_handle is None:
                self._keepalive_handle = loop.call_at(due_s, self._process_keepalive)
        if not self._force_close and self.transport is not None:
            self.outbox.flush()
            self.transport.close()
        return None

    async def _serve(self, handler: Handler, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Answer one request; return whether another may follow."""
        request = self._current_request = ClientRequest(message, payload, self)
        try:
            try:
                response = await handler(request)
            except Exception as exc:
                response, _ = await self._handle_request(request, None, raising(exc))
            else:
                await response.prepare(request)
                await response.write_eof()
            if not payload.is_eof() and not await self._lingered(payload):
                return False
        except ConnectionError:  # the client has gone
            return False
        except Exception as exc:
            self.log_exception("Unhandled exception", exc_info=exc)
            self.force_close()
            return False
        except BaseException:
            self.force_close()
            raise
        finally:
            self._current_request = None
        return response.keep_alive is True and not self._close

    async def _lingered(self, payload: StreamReader) -> bool:
        """Read what nobody read of a body, so that its sender sees the answer and not a reset; return whether it ended."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof():
                    await payload.readany()
        except TimeoutError:
            return False
        return True


def raising(exc: Exception) -> Handler:
    """Return a handler that raises this."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise exc

    return handler
