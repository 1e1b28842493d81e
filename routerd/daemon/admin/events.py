"""What happened, for whoever listens on GET /events. One event loop, no lock.

Every event has an id, `START-N`: N counts from 1 in this process, START tells two lives of the daemon apart. A ring of the last
200 answers a reader that lost its connection. A reader that does not keep up loses its oldest events, and is told how many.
Kinds are a closed set; fields are plain values and hold no secret.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Event", "Events", "Subscription"]

RING = 200
PENDING_MAX = 256
READERS_MAX = 64
KINDS = frozenset(
    {
        "reload_applied", "reload_unchanged", "reload_rejected", "rolled_back", "worker_restarted",
        "breaker", "cooldown", "endpoint", "budget_exhausted", "lost",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One event. An empty id: it is about this reader only, and is not replayed."""

    id: str
    kind: str
    fields: Mapping[str, Any]


class Subscription:
    """One reader's queue; iterate over it. It ends when the daemon does."""

    def __init__(self, closed: Callable[[Subscription], None], missed: int) -> None:
        self._pending: deque[Event] = deque()
        self._lost = missed
        self._wake = asyncio.Event()
        self._ended = False
        self._closed = closed

    def put(self, event: Event) -> None:
        """Queue one event, at the cost of the oldest if the reader is slow."""
        if len(self._pending) >= PENDING_MAX:
            self._pending.popleft()
            self._lost += 1
        self._pending.append(event)
        self._wake.set()

    def end(self) -> None:
        """Let the reader read what is queued, and then stop."""
        self._ended = True
        self._wake.set()

    def close(self) -> None:
        """Queue nothing more."""
        self._closed(self)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._lost or self._pending:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    yield Event("", "lost", {"events": lost})
                else:
                    yield self._pending.popleft()
            if self._ended:
                return
            self._wake.clear()
            await self._wake.wait()


class Events:
    """The bus."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._start = f"{int(wall() * 1000):x}"
        self._count = 0
        self._ring: deque[Event] = deque(maxlen=RING)
        self._readers: set[Subscription] = set()
        self._ended = False

    def emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Tell everybody who listens; a kind that is none is dropped."""
        if kind not in KINDS:
            return
        self._count += 1
        event = Event(f"{self._start}-{self._count}", kind, {"at_unix_s": round(self._wall(), 3), **fields})
        self._ring.append(event)
        for reader in self._readers:
            reader.put(event)

    def subscribe(self, last_id: str = "") -> Subscription | None:
        """Return a new reader's queue; with the id of the last event that it saw, what came since stands in it.

        An id of an earlier life of the daemon gives all that is remembered. None: so many listen that one more is refused.
        """
        if len(self._readers) >= READERS_MAX:
            return None
        start, _, number = last_id.partition("-")
        replay: list[Event] = []
        missed = 0
        if last_id:
            seen = int(number) if start == self._start and number.isdecimal() else 0
            replay = list(self._ring)[-max(0, self._count - seen) :] if seen < self._count else []
            missed = self._count - seen - len(replay) if start == self._start and seen < self._count else 0
        reader = Subscription(self._readers.discard, missed)
        for event in replay:
            reader.put(event)
        if self._ended:
            reader.end()
        self._readers.add(reader)
        return reader

    def end(self) -> None:
        """Let every reader finish; the daemon ends."""
        self._ended = True
        for reader in self._readers:
            reader.end()
