"""The sink of a unary exchange: collects the whole answer, bounded in size and time, and sets one future."""

from __future__ import annotations

import asyncio

from routerd.attempt.timer import Bounds, Ticker
from routerd.errors import Delivery, UpstreamError
from routerd.graph import Timeouts
from routerd.messages import WireResponse
from routerd.upstream import OVER, Exchange, Headers, protocol_fault, timeout_fault

__all__ = ["Collect"]


class Collect(Bounds):
    """`future` gets a WireResponse or an UpstreamError."""

    __slots__ = ("_body", "_exchange", "_headers", "_limit_bytes", "_status", "_timeouts", "future")

    def __init__(
        self,
        future: asyncio.Future[WireResponse],
        exchange: Exchange,
        timeouts: Timeouts,
        ticker: Ticker,
        cap: tuple[str, float, float],
        limit_bytes: int,
    ) -> None:
        super().__init__(ticker, cap)
        self.future = future
        self._exchange = exchange
        self._timeouts = timeouts
        self._limit_bytes = limit_bytes
        self._status = 0
        self._headers: Headers = []
        self._body: bytes | bytearray = b""
        self.enter("first_byte", ticker.now(), timeouts.first_byte_s)

    def on_head(self, status: int, headers: Headers) -> None:
        """Keep it; from here on the body must keep moving."""
        self._status = status
        self._headers = headers

    def on_body(self, data: bytes) -> None:
        """Collect."""
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:  # a second piece: from here on in one buffer, as a body may come byte by byte
            self._body = bytearray(self._body) + data
        if len(self._body) > self._limit_bytes:
            self._exchange.abort()
            self.on_fail(protocol_fault(f"the upstream's answer is larger than {self._limit_bytes} bytes"))

    def on_flush(self) -> None:
        """More is to come: wait for it as long as `idle` says."""
        if self._status:
            self.enter("idle", self._ticker.now(), self._timeouts.idle_s)

    def on_end(self) -> None:
        """Done."""
        self._exchange = OVER
        self.lift()
        if not self.future.done():
            self.future.set_result(WireResponse(status=self._status, headers=self._headers, body=bytes(self._body)))

    def on_fail(self, error: UpstreamError) -> None:
        """Failed; but an error status says enough, even where its body was cut."""
        if self._status not in (0, 200):
            self.on_end()
            return
        self.lift()
        if not self.future.done():
            self.future.set_exception(error)

    def leave(self) -> None:
        """Nobody waits any more."""
        self.lift()
        self._exchange.abort()
        if not self.future.done():
            self.future.cancel()
        elif not self.future.cancelled():
            self.future.exception()  # looked at: nobody else will

    def expired(self, phase: str, length_s: float) -> None:
        """Fail: it took too long."""
        self._exchange.abort()
        fault = timeout_fault(phase, length_s, Delivery.ANSWERED if self._status else Delivery.MAYBE_PROCESSED)
        # `total` and `deadline` bound the request, not the endpoint: one whose answer is on its way has done nothing wrong.
        fault.was_answering = bool(self._body) and phase in ("total", "deadline")
        self.on_fail(fault)
