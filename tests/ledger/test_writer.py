"""The queue in control: nothing twice, nothing lost while there is room, and a database that is away keeps nobody waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from routerd.ledger import Batch, LedgerLost, Store, Unwritable, Writer
from routerd.ledger import writer as module
from routerd.observe import Metrics
from tests.ledger.build import batch, entry

Fate = Callable[[Sequence[Batch]], None]


class Scripted:
    """A store that does what the test says."""

    where = "the place"

    def __init__(self, fate: Fate = lambda batches: None) -> None:
        self.fate = fate
        self.written: list[Batch] = []
        self.transactions: list[int] = []
        self.closed = False

    def write(self, batches: Sequence[Batch]) -> int:
        self.fate(batches)
        self.written += batches
        self.transactions.append(len(batches))
        return sum(one.count for one in batches)

    def prune(self, before_ms: int, most: int) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def running(store: Scripted) -> AsyncIterator[tuple[Writer, Metrics]]:
    metrics = Metrics()
    writer = Writer(cast(Store, store), metrics, lambda: 1e9)
    task = asyncio.ensure_future(writer.run())
    try:
        yield writer, metrics
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def values(metrics: Metrics) -> dict[str, float]:
    return {key[0].removeprefix("routerd_ledger_"): value for key, value in metrics.snapshot().values.items()}


def numbered(count: int, each: int = 2) -> list[Batch]:
    return [batch(*[entry()] * each, first=i * each) for i in range(count)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.001, 0.001))


async def test_batches_are_written_in_order_and_many_in_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 8)
    store, batches = Scripted(), numbered(9)
    async with running(store) as (writer, metrics):
        for one in batches:
            writer.take(one)
        assert values(metrics)["pending"] == 18
        assert await writer.flush(5) == 0
    assert (store.written, store.transactions) == (batches, [4, 4, 1])
    assert values(metrics) == {"written_total": 18, "dropped_total": 0, "pending": 0, "up": 1}


async def test_while_it_is_away_entries_wait_and_then_all_are_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "routerd.ledger")
    away, tries = [True], asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def fate(batches: Sequence[Batch]) -> None:
        loop.call_soon_threadsafe(tries.release)
        if away[0]:
            raise LedgerLost("no route to it")

    store, batches = Scripted(fate), numbered(3)
    async with running(store) as (writer, metrics):
        for one in batches:
            writer.take(one)
        for _ in range(3):
            await tries.acquire()
        assert (writer.pending, values(metrics)["up"], writer.error) == (6, 0, "no route to it")
        away[0] = False
        assert await writer.flush(5) == 0
        await writer.close(5)
    assert store.written == batches
    assert [record.message for record in caplog.records] == [
        "the ledger cannot be written: the place: no route to it; requests go on, entries wait",
        "the ledger is written again: the place",
    ]
    assert store.closed


async def test_what_is_too_much_is_dropped_the_newest_first_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PENDING_MOST", 6)
    away = [True]

    def fate(batches: Sequence[Batch]) -> None:
        if away[0]:
            raise LedgerLost("away")

    store, batches = Scripted(fate), numbered(5)
    async with running(store) as (writer, metrics):
        for one in batches:
            writer.take(one)
        assert (writer.pending, values(metrics)["dropped_total"]) == (6, 4)
        away[0] = False
        assert await writer.flush(5) == 0
    assert store.written == batches[:3]
    assert [record.message for record in caplog.records if "drops" in record.message] == [
        "the ledger drops entries: 6 wait for the place"
    ]


async def test_only_the_batch_that_no_database_takes_is_lost() -> None:
    def fate(batches: Sequence[Batch]) -> None:
        if any(one.first == 4 for one in batches):
            raise Unwritable("a number too large")

    store, batches = Scripted(fate), numbered(4)
    async with running(store) as (writer, metrics):
        for one in batches:
            writer.take(one)
        assert await writer.flush(5) == 0
    assert store.written == [one for one in batches if one.first != 4]
    assert (values(metrics)["written_total"], values(metrics)["dropped_total"]) == (6, 2)


async def test_the_end_waits_for_a_slow_database_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    def fate(batches: Sequence[Batch]) -> None:
        raise LedgerLost("away")

    store = Scripted(fate)
    async with running(store) as (writer, metrics):
        writer.take(batch(entry(), entry()))
        await writer.close(0.05)
    assert values(metrics)["dropped_total"] == 2
    assert "2 entries of the ledger are lost: away" in caplog.text


async def test_questions_are_asked_between_writes_and_their_errors_come_back() -> None:
    def fails() -> Any:
        raise LedgerLost("no")

    async with running(Scripted()) as (writer, _):
        assert await writer.ask(lambda: 7) == 7
        with pytest.raises(LedgerLost):
            await writer.ask(fails)


async def test_old_entries_are_deleted_step_by_step() -> None:
    asked: list[tuple[int, int]] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Old(Scripted):
        def prune(self, before_ms: int, most: int) -> int:
            asked.append((before_ms, most))
            if len(asked) == 3:
                loop.call_soon_threadsafe(done.set)
            return most if len(asked) < 3 else 5

    writer = Writer(cast(Store, Old()), Metrics(), lambda: 1e9, keep_s=86400)
    task = asyncio.ensure_future(writer.prune())
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert asked == [(int((1e9 - 86400) * 1000), module.PRUNE_STEP)] * 3
