"""One serving process: a loop around the gateway that does what control says.

`python -m routerd.daemon.workers.worker JSON` is started by control with inherited descriptors: the socket to control, the
listening socket, the shared counters and board. It builds and swaps generations, reports its series each second, writes access
records while there are any, drains when told. It handles no signal: control decides, and it ends when control ends. It must not
import YAML, a schema library, watchfiles, prometheus_client or `routerd.config`: their memory would be paid N times.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from routerd.daemon.output import log as logs
from routerd.daemon.tasks import Tasks
from routerd.daemon.workers.channel import (
    Abort,
    Ask,
    Channel,
    Commit,
    Committed,
    Drain,
    Forget,
    Hello,
    News,
    Notice,
    Piece,
    Prepare,
    Prepared,
    Stream,
    Tick,
    Undecodable,
    WantToken,
)
from routerd.daemon.workers.generation import Assembly, build_problem
from routerd.errors import ConfigError, Problem
from routerd.graph import Graph
from routerd.ledger import Batch, Outbox
from routerd.observe import Metrics, Snapshot

if TYPE_CHECKING:
    from routerd.daemon.output.spans import SpanExporter
    from routerd.server import Remote

__all__ = ["Worker", "main"]

log = logging.getLogger("routerd.worker")

TICK_S = 1.0
FLUSH_S = 0.1
UNSENT_MOST_BYTES = 4 * 1024 * 1024  # to control, before the ledger keeps its entries back
COLLECT_AFTER = 20_000  # allocations between two looks of the collector at the young; 700 of them would cost 4 % of a request
FREED_A_STEP = 50  # routes, clients or providers freed before other callbacks run: well below 1 ms
PR_SET_PDEATHSIG = 1


class Serving(Protocol):
    """The data plane, as the worker drives it."""

    async def prepare(self, number: int, graph: Graph) -> Any:
        """Build a generation; ConfigError if it cannot be."""

    def swap(self, generation: Any) -> Any:
        """Serve it; return the one before."""

    def shed(self, generation: Any) -> bool:
        """Free some of what a generation compiled that nobody uses; return whether there was any."""

    async def start(self, sock: socket.socket) -> None:
        """Accept on `sock`."""

    def learn(self, news: Any) -> None:
        """Take what control found out for all workers."""

    def generations(self) -> dict[int, int]:
        """Return requests in flight by generation, for those still in use."""

    def outcomes(self) -> dict[int, tuple[int, int]]:
        """Return, by generation, how many requests ended at a target and how many of them failed."""

    def publish_gauges(self) -> None:
        """Bring the gauges up to date."""

    async def drain(self, timeout_s: float) -> None:
        """Stop accepting and finish what runs."""

    async def close(self) -> None:
        """Stop at once."""


class Worker:
    """Obeys the messages of control until it says drain or goes away.

    `flush` hands over what requests left behind and returns whether more could be handed over at once, `unsaid` whether anything
    still waits. `stirred` is set by whoever leaves something where nothing was: an idle worker wakes for its tick only.
    """

    def __init__(
        self,
        stream: Stream,
        gateway: Serving,
        metrics: Metrics,
        *,
        index: int,
        sock: socket.socket,
        flush: Callable[[], bool] = lambda: False,
        unsaid: Callable[[], bool] = lambda: False,
        stirred: asyncio.Event | None = None,
    ) -> None:
        self._stream = stream
        self._gateway = gateway
        self._metrics = metrics
        self._sock = sock
        self._flush = flush
        self._unsaid = unsaid
        self._stirred = stirred or asyncio.Event()
        self._lag = metrics.histogram("routerd_event_loop_lag_seconds", str(index))
        self._lag_s = 0.0
        self._ended = 0  # requests, as the last beat saw them
        self._assembly: Assembly | None = None
        self._spoilt = ""  # why what is being sent cannot be built, whatever else comes
        self._prepared: tuple[int, Any, list[Any]] | None = None
        self._live: dict[int, tuple[Any, list[Any]]] = {}  # with their parts: held here so that their end can be spread over time
        self._started = False
        self._tasks = Tasks()

    async def run(self) -> None:
        """Serve until drained; EOFError when control is gone."""
        self._tasks.start(self._beat(), "beat")
        self._tasks.start(self._tick_for_ever(), "tick")
        self._stream.send(Hello(os.getpid()))
        try:
            while True:
                try:
                    message = await self._stream.receive()
                except Undecodable as exc:
                    self._spoil(f"a message of control cannot be decoded: {exc}")
                    continue
                if isinstance(message, Drain):
                    await self._drain(message.timeout_s)
                    return
                await self._obey(message)
        finally:
            await self._tasks.cancel()

    async def _obey(self, message: Any) -> None:
        if isinstance(message, Piece):
            if self._assembly is None or self._assembly.number != message.number:
                self._assembly = Assembly(message.number)
                self._stirred.set()
                gc.disable()  # a collection amid thousands of new objects finds nothing and stalls every stream
            try:
                self._assembly.add(message)
            except Exception as exc:  # a fault of our own must cost this edit, not the worker
                self._spoil(f"the piece {message.name} cannot be added: {type(exc).__name__}: {exc}")
            await asyncio.sleep(0)  # pieces wait in the buffer: streams go first
        elif isinstance(message, Prepare):
            await self._prepare(message.number)
        elif isinstance(message, Commit):
            await self._commit(message.number)
        elif isinstance(message, Abort):
            self._forget(message.number)
        elif isinstance(message, Ask):
            self._flush()
            self._tasks.start(self._tick(message.ticket), "answer")
        elif isinstance(message, News):
            self._gateway.learn(message.what)
        elif isinstance(message, Forget):
            self._metrics.forget(message.names)

    def _spoil(self, reason: str) -> None:
        """Have the next generation refused: not all of it is here. What serves is not touched."""
        log.error("%s", reason)
        self._spoilt = self._spoilt or reason

    async def _prepare(self, number: int) -> None:
        began_s = time.perf_counter()
        assembly, self._assembly = self._assembly, None
        spoilt, self._spoilt = self._spoilt, ""
        problems: tuple[Problem, ...] = ()
        try:
            if spoilt:
                raise ConfigError((build_problem(spoilt, code="internal"),))
            if assembly is None or assembly.number != number:
                raise ConfigError((build_problem(f"the pieces of generation {number} are not here"),))
            graph = assembly.graph()
            self._prepared = (number, await self._gateway.prepare(number, graph), _parts(graph))
        except ConfigError as exc:
            problems = exc.problems
        except Exception as exc:  # a fault of our own must cost this edit, not the worker
            log.exception("generation %d could not be built", number)
            problems = (build_problem(f"internal error while building: {type(exc).__name__}: {exc}", code="internal"),)
        finally:
            gc.freeze()  # what lives as long as a generation is not looked at by every full collection
            gc.enable()
        self._stream.send(Prepared(number, problems, time.perf_counter() - began_s))

    async def _commit(self, number: int) -> None:
        if self._prepared is None or self._prepared[0] != number:
            log.error("generation %d was never prepared here", number)
            return
        (_, generation, parts), self._prepared = self._prepared, None
        began_s = time.perf_counter()
        self._gateway.swap(generation)
        took_s = time.perf_counter() - began_s
        self._live[number] = (generation, parts)
        if not self._started:
            self._started = True
            await self._gateway.start(self._sock)
        self._stream.send(Committed(number, took_s))

    def _forget(self, number: int) -> None:
        self._spoilt = ""
        if self._assembly is not None and self._assembly.number == number:
            self._assembly = None
            gc.enable()
        if self._prepared is not None and self._prepared[0] == number:
            self._prepared = None

    async def _free(self) -> None:
        """Free generations nobody uses, some of each at a time: 2,000 routes that were all used would stall streams for 20 ms."""
        used = self._gateway.generations()
        for number in [n for n in self._live if n not in used]:
            generation, parts = self._live.pop(number)
            while self._gateway.shed(generation):
                await asyncio.sleep(0)
            del generation  # it must be gone before the parts of its graph are
            while parts:
                del parts[-FREED_A_STEP:]
                await asyncio.sleep(0)

    async def _tick_for_ever(self) -> None:
        while True:
            await self._measured(TICK_S)
            await self._tick(0)
            if self._is_busy():
                self._stirred.set()

    async def _tick(self, ticket: int) -> None:
        self._gateway.publish_gauges()
        last = Snapshot()
        for piece in self._metrics.changes():
            if last.values or last.histograms or last.gone:
                self._stream.send(Tick(last, last=False))
                await asyncio.sleep(0)
            last = piece
        outcomes = self._gateway.outcomes()  # first: what is idle is named once more
        self._stream.send(Tick(last, self._gateway.generations(), outcomes, self._lag_s, ticket))
        self._lag_s = 0.0

    async def _beat(self) -> None:
        """While there is something to do, hand over access records and entries, and free what is no longer used."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self._measured(FLUSH_S)
            while self._flush():
                await asyncio.sleep(0)
            if len(self._live) > 1:
                await self._free()
            if self._is_busy():
                self._stirred.set()

    async def _measured(self, length_s: float) -> None:
        """Sleep, and measure how late the timer fires."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + length_s
        await asyncio.sleep(length_s)
        late_s = max(0.0, loop.time() - due_s)
        self._lag.observe(late_s)
        self._lag_s = max(self._lag_s, late_s)

    def _is_busy(self) -> bool:
        """Return whether requests run or ended since the last call, or something is left to do after them."""
        before, self._ended = self._ended, sum(ended for ended, _ in self._gateway.outcomes().values())
        left = len(self._live) > 1 or self._assembly is not None or self._unsaid()
        return left or self._ended != before or any(self._gateway.generations().values())

    async def _drain(self, timeout_s: float) -> None:
        drained = self._tasks.start(self._gateway.drain(timeout_s), "drain")
        gone = self._tasks.start(self._until_gone(), "control")
        await asyncio.wait((drained, gone), return_when=asyncio.FIRST_COMPLETED)
        await self._gateway.close()
        await self._tick(0)

    async def _until_gone(self) -> None:
        """Answer questions while draining; return when control is gone."""
        while True:
            try:
                message = await self._stream.receive()
            except Undecodable:
                continue
            except EOFError:
                return
            if isinstance(message, Ask):
                await self._tick(message.ticket)
            elif isinstance(message, News):
                self._gateway.learn(message.what)


def _parts(graph: Graph) -> list[Any]:
    """Return the many that a graph consists of."""
    mappings = (getattr(graph, item.name) for item in fields(graph))
    return [value for mapping in mappings if isinstance(mapping, Mapping) for value in mapping.values()]


def main() -> None:
    """Run one worker; the single argument is a JSON object of what control tells it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    _die_with_parent(told["parent"])
    logs.setup(told["log_format"], f"worker-{told['index']}")
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(told))
    except EOFError:
        log.warning("control is gone")
        os._exit(1)


