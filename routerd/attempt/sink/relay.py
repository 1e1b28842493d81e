"""The sink of a streamed exchange: holds everything back until the first content, then pushes it to the client.

States: HEAD -> ERROR (a status that is not 200: its body is collected) or HELD (200: events are held until one has content, so
that failing over is still possible) -> COMMITTED (the client has the head; bytes go through in the upstream's read callback)
-> ENDED. `ready` resolves at the first content or fails; `finished` resolves with how the stream ended.
A cut stream is never passed off as a whole one: after commit a fault becomes an error event and no [DONE] follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from routerd.attempt.redaction import Redaction
from routerd.attempt.sink.pushed import ERROR_BODY_LIMIT_BYTES, Downstream, Ended, Pushed, Refused
from routerd.attempt.timer import Ticker
from routerd.errors import Delivery, ErrorKind, ErrorType, UpstreamError
from routerd.graph import Provider, Timeouts
from routerd.messages import WireResponse
from routerd.upstream import OVER, SMALL_BYTES, Exchange, Headers, openings, protocol_fault, timeout_fault
from routerd.wire.dialect import Scan
from routerd.wire.faults.classify import classify_value, fault_error
from routerd.wire.forwarded import ForwardedText
from routerd.wire.openai.relay_scan import DONE, RelayScan, StreamFault

__all__ = ["Relay", "error_event"]

HELD_LIMIT_BYTES = 1024 * 1024  # keep-alive comments before the first content; a minute of them is 10 KiB
MAX_SAID_CHARS = 64 * 1024  # of an error event, looked through for credentials
MOST_REFUSED = 8  # events that were not plain; a stream that has something in each is looked at once only
_OPENINGS = openings(b"data: {")
_NO_STREAM = frozenset({b"application/json", b"text/html"})


class Source(Protocol):
    """Whose stream it is."""

    @property
    def provider(self) -> Provider: ...

    @property
    def redaction(self) -> Redaction: ...


class Relay(Pushed):
    """One streamed exchange. Built before `exchange.send`, which it is the sink of."""

    __slots__ = (
        "_broken",
        "_chunks_to",
        "_error_body",
        "_headers",
        "_held",
        "_now",
        "_out",
        "_own",
        "_plain",
        "_refused",
        "_source",
        "_status",
        "_stream_types",
        "_text",
        "_timeouts",
        "last_at_s",
        "scan",
        "sent_bytes",
    )

    def __init__(
        self,
        exchange: Exchange,
        scan: Scan,
        timeouts: Timeouts,
        ticker: Ticker,
        cap: tuple[str, float, float],
        stream_types: tuple[bytes, ...] = (),
        own: Callable[[Scan, bytes], bytes] | None = None,
    ) -> None:
        super().__init__(exchange, ticker, cap)
        self._downstream: Downstream | None = None
        self.scan = scan
        self._stream_types = stream_types
        self._own = own  # says routerd's own events in the client's dialect; None: as they are
        self.sent_bytes = 0
        self.last_at_s = ticker.now()
        self._now = ticker.now
        self._timeouts = timeouts
        self._status = 0
        self._headers: Headers = []
        self._held = bytearray()
        self._error_body: bytearray | None = None
        self._source: Source | None = None
        self._text: ForwardedText | None = None
        self._out: list[bytes] = []
        self._chunks_to: asyncio.WriteTransport | None = None  # the client, where it takes the upstream's chunks as they are
        self._plain: Callable[[bytes], object] | None = None
        self._refused = 0
        self._broken = Ended.ERROR_EVENT  # how a fault counts that was there before the commit
        self.enter("first_byte", self.last_at_s, timeouts.first_byte_s)

    # ── the attempt's side ──

    def commit(self, downstream: Downstream, source: Source, *, count: bool = False) -> ForwardedText | None:
        """The client has the head: push what was held and everything that comes. Ends at once if the stream has ended.

        `count`: return what keeps the text that is forwarded and that no usage covers.
        """
        self._downstream = downstream
        self._source = source
        held, self._held = bytes(self._held), bytearray()
        text = self._text = ForwardedText(held, None if self.scan.finished else self.scan.usage) if count else None
        if held:
            self._write(held)
        if isinstance(self.scan, RelayScan):
            self._chunks_to = downstream.framed()
        now_s = self._ticker.now()
        total_s = self._timeouts.stream_total_s
        if total_s is None:
            self.cap("", float("inf"), 0.0)
        else:
            self.cap("stream_total", now_s + total_s, total_s)
        if self._status == _ENDED:
            self._close_out()
        elif self.scan.fault is not None:
            self._fault_out(self.scan.fault, self._broken)
        elif self.scan.done:
            self._done()
        else:
            self.enter("idle", now_s, self._timeouts.idle_s)
        return text

    def moved(self) -> None:
        """Something of the answer moved."""
        self.last_at_s = self._ticker.now()

    def interrupt(self, message: str) -> None:
        """End a committed stream with an error event: routerd itself has to stop it."""
        if self._downstream is not None:
            self._fault_out(StreamFault(message), Ended.DEADLINE)

    @property
    def headers(self) -> Headers:
        """The head of the upstream's answer."""
        return self._headers

    # ── the exchange's side ──

    def on_head(self, status: int, headers: Headers) -> None:
        """200 with a fitting type: wait for content. Anything else: collect the error."""
        self._status = status
        self._headers = headers
        if status != 200:
            self._error_body = bytearray()
            return
        for name, value in headers:
            if name == b"content-type":
                kind = value.split(b";", 1)[0].strip().lower()
                if (kind not in self._stream_types) if self._stream_types else (kind in _NO_STREAM):
                    self._exchange.abort()
                    self.on_fail(protocol_fault(f"the upstream answered a stream request with {kind.decode('latin-1')[:80]}"))
                    return
        now_s = self._ticker.now()
        left_s = max(0.0, self._timeouts.first_token_s - (now_s - self.last_at_s))
        self.enter("first_token", now_s, left_s)

    def on_body(self, data: bytes) -> None:
        """Look at it; hold it, or keep it for the write at the end of this read."""
        if self._error_body is not None:
            self._error_body += data
            if len(self._error_body) > ERROR_BODY_LIMIT_BYTES:
                self._exchange.abort()
                self.on_end()
            return
        out = self.scan.feed(data)
        if out:
            self._out.append(out)

    def on_flush(self) -> None:
        """One read is over: act on what it brought. Once committed this runs for every chunk, so it is all in one place."""
        downstream = self._downstream
        if downstream is not None:
            out, now = self._out, self._now
            if out:
                data = out[0] if len(out) == 1 else b"".join(out)
                out.clear()
                self.sent_bytes += len(data)
                downstream.write(data)
                if self._text is not None:
                    self._text.take(data, self.scan.usage)
            self.last_at_s = now()
            scan = self.scan
            if scan.done:
                self._done()
            elif scan.fault is not None:
                self._fault_out(scan.fault)
            elif self._chunks_to is not None:
                self._offer_express()
        elif self._error_body is None and not self.ready.done():
            self._hold()
        elif self._out:  # content is there, the commit is on its way
            self._held += b"".join(self._out)
            self._out = []

    def on_end(self) -> None:
        """The upstream's body is complete."""
        self._exchange = OVER
        if self._error_body is not None:
            self.lift()
            if not self.ready.done():
                body = bytes(self._error_body)
                self.ready.set_exception(Refused(WireResponse(status=self._status, headers=self._headers, body=body)))
            return
        rest = self.scan.close()
        if rest:
            self._out.append(rest)
        self.on_flush()
        if self.finished.done():
            return
        if self._downstream is None and not self.ready.done():
            self.lift()
            self.ready.set_exception(
                UpstreamError(ErrorKind.PROTOCOL, "the upstream's stream ended without content", delivery=Delivery.ANSWERED)
            )
            return
        self._status = _ENDED
        if self._downstream is not None:
            self._close_out()

    def on_fail(self, error: UpstreamError) -> None:
        """The exchange broke: before commit the attempt hears of it, afterwards the client does."""
        if self._error_body is not None:  # an error status says enough, even where its body was cut
            self.on_end()
            return
        if self.ready.done():
            self.on_flush()  # the read that broke may have brought whole events first
            if self.finished.done():
                return
        if self.scan.finished and self.ready.done():  # everything was said; only the framing was cut
            self.on_end()
            return
        if self._downstream is not None:
            self._fault_out(StreamFault(error.message), Ended.CUT)
            return
        if self.ready.done():  # content seen, commit on its way
            if self.scan.fault is None:
                self.scan.fault = StreamFault(error.message)
                self._broken = Ended.DEADLINE if error.kind is ErrorKind.TIMEOUT else Ended.CUT
            return
        self.lift()
        self.ready.set_exception(error)

    # ── in between ──

    def _offer_express(self) -> None:
        """Ask for the next reads as they come, if the scan is in the middle of an unremarkable stream."""
        if isinstance(self.scan, RelayScan):
            self._plain = self.scan.plain
            if self._plain is not None:
                self._exchange.expedite(self._take_chunk)

    def _take_chunk(self, data: bytes) -> asyncio.WriteTransport | None:
        """Take one read, if it is one whole chunk with one plain event; what `on_body` and `on_flush` do for any other."""
        size = len(data)
        if (
            size >= SMALL_BYTES
            or not data.startswith(_OPENINGS[size])
            or not data.endswith(b"\n\n\r\n")
            or data.find(b"\n", 8) != size - 4
        ):
            return None
        at = data.find(b"{")
        plain, now = self._plain, self._now
        assert plain is not None
        try:
            plain(data[at:-4])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._refused += 1
            if self._refused == MOST_REFUSED:
                self._chunks_to = None
            return None
        self.sent_bytes += size - at + 4
        if self._text is not None:
            self._text.take(data, self.scan.usage)
        self.last_at_s = now()
        return self._chunks_to

    def _hold(self) -> None:
        scan = self.scan
        self._held += b"".join(self._out)
        self._out = []
        if scan.content:
            self.lift()  # it came in time, however late the worker gets to the commit
            self.ready.set_result(None)
        elif scan.fault is not None:
            self._exchange.abort()
            self.lift()
            self.ready.set_exception(_as_error(scan.fault))
        elif scan.done:
            self._let_go()
            self.lift()
            self.ready.set_exception(protocol_fault("the upstream's stream ended without content"))
        elif len(self._held) > HELD_LIMIT_BYTES:
            self._exchange.abort()
            self.on_fail(protocol_fault("the upstream sent 1 MiB without content"))

    def _write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        assert self._downstream is not None
        self._downstream.write(data)

    def _done(self) -> None:
        # [DONE] has been passed on: the meaning is complete, the framing may follow by itself.
        self._let_go()
        self._finish(Ended.OK)

    def _let_go(self) -> None:
        exchange, self._exchange = self._exchange, OVER
        exchange.linger()

    def _close_out(self) -> None:
        scan = self.scan
        if scan.fault is not None:
            self._fault_out(scan.fault)
        elif scan.done:
            self._finish(Ended.OK)
        elif scan.finished:
            self._write(DONE if self._own is None else self._own(self.scan, DONE))
            self._finish(Ended.OK)
        else:
            self._fault_out(StreamFault("the upstream's stream ended without a finish_reason"), Ended.CUT)

    def _fault_out(self, fault: StreamFault, ended: Ended = Ended.ERROR_EVENT) -> None:
        self._exchange.abort()
        event = error_event(fault, self._source)
        self._write(event if self._own is None else self._own(self.scan, event))
        self._finish(ended)

    def _finish(self, ended: Ended) -> None:
        self.lift()
        downstream, self._downstream = self._downstream, None
        if downstream is not None:
            downstream.end()
        if not self.finished.done():
            self.finished.set_result(ended)

    def expired(self, phase: str, length_s: float) -> None:
        """Time is up: before the commit the attempt hears of it, afterwards the client does."""
        since_s = self._paused_at_s or self.last_at_s
        if phase == "idle" and since_s + length_s > self._ticker.now():
            self.enter("idle", since_s, length_s)  # it moved: chunks note the time and leave the timer alone
        elif self._downstream is None:
            self._exchange.abort()
            delivery = Delivery.ANSWERED if self._status else Delivery.MAYBE_PROCESSED
            self.on_fail(timeout_fault(phase, length_s, delivery))
        elif self._paused_at_s and phase == "idle":
            # Not the upstream: the client has read nothing for as long as `idle` allows.
            self._exchange.abort()
            self._finish(Ended.CLIENT_STALLED)
        else:
            fault = timeout_fault(phase, length_s, Delivery.ANSWERED)
            self._fault_out(StreamFault(fault.message), Ended.IDLE if phase == "idle" else Ended.DEADLINE)


