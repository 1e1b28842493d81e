"""Phase timers: one clock tick for all requests of a worker, instead of a timer of the event loop for each.

A request's bounds are plain numbers; every TICK_S, while anything is registered, the numbers are compared with the clock. A timer
of the event loop costs some 5 us to make and cancel, which almost every request would do for nothing; a tick over 2,000 streams
costs 0.1 ms. The price is that a timeout may come up to TICK_S late, never early.
Two bounds apply at once, the phase's own and a cap that outlives phases (deadline, total): the earlier one counts, and is named.
"""

from __future__ import annotations

import asyncio

__all__ = ["TICK_S", "Bounds", "Ticker"]

TICK_S = 0.025


class Ticker:
    """The clock of one worker. Ticks only while somebody waits."""

    __slots__ = ("_armed", "_loop", "_waiting", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time  # the loop's time, without a frame in between
        self._waiting: set[Bounds] = set()
        self._armed = False

    def add(self, timer: Bounds) -> None:
        """Compare this timer with the clock from now on."""
        self._waiting.add(timer)
        if not self._armed:
            self._armed = True
            self._loop.call_later(TICK_S, self._tick)

    def discard(self, timer: Bounds) -> None:
        """Forget it."""
        self._waiting.discard(timer)

    def _tick(self) -> None:
        now_s = self._loop.time()
        for timer in [timer for timer in self._waiting if timer.due_at_s <= now_s]:
            if timer in self._waiting and timer.due_at_s <= now_s:  # an expiry may have stopped or moved another
                self._waiting.discard(timer)
                timer.expire()
        if self._waiting:
            self._loop.call_later(TICK_S, self._tick)
        else:
            self._armed = False


class Bounds:
    """Hears `expired(phase, length_s)` once, when the current phase or the cap has passed.

    To be inherited by what is bounded: two objects that hold each other would stay until the collector of garbage finds them.
    """

    __slots__ = ("_cap_at_s", "_cap_length_s", "_cap_phase", "_length_s", "_phase", "_ticker", "due_at_s")

    def __init__(self, ticker: Ticker, cap: tuple[str, float, float]) -> None:
        self._ticker = ticker
        self._cap_phase, self._cap_at_s, self._cap_length_s = cap
        self._phase = ""
        self._length_s = 0.0
        self.due_at_s = self._cap_at_s

    def cap(self, phase: str, at_s: float, length_s: float) -> None:
        """Replace the bound that outlives phases; `inf` lifts it. Takes effect with the next `enter` or `touch`."""
        self._cap_phase, self._cap_at_s, self._cap_length_s = phase, at_s, length_s

    def enter(self, phase: str, now_s: float, length_s: float) -> None:
        """Begin a phase that may last `length_s`."""
        self._phase = phase
        self._length_s = length_s
        self.touch(now_s)
        self._ticker.add(self)

    def touch(self, now_s: float) -> None:
        """The phase starts over: something moved."""
        at_s = now_s + self._length_s
        self.due_at_s = at_s if at_s < self._cap_at_s else self._cap_at_s

    def lift(self) -> None:
        """Nothing is bounded any more, until a phase begins."""
        self._ticker.discard(self)

    def expire(self) -> None:
        """The ticker found it due."""
        if self.due_at_s >= self._cap_at_s:
            self.expired(self._cap_phase, self._cap_length_s)
        else:
            self.expired(self._phase, self._length_s)

    def expired(self, phase: str, length_s: float) -> None:
        """Time is up."""
        raise NotImplementedError