async def _serve(told: dict[str, Any]) -> None:
    from routerd.health import Health
    from routerd.server import Gateway
    from routerd.state import Board, LocalCounters

    index = told["index"]
    gc.set_threshold(COLLECT_AFTER, 20, 50)
    metrics = Metrics()
    stirred = asyncio.Event()
    access = None
    if not logs.is_discarded(1):
        dropped = metrics.counter("routerd_access_records_dropped_total", str(index))
        access = logs.AccessLog(told["log_format"], dropped, logs.LineWriter(1), stirred.set)
    channel = await Channel.open(socket.socket(fileno=told["channel"]))
    remote = await _remote(told, metrics)
    outbox = _outbox(channel, metrics, stirred.set) if told["ledger"] else None
    exporter = _exporter(index, metrics)
    counters = LocalCounters.attach(told["state"], worker=index, soon=asyncio.get_running_loop().call_soon)
    gateway = Gateway(
        counters=counters,
        health=Health(Board.attach(told["endpoints"], worker=index)),
        metrics=metrics,
        access=access.add if access else None,
        worker=index,
        notice=lambda kind, fields: channel.send(Notice(kind, fields)),
        remote=remote,
        tracer=exporter,
        ask_token=lambda source, refused: channel.send(WantToken(source, refused)),
        ledger=outbox.add if outbox else None,
    )
    sock = socket.socket(fileno=told["listen"])
    hand_over, unsaid = partial(_flush, outbox, access), partial(_unsaid, outbox, access)
    worker = Worker(channel, gateway, metrics, index=index, sock=sock, flush=hand_over, unsaid=unsaid, stirred=stirred)
    await worker.run()
    counters.flush()
    while outbox is not None and outbox.waiting:
        outbox.flush()
        await channel.flush()
    if exporter is not None:
        await exporter.close()
    if remote is not None:
        await remote.counters.close()
    await channel.flush()
    channel.close()
    if access:
        access.finish(1.0)


