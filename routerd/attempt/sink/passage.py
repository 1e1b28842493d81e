"""The sink of a request that is passed on as it came: nothing is looked at but the status and, beside the way, the usage.

States: HEAD -> ERROR (a status of 300 and above: its body is collected) or HELD (what came before the client has the head)
-> COMMITTED (bytes go through in the upstream's read callback) -> ENDED. A body that breaks after the commit is never passed off
as a whole one: the client's connection is cut as the upstream's was.
The request's body is pumped by one task; an answer may come, and end, before all of it was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from routerd.attempt.lane import Passing, Wire
from routerd.attempt.sink.pushed import ERROR_BODY_LIMIT_BYTES, Downstream, Ended, Pushed, Refused
from routerd.attempt.timer import Ticker
from routerd.errors import Delivery, RequestError, UpstreamError
from routerd.graph import Timeouts
from routerd.messages import Usage, WireResponse
from routerd.upstream import OVER, Connection, Headers, timeout_fault
from routerd.wire.openai.usage_tap import UsageTap

__all__ = ["Passage", "open_passage"]

HELD_HIGH_BYTES = 256 * 1024  # between the upstream's head and the commit; then reading pauses


class Passage(Pushed):
    """One exchange. `ready` resolves with the head of a good answer, `finished` with how its body ended."""

    def __init__(self, connection: Connection, timeouts: Timeouts, ticker: Ticker, cap: tuple[str, float, float]) -> None:
        super().__init__(connection, ticker, cap)
        self.status = 0
        self.headers: Headers = []
        self.sent_bytes = 0
        self.pump: asyncio.Task[None] | None = None
        self._timeouts = timeouts
        self._error_body: bytearray | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._ended = False
        self._tap: UsageTap | None = None
        self.moved()

    @property
    def usage(self) -> Usage | None:
        """What the answer said it used, where it did."""
        return self._tap.usage() if self._tap is not None else None

    # ── the attempt's side ──

    def commit(self, downstream: Downstream) -> None:
        """The client has the head: push what was held and everything that comes."""
        self._downstream = downstream
        self.cap("", float("inf"), 0.0)
        self.moved()
        self._push()
        if self._ended:
            self._finish(Ended.OK)
        elif not self.finished.done() and not self._paused_at_s:
            self._exchange.resume()

    def moved(self) -> None:
        """Something of the request or the answer moved."""
        self.enter("idle", self._ticker.now(), self._timeouts.idle_s)

    def sent(self) -> None:
        """The whole request is out: now the answer is waited for."""
        if not self.status:
            self.enter("first_byte", self._ticker.now(), self._timeouts.first_byte_s)

    def refuse(self, error: RequestError) -> None:
        """The client's side of the upload failed."""
        self._exchange.abort()
        self._fail(error)

    def stop(self) -> None:
        """Nobody waits any more: stop the pump too."""
        if self.pump is not None:
            self.pump.cancel()
        super().stop()

    def interrupt(self, message: str) -> None:
        """Routerd itself has to stop it; there is no room for a message in bytes that are not ours."""
        del message
        self._exchange.abort()
        self._cut(Ended.DEADLINE)

    # ── the exchange's side ──

    def on_head(self, status: int, headers: Headers) -> None:
        """A good status: the client may have the head. Anything else: collect the error."""
        self.status = status
        self.headers = headers
        self.moved()
        if status >= 300:
            self._error_body = bytearray()
            return
        self._tap = UsageTap.of(headers)
        if not self.ready.done():
            self.ready.set_result(None)

    def on_body(self, data: bytes) -> None:
        """Hold it, or keep it for the write at the end of this read."""
        if self._error_body is not None:
            self._error_body += data
            if len(self._error_body) > ERROR_BODY_LIMIT_BYTES:
                self._exchange.abort()
                self.on_end()
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._tap is not None:
            self._tap.feed(data)

    def on_flush(self) -> None:
        """One read is over."""
        if self._downstream is not None:
            self._push()
            if not self.finished.done():
                self.moved()
        elif self._held_bytes > HELD_HIGH_BYTES:
            self._exchange.pause()

    def on_end(self) -> None:
        """The upstream's body is complete."""
        self._exchange = OVER
        if self._error_body is not None:
            answer = WireResponse(status=self.status, headers=self.headers, body=bytes(self._error_body))
            self._fail(Refused(answer))
            return
        self._ended = True
        if self._downstream is not None:
            self._push()
            self._finish(Ended.OK)

    def on_fail(self, error: UpstreamError) -> None:
        """The exchange broke: before the head the attempt hears of it, afterwards the client does."""
        if self._error_body is not None:
            self.on_end()
        elif not self.ready.done():
            self._fail(error)
        else:
            self._push()
            self._cut(Ended.CUT)

    # ── in between ──

    def _push(self) -> None:
        if self._held and self._downstream is not None:
            data = b"".join(self._held)
            self._held, self._held_bytes = [], 0
            self.sent_bytes += len(data)
            self._downstream.write(data)

    def _fail(self, error: Exception) -> None:
        self.lift()
        if self.pump is not None:
            self.pump.cancel()
        if not self.ready.done():
            self.ready.set_exception(error)
        elif not self.finished.done():
            self._cut(Ended.CUT)

    def _cut(self, ended: Ended) -> None:
        downstream, self._downstream = self._downstream, None
        self._finish(ended)
        if downstream is not None:
            downstream.cut()

    def _finish(self, ended: Ended) -> None:
        self.lift()
        if self.pump is not None and not self.pump.done():
            self.pump.cancel()  # the upstream has answered without the rest; its connection closes
        downstream, self._downstream = self._downstream, None
        if downstream is not None:
            downstream.end()
        if not self.finished.done():
            self.finished.set_result(ended)

    def expired(self, phase: str, length_s: float) -> None:
        """Time is up: before the commit the attempt hears of it, afterwards the client does."""
        self._exchange.abort()
        if not self.ready.done():
            delivery = Delivery.ANSWERED if self.status else Delivery.MAYBE_PROCESSED
            self._fail(timeout_fault(phase, length_s, delivery))
        else:
            self._cut(Ended.CLIENT_STALLED if self._paused_at_s else Ended.IDLE)


