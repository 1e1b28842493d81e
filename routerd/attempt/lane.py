"""A route made ready for a worker: its plan, and for each target the pool, the head of the request and the metric cells.

Built lazily, once a route and generation; everything that does not depend on the request is done here, so that an attempt only
joins bytes. Holds the one reference to credentials in clear text that a worker keeps: inside the prepared heads.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from routerd import __version__
from routerd.attempt.redaction import Redaction
from routerd.attempt.timer import Ticker
from routerd.attempt.tokens import Tokens
from routerd.graph import Endpoint, Graph, Provider, Route, Target
from routerd.observe import Cell, Metrics
from routerd.plan import Planned, RoutePlan
from routerd.upstream import Exchange, Origin, Place, Pool, SimulatedExchange, Upstreams
from routerd.wire.address import credential, own_fields, path_below, with_query
from routerd.wire.dialect import Dialect, Encoded
from routerd.wire.dialects import make_dialect
from routerd.wire.faults.cold import ColdAnswers
from routerd.wire.simulator import reply

LARGE_BYTES = 256 * 1024  # a body that is written by itself; below it one write is cheaper than one copy less
MAX_HEADS = 256
KEPT_TOKENS = 3  # of a target: an answer to a request with the one before may come late

__all__ = ["Lane", "Passing", "Surroundings", "Upload", "Wire", "place_of"]


class Surroundings(Protocol):
    """What wires need of their worker."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def ticker(self) -> Ticker: ...

    @property
    def upstreams(self) -> Upstreams: ...

    @property
    def rng(self) -> random.Random: ...

    @property
    def tokens(self) -> Tokens: ...


@dataclass(slots=True, kw_only=True)
class Passing:
    """A request that is passed on as it came: `path` is below the endpoint's URL, with its query; `fields` are the client's.

    `operation`: where the provider has a path of its own for it, that one is asked; empty: `path` stands.
    """

    method: str
    path: str
    operation: str
    fields: Mapping[str, str]
    upload: Upload


class Upload(Protocol):
    """The body of such a request on its way from the client."""

    @property
    def replayable(self) -> bool:
        """Whether it can be sent from its beginning now: nothing of it has been given out and lost."""

    def length(self, model: str) -> int | None:
        """Return the length in bytes for this upstream model name; None: it is not known."""

    def pieces(self, model: str) -> AsyncIterator[bytes]:
        """Give the body with the upstream's model name in it. Raises RequestError where the client is to blame."""