_ENDED = -1  # `Relay._status` once the upstream's side is complete


def _as_error(fault: StreamFault) -> UpstreamError:
    if fault.error is not None:
        error = fault_error(classify_value(fault.error), 200, msgspec.json.encode({"error": fault.error}))
        error.status = None  # the answer's own status was 200: what an event names is no status of the upstream
        return error
    return UpstreamError(ErrorKind.STREAM_ERROR, fault.message, delivery=Delivery.ANSWERED)


def error_event(fault: StreamFault, source: Source | None) -> bytes:
    """Encode the event that ends a broken stream: OpenAI's SDKs raise on `error`, others see finish_reason "error".

    The upstream's words are passed on, but for the provider's credentials, which they may quote.
    """
    upstream = fault.error if isinstance(fault.error, dict) else {}
    error_type = ErrorType.UPSTREAM_STREAM_ERROR if fault.error is not None else ErrorType.UPSTREAM_STREAM_CUT
    code = upstream.get("code")
    said = {
        "message": str(upstream.get("message") or (fault.error if isinstance(fault.error, str) else fault.message)),
        "type": str(upstream.get("type") or error_type),
        "code": str(code) if code is not None else str(error_type),
    }
    if source is not None:
        said = {key: source.redaction.text(text[:MAX_SAID_CHARS]) for key, text in said.items()}
    error = {
        "message": said["message"][:2000],
        "type": said["type"][:200],
        "code": said["code"][:200],
        "param": None,
        "provider": source.provider.name if source is not None else "",
    }
    event = {"error": error, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}
    encoded = msgspec.json.encode(event)
    return b"data: " + encoded + b"\n\n"