def _flush(outbox: Outbox | None, access: logs.AccessLog | None) -> bool:
    """Hand over entries and access records; return whether more could be handed over at once."""
    if outbox is not None:
        outbox.flush()
    return access.flush() if access is not None else False


def _unsaid(outbox: Outbox | None, access: logs.AccessLog | None) -> bool:
    return bool((outbox is not None and outbox.waiting) or (access is not None and access.waiting))


def _outbox(channel: Channel, metrics: Metrics, stir: Callable[[], object]) -> Outbox:
    """Make the way of the ledger's entries to control."""

    def send(batch: Batch) -> bool:
        if channel.unsent_bytes > UNSENT_MOST_BYTES:
            return False
        channel.send(batch)
        return True

    return Outbox(send, metrics.counter("routerd_ledger_dropped_total"), stir)


async def _remote(told: dict[str, Any], metrics: Metrics) -> Remote | None:
    """Connect to the counters that hosts share, if there are any."""
    url = os.environ.get("ROUTERD_STATE", "")
    if not url:
        return None
    from routerd.server import Remote
    from routerd.state import RemoteCounters

    up = metrics.gauge("routerd_state_up", str(told["index"]))
    losses = metrics.counter("routerd_state_losses_total", str(told["index"]))

    def changed(is_up: bool) -> None:
        up.set(float(is_up))
        losses.inc(float(not is_up))

    counters = RemoteCounters(url, told["state_timeout_s"], changed, told["host"])
    await counters.open()
    return Remote(counters, told["state_on_loss"] == "refuse")


def _exporter(index: int, metrics: Metrics) -> SpanExporter | None:
    """Begin to export spans, if there is a collector."""
    url = os.environ.get("ROUTERD_OTEL", "")
    if not url:
        return None
    from routerd.daemon.output.spans import SpanExporter

    exporter = SpanExporter(url, os.environ, index, metrics)
    exporter.start()
    return exporter


def _die_with_parent(parent: int) -> None:
    """Have the kernel end this process when control ends, whatever it is doing then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could say so
        os._exit(1)


if __name__ == "__main__":
    main()
