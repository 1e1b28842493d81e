"""What all requests of a worker share and no reload replaces."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from routerd.attempt import Passage, Relay, Ticker, Tokens
from routerd.health import Health
from routerd.ledger import Entry
from routerd.messages import AttemptRecord
from routerd.observe import AccessRecord, HistogramCell, Metrics
from routerd.policy import Counters
from routerd.server.budget.admission import Admission, Remote
from routerd.trace import Trace, passed_on
from routerd.upstream import Upstreams

__all__ = ["RequestIds", "Shared", "Tracer"]


class RequestIds:
    """Ids that are unique over workers and restarts: a random start, then a count."""

    __slots__ = ("_count", "_prefix")

    def __init__(self) -> None:
        self._prefix = f"req_{os.urandom(8).hex()}"
        self._count = 0

    def next(self) -> str:
        """Return the next id."""
        self._count += 1
        return f"{self._prefix}{self._count:08x}"


class Call(Protocol):
    """A request that runs."""

    def interrupt(self) -> None:
        """The daemon ends now: answer that, unless a stream has begun."""


class Tracer(Protocol):
    """Records requests for a collector of traces."""

    def begin(self, parent: str | None, state: str | None, /) -> Trace | None:
        """Return the context of a request that came with these header fields."""

    def ended(self, trace: Trace, operation: str, record: AccessRecord, attempts: Sequence[AttemptRecord], /) -> None:
        """Keep what became of it."""


@dataclass(slots=True, kw_only=True)
class Shared:
    """One a worker."""

    loop: asyncio.AbstractEventLoop
    upstreams: Upstreams
    health: Health
    counters: Counters
    metrics: Metrics
    access: Callable[[AccessRecord], None] | None
    notice: Callable[[str, dict[str, Any]], None]  # tells control of an event: its kind and plain fields
    ticker: Ticker
    tokens: Tokens
    found: Mapping[str, str | None] = field(default_factory=dict)  # provider -> its models; another mapping at each news
    remote: Remote | None = None
    ledger: Callable[[Entry], None] | None = None  # None: nothing is written down
    tracer: Tracer | None = None
    streams: set[Relay | Passage] = field(default_factory=set)  # committed and not ended: told when the daemon stops
    calls: set[Call] = field(default_factory=set)  # running: told when the daemon stops
    rng: random.Random = field(default_factory=random.Random)
    ids: RequestIds = field(default_factory=RequestIds)
    admission: Admission = field(init=False)
    before_upstream: HistogramCell = field(init=False)
    after_upstream: HistogramCell = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.loop, self.counters, self.metrics, self.remote)
        self.admission.notify = self.notice
        self.before_upstream = self.metrics.histogram("routerd_overhead_seconds", "before_upstream")
        self.after_upstream = self.metrics.histogram("routerd_overhead_seconds", "after_upstream")

    def context(self, headers: Mapping[str, str]) -> Trace | None:
        """Return the trace that a request belongs to: handed on to upstreams, and recorded where there is a tracer."""
        parent = headers.get("traceparent")
        if self.tracer is not None:
            return self.tracer.begin(parent, headers.get("tracestate"))
        return passed_on(parent, headers.get("tracestate")) if parent is not None else None

    def told(self, record: AccessRecord, trace: Trace | None, operation: str, attempts: Sequence[AttemptRecord]) -> None:
        """Hand over what became of a request: to the access log, and to the tracer if it is recorded."""
        if self.access is not None:
            self.access(record)
        if self.tracer is not None and trace is not None and trace.span_id:
            self.tracer.ended(trace, operation, record, attempts)
