"""Keep-alive pools, one for each origin. Last used, first taken, so that idle ones age and go.

An idle connection is dropped after its pool's `idle_s`: most servers keep theirs for 5 s (uvicorn) to 75 s (nginx); what they
close is seen by the event loop and leaves the pool at once, and the race that remains is recognised in `stale`.
Where a pool is bounded, who finds it full waits in line: for a connection that is given back, or for the place of one that ended.
A place is counted from the moment it is given, so the bound holds whatever is dialled at once.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from routerd.graph import Connections
from routerd.upstream.connection import Connection
from routerd.upstream.faults import busy_fault, dial_fault, timeout_fault
from routerd.upstream.inbox import Inbox
from routerd.upstream.outbox import Outbox
from routerd.upstream.tls import client_context

__all__ = ["Origin", "Place", "Pool", "Upstreams"]

SWEEP_S = 5.0  # at most; a quarter of a shorter `idle_s`, so that this is a quarter late at most
SHORTEST_SWEEP_S = 0.1


class Origin(NamedTuple):
    """Where a connection leads. `tls` is part of the key."""

    host: str
    port: int
    tls: bool


class Place(NamedTuple):
    """What a pool is for: an origin, and how many connections there may be. Who says the same shares one."""

    origin: Origin
    connections: Connections = Connections()


class Pool:
    """The connections to one origin."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, place: Place, tls: Callable[[], ssl.SSLContext], inbox: Inbox
    ) -> None:
        self.place = place
        self.origin = place.origin
        self.dialled = 0  # connections opened in all: an unrelated reload must not raise it
        self._most = place.connections.max or sys.maxsize
        self._most_idle = place.connections.max_idle if place.connections.max_idle is not None else sys.maxsize
        self._coming = 0  # places that are given to connections which are not open yet
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._loop = loop
        self._tls = tls
        self._inbox = inbox
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._retired = False

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    @property
    def open(self) -> int:
        """Connections in all."""
        return len(self._open)

    def take(self) -> Connection | None:
        """Return the most recently used idle connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport  # an end of file has been seen before the loss of the connection is told
            if not connection.closed and transport is not None and not transport.is_closing():
                return connection
        return None

    async def obtain(self, timeout_s: float, *, fresh: bool = False) -> tuple[Connection, bool]:
        """Return a connection, and whether it was used before; a new one with `fresh`. Waits where the pool is full.

        Raises UpstreamError (connect, tls, timeout; rate_limited where none became free), always with delivery NOT_SENT.
        """
        connection = None if fresh else self.take()
        if connection is not None:
            return connection, True
        if self._full():
            before_s = self._loop.time()
            connection = await self._turn(timeout_s, fresh)
            if connection is not None:
                return connection, True
            timeout_s = max(0.001, timeout_s - (self._loop.time() - before_s))
        else:
            self._coming += 1
        try:
            return await self.dial(timeout_s), False
        finally:
            self._coming -= 1
            self._give_place()

    def _full(self) -> bool:
        return bool(self._waiting) or len(self._open) + self._coming >= self._most

    async def _turn(self, timeout_s: float, fresh: bool) -> Connection | None:
        """Wait for a connection, or (None) for a place, which is then counted in `_coming`. Raises UpstreamError."""
        if fresh and self._idle:
            self._idle.popleft().abort()  # the longest idle one makes room
        until_s = self._loop.time() + timeout_s
        while True:
            turn: asyncio.Future[Connection | None] = self._loop.create_future()
            self._waiting.append(turn)
            self._give_place()
            try:
                async with asyncio.timeout_at(until_s):
                    connection = await turn
            except BaseException as exc:
                self._take_back(turn)
                if isinstance(exc, TimeoutError):
                    raise busy_fault(self._most, timeout_s) from exc
                raise
            if connection is None or not (fresh or connection.closed):
                return connection
            connection.abort()  # closed in between, or one that was used is of no use: its place comes when it is gone

    def _take_back(self, turn: asyncio.Future[Connection | None]) -> None:
        """Give on what came to somebody who does not wait any more."""
        if not turn.done() or turn.cancelled():
            if turn in self._waiting:
                self._waiting.remove(turn)
            return
        connection = turn.result()
        if connection is None:
            self._coming -= 1
            self._give_place()
        elif not connection.closed:
            self._give_back(connection)

    def _give_place(self) -> None:
        """Let the first in line dial, where there is room."""
        while self._waiting and len(self._open) + self._coming < self._most:
            turn = self._waiting.popleft()
            if not turn.done():
                self._coming += 1
                turn.set_result(None)

    async def dial(self, timeout_s: float) -> Connection:
        """Open a connection, whatever the bound. Raises UpstreamError (connect, tls, timeout), always with delivery NOT_SENT."""
        host, port, tls = self.origin
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self._loop.create_connection(
                    self._make, host, port, ssl=self._tls() if tls else None, server_hostname=host if tls else None
                )
        except TimeoutError as exc:
            fault = dial_fault(exc)
            raise timeout_fault("connect", timeout_s, fault.delivery) from exc
        except (OSError, ssl.CertificateError, UnicodeError) as exc:
            raise dial_fault(exc) from exc
        self.dialled += 1
        if connection.closed:
            raise dial_fault(ConnectionResetError())
        self._open.add(connection)
        return connection

    def _make(self) -> Connection:
        return Connection(self._loop, self._inbox, self._give_back, self._forget)

    def _give_back(self, connection: Connection) -> None:
        if self._retired:
            connection.abort()
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)
        if len(self._idle) > self._most_idle:
            self._idle.popleft().abort()

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass
        if self._waiting:
            self._give_place()

    def sweep(self, now_s: float) -> None:
        """Close what has been idle for too long."""
        while self._idle and now_s - self._idle[0].idle_since_s > self.place.connections.idle_s:
            self._idle.popleft().abort()

    def retire(self) -> None:
        """Nobody refers to this origin any more: close the idle ones, the busy ones when their exchange ends."""
        self._retired = True
        while self._idle:
            self._idle.popleft().abort()

    def close(self) -> None:
        """Close everything, busy or not."""
        self.retire()
        for connection in list(self._open):
            connection.abort()


class Upstreams:
    """All pools of a worker, keyed by place. Lives as long as the worker; a reload only adds and retires."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: Callable[[], ssl.SSLContext] = client_context) -> None:
        self._loop = loop
        self.outbox = Outbox(loop)
        self._inbox = Inbox(loop, self.outbox)
        self._make_context = tls
        self._context: ssl.SSLContext | None = None
        self._pools: dict[Place, Pool] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def pool(self, place: Place) -> Pool:
        """Return the pool of a place, the same object for as long as it is wanted."""
        found = self._pools.get(place)
        if found is None:
            found = self._pools[place] = Pool(self._loop, place, self._tls, self._inbox)
            self._sweep_in()
        return found

    async def prepare_tls(self) -> None:
        """Have the TLS context ready before it is needed, in a thread: to read the trust store takes 30 ms, and streams run."""
        if self._context is None:
            self._context = await self._loop.run_in_executor(None, self._make_context)

    def keep_only(self, places: Iterable[Place]) -> None:
        """Retire every pool whose place no configuration names any more."""
        wanted = set(places)
        for place in [place for place in self._pools if place not in wanted]:
            self._pools.pop(place).retire()

    def close(self) -> None:
        """Close every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def dialled(self) -> int:
        """Connections opened so far over the pools that exist."""
        return sum(pool.dialled for pool in self._pools.values())

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._make_context()
        return self._context

    def _sweep(self) -> None:
        now_s = self._loop.time()
        for pool in self._pools.values():
            pool.sweep(now_s)
        self._sweeper = None
        self._sweep_in()

    def _sweep_in(self) -> None:
        """Look again in time for the pool that keeps its idle connections shortest."""
        if not self._pools:
            return
        shortest_s = min(place.connections.idle_s for place in self._pools) / 4
        at_s = self._loop.time() + min(SWEEP_S, max(SHORTEST_SWEEP_S, shortest_s))
        if self._sweeper is not None and self._sweeper.when() <= at_s:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = self._loop.call_at(at_s, self._sweep)