class Wire:
    """How one target at one endpoint is spoken to."""

    __slots__ = (
        "_heads",
        "_live_tokens",
        "_redaction",
        "_rng",
        "cold",
        "dialect",
        "endpoint",
        "loop",
        "origin",
        "pool",
        "provider",
        "target",
        "ticker",
        "tokens",
    )

    def __init__(self, planned: Planned, surroundings: Surroundings) -> None:
        self.provider: Provider = planned.provider
        self.endpoint: Endpoint = planned.endpoint
        self.target: Target = planned.target
        self.loop = surroundings.loop
        self.ticker = surroundings.ticker
        self._rng = surroundings.rng
        self.dialect: Dialect = make_dialect(self.provider)
        self.tokens: Tokens | None = surroundings.tokens if self.provider.auth.oauth is not None else None
        self._live_tokens: tuple[str, ...] = ()  # the last one is in the heads; those before it may still be quoted
        self.cold = ColdAnswers.of(self.provider)
        self._redaction: Redaction | None = None
        self._heads: dict[tuple[str, bool], bytes] = {}
        self.origin: Origin | None = None if self.provider.simulator is not None else origin_of(self.endpoint.url)
        self.pool: Pool | None = None if self.origin is None else surroundings.upstreams.pool(place_of(self.endpoint))

    @property
    def extra(self) -> Mapping[str, Any]:
        """The provider's static body fields."""
        return self.provider.body

    @property
    def redaction(self) -> Redaction:
        """What takes this target's credentials out of its words; made when a failure first asks for it."""
        if self._redaction is None:
            self._redaction = Redaction(self.provider, self.endpoint, self._live_tokens)
        return self._redaction

    async def authorize(self, refused: str, within_s: float) -> str:
        """Let the requests from now on carry an access token, another than `refused`; return it. Raises UpstreamError."""
        oauth = self.provider.auth.oauth
        assert oauth is not None
        assert self.tokens is not None
        token = await self.tokens.get(oauth, refused, within_s)
        if self._live_tokens[-1:] != (token,):
            self._live_tokens = (*self._live_tokens[1 - KEPT_TOKENS :], token)
            self._heads.clear()
            self._redaction = None
        return token

    def take(self, path: str) -> tuple[Exchange | None, bool]:
        """Return an exchange that is there, and whether its connection was used before; None: one has to be dialled."""
        if self.pool is None:
            return self.simulate(path), False
        return self.pool.take(), True

    def simulate(self, path: str) -> Exchange:
        """Return an exchange with the built-in upstream."""
        simulator = self.provider.simulator
        assert simulator is not None
        return SimulatedExchange(self.loop, lambda body: reply(path, body, simulator, self._rng, int(time.time())))

    def message(self, encoded: Encoded, stream: bool, request_id: str) -> tuple[bytes, bytes]:
        """Return the whole request: prepared head, length, id, body; a large body by itself, for joining it costs a copy."""
        path, body = encoded.path, encoded.body
        if self.pool is None:
            return body, b""
        head = self._heads.get((path, stream))
        if head is None:
            if len(self._heads) >= MAX_HEADS:  # a dialect with the model in the path, behind a pattern
                self._heads.clear()
            head = self._heads[(path, stream)] = self._head(path, stream)
        if encoded.fields:
            head += "".join([f"{name}: {value}\r\n" for name, value in encoded.fields.items()]).encode("latin-1", "replace")
        rest = body if len(body) > LARGE_BYTES else b""
        values = (head, request_id.encode("latin-1"), len(body), b"" if rest else body)
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % values, rest

    def passage_head(self, passing: Passing, request_id: str, length: int | None) -> bytes:
        """Return the head of a request that is passed on as it came; `length` None: its body comes in chunks, 0: it has none."""
        lines = dict(passing.fields)
        lines["x-request-id"] = request_id
        if length is None:
            lines["transfer-encoding"] = "chunked"
        elif length or passing.method not in ("GET", "DELETE"):
            lines["content-length"] = str(length)
        path = self.provider.offers.get(passing.operation, passing.path)
        return self._request_head(passing.method, path, lines) + b"\r\n"

    def _head(self, path: str, stream: bool) -> bytes:
        lines = {
            "accept": "text/event-stream" if stream else "application/json",
            "content-type": "application/json",
        }
        return self._request_head("POST", path, lines)

    def _request_head(self, method: str, path: str, lines: Mapping[str, str]) -> bytes:
        """Return the request line and all fields but what ends the head. The provider's own fields win over `lines`."""
        assert self.origin is not None
        # Compressed answers would have to be unpacked to be looked at; token streams gain nothing by it.
        fixed = {"host": _host_header(self.origin), "user-agent": f"routerd/{__version__}", "accept-encoding": "identity"}
        secret, query = credential(self.provider.auth, self._live_tokens[-1] if self._live_tokens else "")
        fields = {**own_fields(self.provider, {**fixed, **lines}), **secret}
        where = path_below(urlsplit(self.endpoint.url).path.rstrip("/"), path)
        text = f"{method} {with_query(where, query)} HTTP/1.1\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return text.encode("latin-1")


class Lane:
    """One route, ready. `routes` made on the fly (direct providers) get one too: their names are bounded."""

    __slots__ = ("_attempts", "_metrics", "_surroundings", "_wires", "plan", "route", "timed")

    def __init__(self, graph: Graph, route: Route, surroundings: Surroundings, metrics: Metrics) -> None:
        self.route = route
        self.plan = RoutePlan(graph, route)
        self.timed = self.plan.needs_latency  # some group balances by latency
        self._surroundings = surroundings
        self._metrics = metrics
        self._wires: list[Wire | None] = [None] * len(self.plan.every)
        self._attempts: dict[tuple[str, str], Cell] = {}

    def wire(self, planned: Planned) -> Wire:
        """Return the wire of one entry of the plan."""
        found = self._wires[planned.index]
        if found is None:
            found = self._wires[planned.index] = Wire(planned, self._surroundings)
        return found

    def count_attempt(self, target: str, result: str) -> None:
        """Count one attempt by its result."""
        cell = self._attempts.get((target, result))
        if cell is None:
            cell = self._attempts[(target, result)] = self._metrics.counter("routerd_attempts_total", target, result)
        cell.inc()

    def count_malformed(self, target: str, events: int) -> None:
        """Count events that a stream left out. Rare, so looked up each time."""
        self._metrics.counter("routerd_stream_malformed_events_total", target).inc(events)

    def count_failover(self, source: str, to: str, reason: str) -> None:
        """Count one step from a target to the next. Rare, so looked up each time."""
        self._metrics.counter("routerd_failovers_total", self.route.name, source, to, reason).inc()


def place_of(endpoint: Endpoint) -> Place:
    """Return which pool the connections to an endpoint are in."""
    return Place(origin_of(endpoint.url), endpoint.connections)


def origin_of(url: str) -> Origin:
    """Return where an endpoint's URL leads."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Origin(parts.hostname or "", parts.port or (443 if tls else 80), tls)


def _host_header(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == (443 if origin.tls else 80) else f"{host}:{origin.port}"
