"""Keep-alive pools, one for each origin. Last used, first taken, so that idle ones age and go.

An idle connection is dropped after IDLE_S: most servers keep theirs for 5 s (uvicorn) to 75 s (nginx); what they close is seen by
the event loop and leaves the pool at once, and the race that remains is recognised in `stale`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from routerd.upstream.connection import Connection
from routerd.upstream.faults import dial_fault, timeout_fault
from routerd.upstream.outbox import Outbox
from routerd.upstream.tls import client_context

__all__ = ["Origin", "Pool", "Upstreams"]

IDLE_S = 30.0
SWEEP_S = 5.0


class Origin(NamedTuple):
    """Where a connection leads. `tls` is part of the key."""

    host: str
    port: int
    tls: bool


class Pool:
    """The connections to one origin."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, origin: Origin, tls: Callable[[], ssl.SSLContext], outbox: Outbox
    ) -> None:
        self.origin = origin
        self.dialled = 0  # connections opened in all: an unrelated reload must not raise it
        self._loop = loop
        self._tls = tls
        self._outbox = outbox
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

    async def dial(self, timeout_s: float) -> Connection:
        """Open a connection. Raises UpstreamError (connect, tls, timeout), always with delivery NOT_SENT."""
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
        return Connection(self._loop, self._outbox, self._give_back, self._forget)

    def _give_back(self, connection: Connection) -> None:
        if self._retired:
            connection.abort()
            return
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def sweep(self, now_s: float) -> None:
        """Close what has been idle for too long."""
        while self._idle and now_s - self._idle[0].idle_since_s > IDLE_S:
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
    """All pools of a worker, keyed by origin. Lives as long as the worker; a reload only adds and retires."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: Callable[[], ssl.SSLContext] = client_context) -> None:
        self._loop = loop
        self.outbox = Outbox(loop)
        self._make_context = tls
        self._context: ssl.SSLContext | None = None
        self._pools: dict[Origin, Pool] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def pool(self, origin: Origin) -> Pool:
        """Return the pool of an origin, the same object for as long as it is wanted."""
        found = self._pools.get(origin)
        if found is None:
            found = self._pools[origin] = Pool(self._loop, origin, self._tls, self.outbox)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        return found

    async def prepare_tls(self) -> None:
        """Have the TLS context ready before it is needed, in a thread: to read the trust store takes 30 ms, and streams run."""
        if self._context is None:
            self._context = await self._loop.run_in_executor(None, self._make_context)

    def keep_only(self, origins: Iterable[Origin]) -> None:
        """Retire every pool whose origin no configuration names any more."""
        wanted = set(origins)
        for origin in [o for o in self._pools if o not in wanted]:
            self._pools.pop(origin).retire()

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
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep) if self._pools else None