async def open_passage(wire: Wire, passing: Passing, model: str, request_id: str, cap: tuple[str, float, float]) -> Passage:
    """Send the request and return a passage whose head has come. Raises UpstreamError, RequestError, or Refused.

    A body that cannot be repeated goes over a fresh connection only: a kept-alive one may turn out to be closed.
    """
    assert wire.pool is not None
    timeouts = wire.target.timeouts
    while True:
        left_s = max(0.001, min(timeouts.connect_s, cap[1] - wire.loop.time()))
        connection, used = await wire.pool.obtain(left_s, fresh=not passing.upload.replayable)
        passage = Passage(connection, timeouts, wire.ticker, cap)
        length = passing.upload.length(model)
        connection.begin(wire.passage_head(passing, request_id, length), passage)
        passage.pump = wire.loop.create_task(_pump(connection, passage, passing.upload.pieces(model), length is None))
        try:
            await passage.ready
        except UpstreamError as exc:
            passage.stop()
            if not (used and exc.delivery is Delivery.NOT_SENT and passing.upload.replayable):
                raise
        except BaseException:
            passage.stop()
            raise
        else:
            return passage


async def _pump(connection: Connection, passage: Passage, pieces: AsyncIterator[bytes], chunked: bool) -> None:
    try:
        async for piece in pieces:
            if connection.closed:
                return
            connection.more(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await connection.writable()
            passage.moved()
    except RequestError as exc:
        passage.refuse(exc)
        return
    connection.more(b"0\r\n\r\n" if chunked else b"", last=True)
    passage.sent()
