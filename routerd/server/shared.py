"""What all requests of a worker share and no reload replaces."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from routerd.attempt import Passage, Relay, Ticker, Tokens
from routerd.health import Health
from routerd.ledger import Entry
from routerd.observe import AccessRecord, HistogramCell, Metrics
from routerd.policy import Counters
from routerd.server.admission import Admission, Remote
from routerd.upstream import Upstreams

__all__ = ["RequestIds", "Shared"]


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
