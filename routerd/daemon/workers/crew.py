"""The workers as control sees them: started, asked, published to, and started again when they die.

A worker's life: starting (imports), waiting (said hello), then bound to the current generation and serving. A worker that dies
is replaced at once, then with growing pauses if it keeps dying young; its replacement gets the current generation before it
accepts. Publishing and bringing up a replacement exclude each other, so no worker can come up with a generation that is just
being replaced. What a dead worker had counted stays counted; what it had leased is given back.
How a process is made is not known here: `Spawn` is, so tests put a coroutine in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from routerd.daemon.tasks import Tasks, to_mark
from routerd.daemon.workers.channel import (
    Abort,
    Ask,
    Commit,
    Committed,
    Drain,
    Forget,
    Hello,
    News,
    Notice,
    Prepared,
    Stream,
    Tick,
    WantToken,
    encode,
)
from routerd.daemon.workers.generation import BUILD_TIMEOUT, NO_WORKER, Package, WorkerGone, build_problem, publish
from routerd.errors import ConfigError
from routerd.ledger import Batch
from routerd.observe import Metrics, Snapshot

__all__ = ["Crew", "Link", "Slot", "StartFailed"]

log = logging.getLogger("routerd.crew")

PUBLISH_TIMEOUT_S = 15.0
STUCK_AFTER_S = 10.0
SILENT_FOR_S = 20.0  # a worker ticks each second
OLD_ENOUGH_S = 10.0  # a worker that lived this long did not die young
LONGEST_PAUSE_S = 5.0
LONG_PAUSE_S = 1.0  # longer than clients should wait in the queue of a worker that is not there


class StartFailed(Exception):
    """A worker ended before the first generation served."""


class Link(Protocol):
    """A worker process."""

    pid: int
    stream: Stream

    def kill(self) -> None:
        """End it now."""

    async def reap(self) -> int:
        """Wait for its end; return the exit status, negative for a signal."""


Spawn = Callable[[int], Awaitable[Link]]


REMEMBERED = 32  # generations whose outcomes are kept: more than the history holds


def _add_outcomes(total: dict[int, tuple[int, int]], more: dict[int, tuple[int, int]]) -> None:
    for number, (ended, failed) in more.items():
        before = total.get(number, (0, 0))
        total[number] = (before[0] + ended, before[1] + failed)
    for number in sorted(total)[:-REMEMBERED]:
        del total[number]


class Slot:
    """The place of worker `index`: its process now, and what is known of it."""

    def __init__(self, index: int, clock: Callable[[], float]) -> None:
        self.index = index
        self.restarts = 0
        self.status: int | None = None  # how its last process ended; None: it never began
        self.generation = 0
        self.digest = ""
        self.lag_s = 0.0
        self.inflight: dict[int, int] = {}
        self.outcomes: dict[int, tuple[int, int]] = {}  # also of generations that the worker has forgotten
        self.snapshot = Snapshot()
        self.usable = asyncio.Event()  # it waits for the first generation, or serves the current one
        self.pausing = False
        self.heard_at_s = clock()
        self.link: Link | None = None
        self._clock = clock
        self._asked: dict[tuple[str, int], asyncio.Future[Any]] = {}

    @property
    def pid(self) -> int | None:
        """The process now, or None between two."""
        return self.link.pid if self.link else None

    async def prepare(self, package: Package) -> Prepared:
        """Have `package` built; WorkerGone when the worker ends first."""
        answer = self._expect("prepared", package.number)
        if self.link:
            self.link.stream.send_frames(package.frames)
        return await answer  # type: ignore[no-any-return]

    async def commit(self, number: int) -> Committed:
        """Have generation `number` served."""
        answer = self._expect("committed", number)
        if self.link:
            self.link.stream.send(Commit(number))
        return await answer  # type: ignore[no-any-return]

    def abort(self, number: int) -> None:
        """Have generation `number` forgotten."""
        if self.link:
            self.link.stream.send(Abort(number))

    def condemn(self, reason: str) -> None:
        """End the process; the crew starts another."""
        self.usable.clear()
        if self.link:
            log.error("worker %d (pid %d) is ended: %s", self.index, self.link.pid, reason)
            self.link.kill()

    async def ask(self, ticket: int) -> None:
        """Return when the worker's series are up to date."""
        answer = self._expect("tick", ticket)
        if self.link:
            self.link.stream.send(Ask(ticket))
        await answer

    def drain(self, timeout_s: float) -> None:
        """Have it finish what runs and exit."""
        if self.link:
            self.link.stream.send(Drain(timeout_s))

    def heard(self, message: Any) -> None:
        """Take one message of the worker."""
        self.heard_at_s = self._clock()
        if isinstance(message, Prepared):
            self._answer("prepared", message.number, message)
        elif isinstance(message, Committed):
            self.generation = message.number
            self._answer("committed", message.number, message)
        elif isinstance(message, Tick):
            self.snapshot.update(message.snapshot)
            if message.last:
                self.inflight = message.inflight
                self.outcomes.update(message.outcomes)
                for number in sorted(self.outcomes)[:-REMEMBERED]:
                    del self.outcomes[number]
                self.lag_s = message.lag_s
                self._answer("tick", message.ticket, message)

    def ended(self) -> None:
        """The process is gone: fail what waits for it."""
        self.link = None
        self.usable.clear()
        self.generation, self.digest, self.inflight = 0, "", {}
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(WorkerGone(f"worker {self.index} died"))

    def _expect(self, what: str, number: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.link is None:
            future.set_exception(WorkerGone(f"worker {self.index} is not up"))
        else:
            self._asked[(what, number)] = future
            future.add_done_callback(lambda _: self._asked.pop((what, number), None))
        return future

    def _answer(self, what: str, number: int, message: Any) -> None:
        future = self._asked.get((what, number))
        if future is not None and not future.done():
            future.set_result(message)


class Crew:
    """All workers. `dropped(index)` is called when a process ended, `paused(index)` before a long wait for the next one.

    `news(kind, fields)` is told of what an operator wants to hear: `worker_restarted`, and what workers send as a Notice.
    `ledger(batch)` gets the entries of the ledger, the last ones of a worker that ended too.
    """

    def __init__(
        self,
        count: int,
        spawn: Spawn,
        *,
        metrics: Metrics,
        dropped: Callable[[int], None],
        clock: Callable[[], float],
        sleep: Callable[[float], Any] = asyncio.sleep,
        paused: Callable[[int], None] = lambda _index: None,
    ) -> None:
        self.slots = [Slot(index, clock) for index in range(count)]
        self.current: Package | None = None
        self.retired = Snapshot()
        self.wanted: Callable[[WantToken], None] = lambda _: None
        self._news: dict[Any, bytes] = {}  # the newest of each subject, for workers that start later
        self.stopping = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spawn = spawn
        self._metrics = metrics
        self._dropped = dropped
        self._paused = paused
        self.news: Callable[[str, dict[str, Any]], None] = lambda _kind, _fields: None
        self.ledger: Callable[[Batch], None] = lambda _batch: None
        self._outcomes: dict[int, tuple[int, int]] = {}  # of processes that ended
        self._clock = clock
        self._sleep = sleep
        self._publishing = asyncio.Lock()
        self._tickets = 0
        self._lives: list[asyncio.Task[None]] = []
        self._tasks = Tasks()

    def start(self) -> None:
        """Start every worker."""
        for slot in self.slots:
            self._metrics.counter("routerd_worker_restarts_total", str(slot.index))
            self._metrics.gauge("routerd_worker_up", str(slot.index)).set(0)
            self._lives.append(self._tasks.start(self._live(slot), f"worker-{slot.index}"))
        self._tasks.start(self._guard(), "worker-guard")

    async def publish(self, package: Package) -> tuple[float, float]:
        """Bring `package` to all workers or to none.

        A worker that dies or stands still while it builds is replaced and all are asked again, once: an accident must not lose
        an edit, and an edit that kills workers must not be tried for ever.
        """
        for last_try in (False, True):
            await self._await_usable()
            async with self._publishing:
                ports = [slot for slot in self.slots if slot.usable.is_set()]
                if not ports:
                    raise ConfigError((build_problem("no worker is up", code=NO_WORKER),))
                try:
                    return await publish(ports, package, timeout_s=PUBLISH_TIMEOUT_S, adopt=partial(self._adopt, package, ports))
                except WorkerGone as exc:
                    if last_try:
                        raise
                    log.warning("%s while generation %d was built; trying again", exc, package.number)
                except ConfigError as exc:
                    if last_try or exc.problems[0].code != BUILD_TIMEOUT or not self._end_the_stuck():
                        raise
        raise AssertionError("unreachable")

    def tell(self, what: Any, subject: Any = None) -> None:
        """Send news to every worker. With a `subject` it is kept, in place of the last, for workers that start later."""
        frame = encode(News(what))
        if subject is not None:
            self._news[subject] = frame
        for slot in self.slots:
            if slot.link:
                slot.link.stream.send_frames((frame,))

    def untell(self, subject: Any) -> None:
        """Keep the news of a subject no longer."""
        self._news.pop(subject, None)

    def forget(self, names: frozenset[tuple[str, str]]) -> None:
        """Have the series of what is no longer configured dropped, those of processes that ended too."""
        self.retired.forget(names)
        frame = encode(Forget(names))
        for slot in self.slots:
            if slot.link:
                slot.link.stream.send_frames((frame,))

    async def collect(self, timeout_s: float) -> list[Snapshot]:
        """Return every worker's series, as fresh as it answers within `timeout_s`."""
        self._tickets += 1
        asks = [asyncio.ensure_future(slot.ask(self._tickets)) for slot in self.slots if slot.link]
        if asks:
            await asyncio.wait(asks, timeout=timeout_s)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        return [slot.snapshot for slot in self.slots]

    def inflight(self) -> dict[int, int]:
        """Return the requests in flight by generation, over all workers."""
        total: Counter[int] = Counter()
        for slot in self.slots:
            total.update(slot.inflight)
        return dict(total)

    def outcomes(self) -> dict[int, tuple[int, int]]:
        """Return, by generation, the requests that ended at a target and those that failed, over all workers ever."""
        total: dict[int, tuple[int, int]] = {}
        for each in (self._outcomes, *(slot.outcomes for slot in self.slots)):
            _add_outcomes(total, each)
        return total

    async def drain(self, timeout_s: float) -> None:
        """Let every worker finish what runs, and return when all have ended."""
        self.stopping.set()
        for slot in self.slots:
            slot.drain(timeout_s)
        if waiting := self._living():
            await asyncio.wait(waiting)

    async def kill(self) -> None:
        """End every worker now."""
        self.stopping.set()
        for slot in self.slots:
            if slot.link:
                slot.link.kill()
        if waiting := self._living():
            await asyncio.wait(waiting, timeout=5.0)
        await self._tasks.cancel()

    def _living(self) -> list[asyncio.Task[None]]:
        return [life for slot, life in zip(self.slots, self._lives, strict=True) if slot.link]

    def _end_the_stuck(self) -> bool:
        """End every worker that said nothing for so long that it cannot be serving either; return whether there was one."""
        stuck = [slot for slot in self.slots if slot.link and self._clock() - slot.heard_at_s > STUCK_AFTER_S]
        for slot in stuck:
            slot.condemn(f"silent for more than {STUCK_AFTER_S:g} s while a generation was built")
        return bool(stuck)

    def _adopt(self, package: Package, ports: Sequence[Slot]) -> None:
        self.current = package
        for slot in ports:
            slot.digest = package.digest

    async def _await_usable(self) -> None:
        waits = [asyncio.ensure_future(slot.usable.wait()) for slot in self.slots if not slot.pausing]
        if waits:
            await asyncio.wait(waits, timeout=PUBLISH_TIMEOUT_S)
        for wait in waits:
            wait.cancel()

    async def _live(self, slot: Slot) -> None:
        """One place through all its processes."""
        died_young = 0
        while not self.stopping.is_set():
            born_s = self._clock()
            slot.heard_at_s = born_s
            ended = await self._one_life(slot)
            self._bury(slot)
            if self.stopping.is_set():
                return
            if self.current is None:
                if not self.failed.done():
                    self.failed.set_exception(StartFailed(f"worker {slot.index} {ended}, before it served"))
                return
            died_young = 0 if self._clock() - born_s >= OLD_ENOUGH_S else died_young + 1
            await self._pause(slot, died_young, ended)
            slot.restarts += 1
            self._metrics.counter("routerd_worker_restarts_total", str(slot.index)).inc()
            self.news("worker_restarted", {"worker": slot.index, "status": slot.status, "restarts": slot.restarts})

    async def _one_life(self, slot: Slot) -> str:
        """Start a process and hear it until it ends; return how that was. A place is never given up, whatever failed."""
        slot.status = None
        try:
            slot.link = link = await self._spawn(slot.index)
        except OSError as exc:  # no process, file or memory left for it
            return f"could not be started: {exc}"
        if self.stopping.is_set():
            link.kill()
        try:
            await self._listen(slot, link)
        except Exception:  # a message that cannot be read or obeyed: with the next one the two would not mean the same
            log.exception("worker %d (pid %d) is ended, for it cannot be understood", slot.index, link.pid)
        link.kill()
        slot.status = await link.reap()
        return f"ended with status {slot.status}"

    async def _pause(self, slot: Slot, died_young: int, ended: str) -> None:
        """Wait before the next process: not after the first death, then ever longer."""
        pause_s = 0.0 if died_young <= 1 else min(LONGEST_PAUSE_S, 0.1 * 2 ** (died_young - 2))
        again = f"restart in {pause_s:.1f} s" if pause_s else "restarting"
        log.error("worker %d %s; %s", slot.index, ended, again)
        slot.pausing = pause_s > 0
        if pause_s >= LONG_PAUSE_S and any(other.usable.is_set() for other in self.slots):
            self._paused(slot.index)
        await self._sleep(pause_s)
        slot.pausing = False

    async def _listen(self, slot: Slot, link: Link) -> None:
        while True:
            try:
                message = await link.stream.receive()
            except EOFError:
                return
            if isinstance(message, WantToken):
                self.wanted(message)
            elif isinstance(message, Hello):
                slot.heard_at_s = self._clock()
                link.stream.send_frames(tuple(self._news.values()))
                if self.current is None and not self._publishing.locked():
                    slot.usable.set()
                else:
                    self._tasks.start(self._bring_up(slot, link), f"bring-up-{slot.index}")
            elif isinstance(message, Batch):
                self.ledger(message)
            elif isinstance(message, Notice):
                self.news(message.kind, {**message.fields, "worker": slot.index})
            else:
                slot.heard(message)
                if isinstance(message, Committed):
                    self._metrics.gauge("routerd_worker_up", str(slot.index)).set(1)

    async def _bring_up(self, slot: Slot, link: Link) -> None:
        """Give a new process the current generation; it accepts after that."""
        async with self._publishing:
            package = self.current
            if slot.link is not link:
                return
            if package is None:
                slot.usable.set()
                return
            try:
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    prepared = await slot.prepare(package)
                    if prepared.problems:
                        slot.condemn(f"it could not build what serves: {prepared.problems[0].message}")
                        return
                    await slot.commit(package.number)
            except TimeoutError:
                slot.condemn("it did not take the current generation in time")
                return
            except WorkerGone:
                return
            slot.digest = package.digest
            slot.usable.set()
            log.info("worker %d (pid %d) serves generation %d", slot.index, link.pid, package.number)

    def _bury(self, slot: Slot) -> None:
        self.retired.absorb(slot.snapshot)
        slot.snapshot = Snapshot()
        _add_outcomes(self._outcomes, slot.outcomes)
        slot.outcomes = {}
        slot.ended()
        self._metrics.gauge("routerd_worker_up", str(slot.index)).set(0)
        self._dropped(slot.index)

    async def _guard(self) -> None:
        """End a worker that stopped giving signs of life: it would hold its share of the connections for good."""
        while True:
            await self._sleep(to_mark(1.0, self._clock()))
            for slot in self.slots:
                silent_s = self._clock() - slot.heard_at_s
                if slot.link and not self.stopping.is_set() and silent_s > SILENT_FOR_S:
                    slot.heard_at_s = self._clock()
                    slot.condemn(f"silent for {silent_s:.0f} s")
