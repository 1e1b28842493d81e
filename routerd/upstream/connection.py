"""One HTTP/1.1 connection to an upstream: bytes in, calls on a Sink out.

It decides nothing about retries. It enforces the limits of a head, skips 1xx answers and trailers, decodes gzip and deflate,
and knows when a connection may be used again: the answer was complete, framed by length or chunks, `Connection: close` was not
said, and not one byte followed it. States: IDLE -> HEAD (request sent) -> BODY -> IDLE or CLOSED.
RFC 9112 sections 6.3 (framing), 9.3 (persistence); RFC 9110 section 15.2 (1xx).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import httptools

from routerd.errors import UpstreamError
from routerd.upstream.faults import lost_fault, protocol_fault, stale_fault
from routerd.upstream.inbox import SMALL_BYTES, Express, Inbox
from routerd.upstream.stale import unprocessed

__all__ = ["OVER", "Connection", "Exchange", "Headers", "Sink"]

Headers = list[tuple[bytes, bytes]]

PIECE_BYTES = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024  # nginx allows 4 to 8 buffers of 8 KiB; rate-limit headers of all vendors together stay below 4 KiB
END_OF_EVENT = b"\n\n\r\n"  # and of the chunk that it is in
LINGER_S = 1.0  # after the meaning of an answer is complete, its framing may take this long to end


class Sink(Protocol):
    """Where an exchange goes. Called in the transport's callback: must not block and must not raise."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Take the final (not 1xx) answer's status and headers; names are lower-case."""

    def on_body(self, data: bytes) -> None:
        """Take a piece of the decoded body."""

    def on_flush(self) -> None:
        """Everything of one read has been handed over: write what was collected."""

    def on_end(self) -> None:
        """The body is complete."""

    def on_fail(self, error: UpstreamError) -> None:
        """The exchange failed. Delivery NOT_SENT: the upstream cannot have had the whole request."""


class Exchange(Protocol):
    """What an attempt holds: one exchange that runs.

    After `linger`, and from the call of the sink's `on_end` on, the connection may carry the next one: whoever holds it then lets
    go of it (`OVER` stands in its place), or he would stop the exchange of another request.
    """

    def send(self, data: bytes, sink: Sink, rest: bytes = b"", /) -> None:
        """Write the request, `data` and then `rest`, and push the answer into `sink`."""

    def abort(self) -> None:
        """Stop now; the sink hears nothing more."""

    def linger(self) -> None:
        """The sink needs nothing more; let the framing end by itself and keep the connection if it does."""

    def pause(self) -> None:
        """Stop reading: the client is slower than the upstream."""

    def resume(self) -> None:
        """Read on."""

    def expedite(self, take: Express) -> None:
        """Offer the next reads to `take`, as they come, until it refuses one: that and those after it go the usual way.

        It takes a read that is one whole chunk of the body, by `openings`, and does what the sink would have done with it. Asked
        for in `on_flush`; nothing happens where the body is not in chunks, or the last read ended within one.
        """


class _Over:
    """What a sink holds instead of an exchange that is over."""

    def send(self, _data: bytes, _sink: Sink, _rest: bytes = b"", /) -> None:
        raise AssertionError("the exchange is over")

    def abort(self) -> None: ...

    def linger(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def expedite(self, take: Express) -> None: ...


OVER: Exchange = _Over()


class Connection(asyncio.Protocol):
    """A connection and the exchange it carries. `on_idle` is called whenever it can be used again, `on_closed` once."""

    __slots__ = (
        "_asked",
        "_complete",
        "_decoder",
        "_fed_bytes",
        "_framed",
        "_head_done",
        "_headers",
        "_inbox",
        "_interim",
        "_keep",
        "_linger_handle",
        "_loop",
        "_on_border",
        "_on_closed",
        "_on_idle",
        "_outbox",
        "_parser",
        "_paused",
        "_posted_turn",
        "_reads",
        "_rest",
        "_sending",
        "_sink",
        "_stale",
        "_writable",
        "closed",
        "exchanges",
        "express",
        "idle_since_s",
        "transport",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        inbox: Inbox,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._inbox = inbox
        self._reads = inbox.reads
        self._outbox = inbox.outbox
        self._posted_turn = -1
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._parser = httptools.HttpResponseParser(self)
        self._sink: Sink | None = None
        self._linger_handle: asyncio.TimerHandle | None = None
        self._paused = False
        self._stale = False
        self._sending = False  # the request's body is still on its way
        self._writable: asyncio.Future[None] | None = None  # set while the transport's buffer is full
        self._reset()
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.exchanges = 0
        self.idle_since_s = 0.0

    def _reset(self) -> None:
        self._headers: Headers = []
        self._head_done = False
        self._interim = False
        self._complete = False
        self._framed = False
        self._keep = False
        self._sending = False
        self._rest = memoryview(b"")  # of the request's body: what is not written yet
        self._fed_bytes = 0
        self._decoder: _Decoder | None = None
        self._asked: Express | None = None
        self.express: Express | None = None  # takes the next read, if that is one whole chunk
        self._on_border = False  # between two chunks of the body

    # ── what an attempt calls ──

    def send(self, data: bytes, sink: Sink, rest: bytes = b"") -> None:
        """Write one whole request, `data` and then `rest`; its answer is pushed into `sink`."""
        assert self.transport is not None and self._sink is None
        self._reset()
        self._sink = sink
        self.exchanges += 1
        self._posted_turn = self._outbox.turn
        self._outbox.post(self.transport, data)
        if rest:
            self._sending = True
            self._rest = memoryview(rest)
            self._loop.call_soon(self._write_rest)  # behind the flush that writes `data`

    def begin(self, head: bytes, sink: Sink) -> None:
        """Write the head of a request whose body follows in pieces: `more` for each, `more(b"", last=True)` at the end."""
        self.send(head, sink)
        self._sending = True

    def more(self, data: bytes, *, last: bool = False) -> None:
        """Write a piece of the request's body; nothing happens once the connection is closed."""
        if data and self.transport is not None and not self.closed:
            self._outbox.post(self.transport, data)
        if last:
            self._sending = False

    async def writable(self) -> None:
        """Wait while the upstream takes nothing more. Returns at once when it does, or when the connection is closed."""
        if self._writable is not None and not self.closed:
            await asyncio.shield(self._writable)

    def abort(self) -> None:
        """Close at once; the sink hears nothing more."""
        self._sink = self.express = None
        self._close()

    def linger(self) -> None:
        """Read the rest of the framing without a sink; close if it does not end within LINGER_S."""
        self.express = None
        if self._complete or self.closed:
            self._sink = None
            return
        self._sink = _Ignore()
        self.resume()
        self._linger_handle = self._loop.call_later(LINGER_S, self._close)

    def pause(self) -> None:
        """Stop reading from the upstream."""
        if not self._paused and not self.closed and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if not self.closed and self.transport is not None:
                self.transport.resume_reading()

    def expedite(self, take: Express) -> None:
        """Let `take` have the next reads, as long as each is one whole chunk."""
        if self._on_border and self._decoder is None:
            self._asked = take

    def _grant(self, data: bytes) -> None:
        """Do it, if the parser now is between two chunks: if one has ended and nothing came behind it.

        That no content came is known; what could have come is a part of the next line. No line of the framing has two line feeds
        in a row, so a read with END_OF_EVENT at its end has ended with content, and the CRLF of its chunk.
        """
        take, self._asked = self._asked, None
        if data.endswith(END_OF_EVENT) and not self.closed:
            self.express = take

    # ── what the transport calls ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # create_connection gives a Transport

    def _write_rest(self) -> None:
        """Write a large body piece by piece, as fast as the upstream takes it: TLS would hold all of it once more, encrypted."""
        transport = self.transport
        while self._rest and self._writable is None and not self.closed and transport is not None and not transport.is_closing():
            transport.write(self._rest[:PIECE_BYTES])
            self._rest = self._rest[PIECE_BYTES:]
        self._sending = bool(self._rest)

    def pause_writing(self) -> None:
        """The upstream reads slower than we write."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up; also called at the end of the connection, so that nobody waits for ever."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        if self._rest:
            self._write_rest()

    def data_received(self, data: bytes) -> None:
        """Parse; hand over what it means; end the exchange or the connection when due. A stream in progress: in the inbox."""
        if self.express is not None:
            if not self._reads:
                self._inbox.wake()
            self._reads.append((self, data))
            if len(data) > SMALL_BYTES:
                self._inbox.drain()  # what waits is bounded
            return
        sink = self._sink
        if sink is None:  # bytes nobody asked for: an idle connection that speaks is not to be trusted
            self._close()
            return
        try:
            if not self._head_done:
                self._fed_bytes += len(data)
                if self._fed_bytes > MAX_HEAD_BYTES and not self._head_ends_in(data):
                    self._fail(protocol_fault(f"the head of the upstream's answer is larger than {MAX_HEAD_BYTES} bytes"))
                    return
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            cause = exc.__context__ if isinstance(exc.__context__, UpstreamError) else None
            if self._complete:  # garbage after a complete answer: the answer stands, the connection does not
                self._keep = False
            else:
                self._fail(cause or protocol_fault("the upstream's answer is not valid HTTP"))
                return
        except httptools.HttpParserUpgrade:
            self._fail(protocol_fault("the upstream wants to switch protocols"))
            return
        except UpstreamError as exc:
            self._fail(exc)
            return
        if self._complete:
            self._finish()
        elif self._sink is not None:
            self._sink.on_flush()
            if self._asked is not None:
                self._grant(data)

    def parse(self, data: bytes) -> None:
        """Take a read out of the inbox the usual way; those behind it too, until the sink asks for the other one again."""
        self.express = None
        self.data_received(data)

    def drop(self) -> None:
        """Close; the sink hears of it as of a lost connection."""
        if self.transport is not None:
            self.transport.abort()

    def _head_ends_in(self, data: bytes) -> bool:
        # One large read may hold a small head and a large body: only what precedes the body counts.
        before = self._fed_bytes - len(data)
        return before < MAX_HEAD_BYTES and b"\r\n\r\n" in data[: MAX_HEAD_BYTES - before]

    def eof_received(self) -> bool:
        """Look at TCP's own record while the socket is still open; then let the transport close."""
        if self.express is not None:
            self._inbox.drain()
        if self._sink is not None and not self._fed_bytes and self.exchanges > 1 and self.transport is not None:
            unsent = self._posted_turn == self._outbox.turn
            self._stale = unsent or unprocessed(self.transport.get_extra_info("socket"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: well, where the body was delimited by the close; as a fault otherwise."""
        if self.express is not None:
            self._inbox.drain()
        if not self.closed:
            self.closed = True
            self._on_closed(self)
        self.resume_writing()
        sink, self._sink = self._sink, None
        self._cancel_linger()
        if sink is None:
            return
        if self._head_done and not self._interim and not self._framed and exc is None:
            try:
                self._flush_decoder(sink)
            except UpstreamError as fault:
                sink.on_fail(fault)
                return
            sink.on_end()
        else:
            unanswered = self._fed_bytes == 0
            too_late = isinstance(exc, BrokenPipeError) or self._posted_turn == self._outbox.turn
            stale = self._stale or (unanswered and self.exchanges > 1 and too_late)
            sink.on_fail(stale_fault() if stale else lost_fault(not unanswered))

    # ── what the parser calls ──

    def on_message_begin(self) -> None:
        """A second message where one was asked for means the connection is out of step."""
        if self._complete:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect the head; ignore trailers."""
        if not self._head_done:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand over the final answer's head; remember how the body is framed."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        headers = self._headers
        if 100 <= status < 200:
            self._interim = True
            self._headers = []
            return
        self._interim = False
        self._head_done = True
        encoding = b""
        for name, value in headers:
            if name == b"content-length" or name == b"transfer-encoding":
                self._framed = True
            elif name == b"content-encoding":
                encoding = value.strip().lower()
        if status in (204, 304):
            self._framed = True
        if encoding and encoding != b"identity":
            self._decoder = _Decoder(encoding)
        self._keep = self._framed and self._parser.should_keep_alive()
        if self._sink is not None:
            self._sink.on_head(status, headers)

    def on_body(self, data: bytes) -> None:
        """Hand over a piece of the body, decoded."""
        sink = self._sink
        self._on_border = False
        if sink is None or self._complete:
            return
        if self._decoder is None:
            sink.on_body(data)
        else:
            for piece in self._decoder.feed(data):
                if self._sink is not sink:  # it has had enough
                    return
                sink.on_body(piece)

    def on_chunk_complete(self) -> None:
        """A chunk has ended, with the CRLF behind it."""
        self._on_border = True

    def on_message_complete(self) -> None:
        """Mark the end; the read callback acts on it when the parser has returned."""
        if self._interim:
            self._interim = False
        elif self._head_done:
            self._complete = True

    # ── ends ──

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        self._cancel_linger()
        fault = None
        if sink is not None:
            try:
                self._flush_decoder(sink)
            except UpstreamError as exc:
                fault = exc
        if self._keep and fault is None and not self._sending and not self.closed:
            self.resume()
            self._on_idle(self)
        else:
            self._close()
        if sink is not None:
            if fault is not None:
                sink.on_fail(fault)
            else:
                sink.on_end()

    def _flush_decoder(self, sink: Sink) -> None:
        if self._decoder is not None:
            decoder, self._decoder = self._decoder, None
            for piece in decoder.end():
                sink.on_body(piece)

    def _fail(self, error: UpstreamError) -> None:
        sink, self._sink = self._sink, None
        self._close()
        if sink is not None:
            sink.on_fail(error)

    def _close(self) -> None:
        self._cancel_linger()
        self.resume_writing()
        if not self.closed:
            self.closed = True
            self._on_closed(self)
        if self.transport is not None:
            self.transport.abort()

    def _cancel_linger(self) -> None:
        if self._linger_handle is not None:
            self._linger_handle.cancel()
            self._linger_handle = None


class _Ignore:
    """A sink for what nobody needs."""

    def on_head(self, status: int, headers: Headers) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_flush(self) -> None: ...

    def on_end(self) -> None: ...

    def on_fail(self, error: UpstreamError) -> None: ...


class _Decoder:
    """Content-Encoding gzip or deflate (zlib or, as some servers send it, raw), in bounded pieces."""

    PIECE_BYTES = 256 * 1024

    def __init__(self, encoding: bytes) -> None:
        if encoding in (b"gzip", b"x-gzip"):
            self._z = zlib.decompressobj(16 + zlib.MAX_WBITS)
        elif encoding == b"deflate":
            self._z = zlib.decompressobj()
        else:
            raise protocol_fault("the upstream used a content encoding that was not asked for")
        self._raw_possible = encoding == b"deflate"

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            try:
                piece = self._z.decompress(data, self.PIECE_BYTES)
            except zlib.error as exc:
                if not self._raw_possible:
                    raise protocol_fault("the upstream's compressed body is damaged") from exc
                self._raw_possible = False
                self._z = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._raw_possible = False
            if piece:
                yield piece
            data = self._z.unconsumed_tail
            if self._z.eof:
                break

    def end(self) -> list[bytes]:
        if not self._z.eof:
            raise protocol_fault("the upstream's compressed body ends too early")
        return []
