"""A clock that only the test moves, and an upstream that plays what the test wrote into the sink of an attempt."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from routerd.attempt.redaction import Redaction
from routerd.attempt.timer import Ticker
from routerd.errors import UpstreamError
from routerd.plan import Planned
from routerd.upstream import Sink
from routerd.upstream.inbox import Express
from routerd.wire.dialect import Encoded
from routerd.wire.faults.cold import ColdAnswers
from routerd.wire.openai.dialect import OpenAIDialect

START_S = 1000.0


class Clock:
    """As much of an event loop as a Ticker asks for."""

    def __init__(self) -> None:
        self.now_s = START_S
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._calls, (self.now_s + delay_s, next(self._count), call, args))

    @property
    def armed(self) -> int:
        """How many calls are due some day."""
        return len(self._calls)

    def advance(self, length_s: float) -> None:
        """Move on, with everything that is due on the way at its own time."""
        until_s = self.now_s + length_s
        while self._calls and self._calls[0][0] <= until_s:
            self.now_s, _, call, args = heapq.heappop(self._calls)
            call(*args)
        self.now_s = until_s


def ticker_of(clock: Clock) -> Ticker:
    return Ticker(clock)  # type: ignore[arg-type]


class Exchange:
    """What the relay or the collector did to its upstream; `play` runs as soon as the request is sent."""

    def __init__(self, play: Callable[[Sink], None] | None = None) -> None:
        self.sent = b""
        self.calls: list[str] = []
        self.sink: Sink | None = None
        self._play = play

    def send(self, data: bytes, sink: Sink, _rest: bytes = b"") -> None:
        self.sent, self.sink = data, sink
        if self._play is not None:
            self._play(sink)

    def abort(self) -> None:
        self.calls.append("abort")

    def linger(self) -> None:
        self.calls.append("linger")

    def expedite(self, take: Express) -> None:
        """Nothing comes in chunks."""

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


def whole(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Callable[[Sink], None]:
    """Answer with these bytes, at once."""

    def play(sink: Sink) -> None:
        sink.on_head(status, list(headers))
        if body:
            sink.on_body(body)
        sink.on_flush()
        sink.on_end()

    return play


def broken(error: Callable[[], UpstreamError]) -> Callable[[Sink], None]:
    """Break before anything was answered."""
    return lambda sink: sink.on_fail(error())


class Script:
    """A lane and its wires: each endpoint plays its list, one entry an attempt; `None` never answers."""

    def __init__(self, route: Any, clock: Clock, loop: Any, plays: dict[str, list[Callable[[Sink], None] | None]]) -> None:
        self.route = route
        self.timed = False
        self.clock = clock
        self.loop = loop
        self.ticker = ticker_of(clock)
        self.plays = plays
        self.exchanges: list[Exchange] = []
        self.asked: list[str] = []
        self.results: list[tuple[str, str]] = []
        self.malformed: list[tuple[str, int]] = []
        self.failovers: list[tuple[str, str, str]] = []

    def wire(self, planned: Planned) -> ScriptedWire:
        return ScriptedWire(self, planned)

    def count_attempt(self, target: str, result: str) -> None:
        self.results.append((target, result))

    def count_malformed(self, target: str, events: int) -> None:
        self.malformed.append((target, events))

    def count_failover(self, source: str, to: str, reason: str) -> None:
        self.failovers.append((source, to, reason))


class ScriptedWire:
    """A wire without a pool: every attempt gets a scripted exchange."""

    pool = None
    tokens = None
    extra: dict[str, Any] = {}

    def __init__(self, script: Script, planned: Planned) -> None:
        self._script = script
        self._planned = planned
        self.target = planned.target
        self.loop = script.loop
        self.ticker = script.ticker
        self.redaction = Redaction(planned.provider, planned.endpoint)
        self.dialect = OpenAIDialect(planned.provider)
        self.cold = ColdAnswers.of(planned.provider)

    def take(self, path: str) -> tuple[Exchange, bool]:
        return self.simulate(path), False

    def simulate(self, path: str) -> Exchange:
        name = self._planned.endpoint.name
        self._script.asked.append(name)
        exchange = Exchange(self._script.plays[name].pop(0))
        self._script.exchanges.append(exchange)
        return exchange

    def message(self, encoded: Encoded, stream: bool, request_id: str) -> tuple[bytes, bytes]:
        return encoded.body, b""
