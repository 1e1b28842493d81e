"""What the sinks of answers that are pushed to a client have in common: two futures, and how they are paused and stopped.

`ready` resolves when the client may have the head, or fails; `finished` resolves with how a committed answer ended.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Protocol

from routerd.attempt.timer import Bounds, Ticker
from routerd.errors import ErrorType
from routerd.messages import WireResponse
from routerd.upstream import Exchange

__all__ = ["ERROR_BODY_LIMIT_BYTES", "Downstream", "Ended", "Pushed", "Refused"]

ERROR_BODY_LIMIT_BYTES = 1024 * 1024


class Downstream(Protocol):
    """The client's side of a committed answer."""

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""

    def framed(self) -> asyncio.WriteTransport | None:
        """Return where bytes of the body go that are in chunks already; None: this client's body is not in chunks."""

    def end(self) -> None:
        """Send the end of the body."""

    def cut(self) -> None:
        """Close without an end."""


class Ended(enum.Enum):
    """How a committed stream ended; the words of `routerd_stream_interruptions_total{reason}`."""

    OK = "ok"
    CUT = "cut"
    IDLE = "idle"
    ERROR_EVENT = "error_event"
    DEADLINE = "deadline"
    CLIENT_STALLED = "client_gone"

    @property
    def error_type(self) -> ErrorType:
        """What it is called where errors are told; of a stream that did not end well."""
        return _ERROR_TYPES.get(self, ErrorType.UPSTREAM_STREAM_CUT)


_ERROR_TYPES = {Ended.CLIENT_STALLED: ErrorType.CALLER_GONE, Ended.ERROR_EVENT: ErrorType.UPSTREAM_STREAM_ERROR}
_UPSTREAMS_FAULT = frozenset({Ended.CUT, Ended.IDLE, Ended.ERROR_EVENT})


class Refused(Exception):
    """Internal to `attempt`: the upstream answered a stream request with another status; carries the answer."""

    def __init__(self, response: WireResponse) -> None:
        super().__init__(response.status)
        self.response = response


class Pushed(Bounds):
    """One exchange whose answer is pushed, and the bounds of its time."""

    __slots__ = ("_downstream", "_exchange", "_paused_at_s", "finished", "ready")

    def __init__(self, exchange: Exchange, ticker: Ticker, cap: tuple[str, float, float]) -> None:
        super().__init__(ticker, cap)
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.finished: asyncio.Future[Ended] = loop.create_future()
        self._exchange = exchange
        self._downstream: Downstream | None = None
        self._paused_at_s = 0.0  # since when the client has read nothing; 0: it reads

    @property
    def broke(self) -> bool:
        """Whether the upstream ended a committed answer before its end."""
        return self.finished.done() and not self.finished.cancelled() and self.finished.result() in _UPSTREAMS_FAULT

    def moved(self) -> None:
        """Something of the exchange moved."""
        raise NotImplementedError

    def stop(self) -> None:
        """The client has gone, or the attempt is given up: stop the upstream at once."""
        self.lift()
        self._exchange.abort()
        self._downstream = None
        if not self.ready.done():
            self.ready.cancel()
        elif not self.ready.cancelled():
            self.ready.exception()  # looked at: nobody else will
        if not self.finished.done():
            self.finished.cancel()

    def pause(self) -> None:
        """The client's buffer is full."""
        if not self._paused_at_s and not self.finished.done():
            self._paused_at_s = self._ticker.now()
            self._exchange.pause()

    def resume(self) -> None:
        """The client reads again."""
        if self._paused_at_s and not self.finished.done():
            self._paused_at_s = 0.0
            self.moved()
            self._exchange.resume()
