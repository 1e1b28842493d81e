"""The queue of batches in the control process, and the thread that writes them.

Many batches become one transaction. When the database is away they wait, up to a number of entries; what comes beyond it is
dropped, so that what is already here stays without gaps, and is counted. Trying again is harmless: an entry has an identity.
One line of the log at each change: lost, dropping, written again. The thread is a daemon: a database that hangs does not keep the
process from ending.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from routerd.ledger.entry import Batch
from routerd.ledger.store import LedgerLost, Store, Unwritable
from routerd.observe import Metrics

__all__ = ["Writer"]

log = logging.getLogger("routerd.ledger")

T = TypeVar("T")

PENDING_MOST = 100_000  # entries, some 15 MB: at 500 requests a second, three minutes without the database
AT_ONCE = 4096  # entries in one transaction
RETRY_S = (0.25, 5.0)  # the first pause after a failure, and the longest
PRUNE_EVERY_S = 600.0
PRUNE_STEP = 5000  # rows deleted in one statement: some 20 ms, and writing goes on between two


class _Thread:
    """One thread that does one thing after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, name="ledger", daemon=True).start()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Return what `work` returns there."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((work, future))
        return future

    def _run(self) -> None:
        while True:
            work, future = self._work.get()
            try:
                result, error = work(), None
            except Exception as exc:  # whoever asked is told
                result, error = None, exc
            try:
                self._loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop has ended
                return


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Writer:
    """The ledger of the daemon. All methods are for the loop's thread; `keep_s` 0: entries are kept for ever."""

    def __init__(self, store: Store, metrics: Metrics, now_unix: Callable[[], float], keep_s: float = 0.0) -> None:
        self._store = store
        self._thread = _Thread(asyncio.get_running_loop())
        self._now_unix = now_unix
        self._keep_s = keep_s
        self._pending: deque[Batch] = deque()
        self._count = 0
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._dropping = False
        self.error = ""  # why the database cannot be used now
        self._written = metrics.counter("routerd_ledger_written_total")
        self._dropped = metrics.counter("routerd_ledger_dropped_total")
        self._gauge = metrics.gauge("routerd_ledger_pending")
        self._up = metrics.gauge("routerd_ledger_up")
        self._up.set(1.0)

    @property
    def pending(self) -> int:
        """How many entries wait to be written."""
        return self._count

    def take(self, batch: Batch) -> None:
        """Queue a batch, or drop it when too many wait."""
        if self._count + batch.count > PENDING_MOST:
            self._dropped.inc(batch.count)
            if not self._dropping:
                self._dropping = True
                log.error("the ledger drops entries: %d wait for %s", self._count, self._store.where)
            return
        self._pending.append(batch)
        self._counted(batch.count)
        self._empty.clear()
        self._news.set()

    async def run(self) -> None:
        """Write what comes, for ever."""
        pause_s = RETRY_S[0]
        while True:
            await self._news.wait()
            if await self._write_some():
                pause_s = RETRY_S[0]
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_S[1], 2 * pause_s)

    async def prune(self) -> None:
        """Delete what is older than told, for ever, in small steps."""
        while self._keep_s:
            before_ms = int((self._now_unix() - self._keep_s) * 1000)
            try:
                while await self.ask(lambda: self._store.prune(before_ms, PRUNE_STEP)) >= PRUNE_STEP:  # noqa: B023 - awaited here
                    await asyncio.sleep(0.05)
            except LedgerLost:
                pass  # writing says so
            await asyncio.sleep(PRUNE_EVERY_S)

    def ask(self, question: Callable[[], T]) -> asyncio.Future[T]:
        """Return what `question` finds, asked in the thread that owns the store. LedgerLost when it cannot be asked."""
        return self._thread.do(question)

    @property
    def store(self) -> Store:
        """What `ask` may ask."""
        return self._store

    async def flush(self, timeout_s: float) -> int:
        """Wait until everything is written, so long at most; return how many entries are not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            pass
        return self._count

    async def close(self, timeout_s: float) -> None:
        """Write what is queued, as far as the database takes it in time, and let go of it."""
        left = await self.flush(timeout_s)
        if left:
            self._dropped.inc(left)
            log.error("%d entries of the ledger are lost: %s", left, self.error or f"{self._store.where} was too slow")
        else:
            await asyncio.wait((self._thread.do(self._store.close),), timeout=timeout_s)

    async def _write_some(self) -> bool:
        """Write the oldest batches; False when that failed."""
        some: list[Batch] = []
        count = 0
        for batch in self._pending:
            if some and count + batch.count > AT_ONCE:
                break
            some.append(batch)
            count += batch.count
        try:
            await self._write(some)
        except LedgerLost as exc:
            self._lost(str(exc))
            return False
        self._back()
        return True

    async def _write(self, batches: list[Batch]) -> None:
        try:
            await self._thread.do(lambda: self._store.write(batches))
        except Unwritable as exc:
            if len(batches) > 1:
                for batch in batches:  # only what is at fault
                    await self._write([batch])
                return
            log.error("%d entries of the ledger cannot be written: %s", batches[0].count, exc)
            self._dropped.inc(batches[0].count)
        else:
            self._written.inc(sum(batch.count for batch in batches))
        for _ in batches:
            self._counted(-self._pending.popleft().count)
        if not self._pending:
            self._news.clear()
            self._empty.set()

    def _counted(self, more: int) -> None:
        self._count += more
        self._gauge.set(self._count)

    def _lost(self, why: str) -> None:
        if not self.error:
            log.error("the ledger cannot be written: %s: %s; requests go on, entries wait", self._store.where, why)
        self.error = why
        self._up.set(0.0)

    def _back(self) -> None:
        if self.error or self._dropping:
            log.info("the ledger is written again: %s", self._store.where)
        self.error = ""
        self._dropping = False
        self._up.set(1.0)
