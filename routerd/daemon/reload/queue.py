"""Every reload, whatever caused it: one queue, one code path, one outcome with one word.

The steps: look, read and compile (in a thread, so that the admin listener answers), check what the command line adds, compare
the digest, guard against half a file, pack, publish to all workers, and only then the success metrics. A failure at any step
leaves what serves as it was. One reload runs at a time and at most one waits: it reads the newest bytes when it starts, so it
stands for everybody who asked before. A rollback takes its turn in the same queue and the same last two steps.

What was rolled back is held: the watcher does not take the same content up again, a changed file it does. After an operator's
rollback a reload that somebody asks for applies the file; what probation rolled back stays out until the file changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from routerd.config import Kept
from routerd.daemon.reload.guard import emptied, shrunk
from routerd.daemon.reload.history import Entry, History
from routerd.daemon.reload.outcome import REVERTED, SHRINK_GUARD, Outcome
from routerd.daemon.reload.tell import Teller
from routerd.daemon.workers.generation import Package, WorkerGone, build_problem, pack, unpack
from routerd.errors import ConfigError, Problem
from routerd.graph import Graph

__all__ = ["Inputs", "Loaded", "Reloader", "Steps"]

log = logging.getLogger("routerd.reload")


class _Input(Protocol):
    @property
    def path(self) -> Path: ...


class Loaded(Protocol):
    """What loading the configuration returns."""

    @property
    def graph(self) -> Graph: ...
    @property
    def warnings(self) -> tuple[Problem, ...]: ...
    @property
    def inputs(self) -> Sequence[_Input]: ...
    @property
    def kept(self) -> Kept: ...
    @property
    def origins(self) -> Mapping[str, Any]: ...


class Inputs(Protocol):
    """The watcher, as a reload sees it."""

    def before_load(self) -> Any:
        """Look at the inputs right before they are read."""

    def taken(self, before: Any, paths: Sequence[Path]) -> None:
        """They were read as they were at `before`; `paths` are the inputs from now on (empty: the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a reload consists of. `load` takes the inputs of an earlier load, or None: as the files are now."""

    load: Callable[[Kept | None], Loaded]
    gate: Callable[[Loaded], Sequence[Problem]]  # why this daemon must not serve it, if it must not
    compare: Callable[[Graph, Graph], tuple[str, ...]]  # what changes from one to the other, in words
    publish: Callable[[Package], Awaitable[tuple[float, float]]]


@dataclass(slots=True, kw_only=True)
class _Job:
    trigger: str
    seen_at_s: float | None = None
    allow_removal: bool = False
    back_to: Entry | None = None
    because: tuple[Problem, ...] = ()  # of a rollback
    from_kept: Kept | None = None
    served_at_s: float | None = None
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    package: Package
    graph: Graph
    kept: Kept | None
    warnings: tuple[Problem, ...] = ()
    paths: tuple[Path, ...] = ()


class _Refusal(Exception):
    """The files are fine, or empty, and yet do not serve."""

    def __init__(self, result: str, problems: Sequence[Problem]) -> None:
        super().__init__(result)
        self.result = result
        self.problems = tuple(problems)


class Reloader:
    """The queue in front of loading and publishing. Every outcome goes to `listeners`, after metrics and log."""

    def __init__(
        self,
        steps: Steps,
        inputs: Inputs,
        teller: Teller,
        *,
        main: Path,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._steps = steps
        self._inputs = inputs
        self._teller = teller
        self._main = main
        self._clock = clock
        self._wall = wall
        self._queue: list[_Job] = []
        self._running: _Job | None = None
        self._kick = asyncio.Event()
        self._number = 0  # of the last generation tried; a number is never used twice
        self._held = ""  # the digest that was rolled back
        self._held_for_all = False  # also for those who ask: probation rolled it back
        self.before: list[Callable[[], None]] = []  # called when a reload begins
        self.listeners: list[Callable[[Outcome], None]] = []
        self.history = History()
        self.graph: Graph | None = None  # what serves
        self.serving: Package | None = None
        self.source = "file"
        self.file_digest = ""  # what the files would serve; empty: they are wrong
        self.last: Outcome | None = None

    def request(
        self, trigger: str, seen_at_s: float | None = None, *, allow_removal: bool = False
    ) -> asyncio.Future[Outcome]:
        """Ask for a reload that reads the inputs after this call; the future holds how it ended."""
        waiting = next((job for job in self._queue if job.back_to is None), None)
        if waiting is None:
            return self._add(_Job(trigger=trigger, seen_at_s=seen_at_s, allow_removal=allow_removal))
        waiting.allow_removal |= allow_removal
        return waiting.outcome

    def start_from(self, kept: Kept) -> asyncio.Future[Outcome]:
        """Ask for the inputs of an earlier load to be served, because those of now cannot be."""
        return self._add(_Job(trigger="start", from_kept=kept))

    def roll_back(self, to: Entry, trigger: str = "rollback", because: tuple[Problem, ...] = ()) -> asyncio.Future[Outcome]:
        """Ask for the content of an earlier generation to serve again."""
        return self._add(_Job(trigger=trigger, back_to=to, because=because))

    async def waited(self) -> bool:
        """Wait for the reload that runs, if one does; return whether one did."""
        job = self._running
        if job is not None:
            await asyncio.wait((job.outcome,))
        return job is not None

    @property
    def drifts(self) -> bool:
        """Whether the files, as last read, would serve something else than what serves."""
        return self.serving is None or self.file_digest != self.serving.digest

    @property
    def held(self) -> str:
        """Who rolled back what the files hold, so that it does not serve: rollback, probation, or nobody."""
        return "" if not self._held else "probation" if self._held_for_all else "rollback"

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            while self._queue:
                job = self._running = self._queue.pop(0)
                try:
                    outcome = await self._run(job)
                except BaseException:
                    job.outcome.cancel()
                    raise
                finally:
                    self._running = None
                if not job.outcome.done():
                    job.outcome.set_result(outcome)

    def _add(self, job: _Job) -> asyncio.Future[Outcome]:
        self._queue.append(job)
        self._kick.set()
        return job.outcome

    async def _run(self, job: _Job) -> Outcome:
        began_s = self._clock()
        _told(self._teller.began, self._wall())
        for tell in self.before:
            _told(tell)
        problems: tuple[Problem, ...] = ()
        try:
            result = await (self._back(job, job.back_to) if job.back_to else self._forward(job))
            problems = job.because
        except _Refusal as exc:
            result, problems = exc.result, exc.problems
        except ConfigError as exc:
            result, problems = exc.stage, exc.problems
        except Exception as exc:  # a fault of our own must not end reloading for good
            log.exception("a reload failed unexpectedly")
            result, problems = "build", (build_problem(f"internal error: {type(exc).__name__}", code="internal"),)
        took_s = (self._clock() if job.served_at_s is None else job.served_at_s) - began_s
        outcome = self._outcome(job, result, problems, took_s)
        _told(self._teller.ended, outcome)
        self.last = outcome
        if outcome.untried and job.back_to is None:
            self._inputs.taken({}, ())  # they count as unseen: the watcher comes back with them
        for listener in self.listeners:
            _told(listener, outcome)
        return outcome

    def _outcome(self, job: _Job, result: str, problems: tuple[Problem, ...], took_s: float) -> Outcome:
        serving, latest = self.serving, self.history.latest
        return Outcome(
            trigger=job.trigger,
            result=result,
            generation=serving.number if serving else 0,
            digest=serving.digest if serving else "",
            source=self.source,
            at_unix_s=self._wall(),
            duration_s=took_s,
            problems=problems,
            changes=latest.changes if latest and result in ("applied", REVERTED) else (),
            rolled_back_to=job.back_to.package.number if job.back_to else 0,
        )

    # ── forward: what the files say ──

    async def _forward(self, job: _Job) -> str:
        built = await self._build(job)
        if job.from_kept is None:
            self._seen(built.package.digest)
        if self.serving is not None and built.package.digest == self.serving.digest:
            self.source = "file"  # it may have come from the disk's copy so far
            _told(self._teller.warn, built.warnings)
            return "unchanged"
        if self._held and (self._held_for_all or job.trigger == "file"):
            raise _Refusal(REVERTED, [_held_problem(self._held_for_all)])
        if self.graph is not None and not job.allow_removal and (lost := shrunk(self.graph, built.graph, self._main)):
            raise _Refusal(SHRINK_GUARD, lost)
        await self._apply(built, job, source="file" if job.from_kept is None else "last_good")
        self._held = ""
        _told(self._teller.warn, built.warnings)
        return "applied"

    def _seen(self, digest: str) -> None:
        """The files say `digest` now: what was rolled back is held only while they say that."""
        self.file_digest = digest
        if digest != self._held:
            self._held = ""

    async def _build(self, job: _Job) -> _Built:
        """Read, compile and pack in a thread; ConfigError with every problem."""
        began_s = self._clock()
        looks: list[object] = []
        try:
            built = await asyncio.to_thread(self._work, job, looks)
        except BaseException as exc:
            if looks:
                self._inputs.taken(looks[0], exc.inputs if isinstance(exc, ConfigError) else ())
            if job.from_kept is None and isinstance(exc, Exception):
                self._seen("")
            wrong = exc.problems if isinstance(exc, ConfigError) else ()
            if self.serving is not None and not job.allow_removal and (empty := emptied(wrong, self._main)):
                raise _Refusal(SHRINK_GUARD, empty) from exc
            raise
        if looks:
            self._inputs.taken(looks[0], built.paths)
        _told(self._teller.took, "load", self._clock() - began_s)
        return built

    def _work(self, job: _Job, looks: list[object]) -> _Built:
        if job.from_kept is None:
            looks.append(self._inputs.before_load())
        loaded = self._steps.load(job.from_kept)
        paths = tuple(item.path for item in loaded.inputs)
        graph = loaded.graph
        if refused := tuple(self._steps.gate(loaded)):
            raise ConfigError(refused, inputs=paths)
        package = pack(self._number + 1, graph)
        return _Built(package=package, graph=graph, kept=loaded.kept, warnings=loaded.warnings, paths=paths)

    # ── back: what served before ──

    async def _back(self, job: _Job, entry: Entry) -> str:
        if self.serving is not None and entry.package.digest == self.serving.digest:
            return "unchanged"
        built = await asyncio.to_thread(self._unpacked, entry)
        await self._apply(built, job, source=entry.source)
        self._held, self._held_for_all = self.file_digest, job.trigger == "probation"
        if self.file_digest == entry.package.digest:
            self._held = ""
        return REVERTED if job.trigger == "probation" else "applied"

    def _unpacked(self, entry: Entry) -> _Built:
        graph = unpack(entry.package)
        return _Built(package=pack(self._number + 1, graph), graph=graph, kept=entry.kept)

    # ── both ──

    async def _apply(self, built: _Built, job: _Job, *, source: str) -> None:
        package = built.package
        self._number = package.number
        try:
            build_s, swap_s = await self._steps.publish(package)
        except WorkerGone as exc:
            raise ConfigError((build_problem(str(exc), code="worker-died"),)) from exc
        job.served_at_s = self._clock()
        gone = self.history.latest
        if gone is not None and job.trigger == "probation":
            gone.reverted = True
        old, self.serving, self.graph, self.source = self.graph, package, built.graph, source
        entry = Entry(
            package=package,
            kept=built.kept,
            at_unix_s=self._wall(),
            trigger=job.trigger,
            source=source,
            models=len(built.graph.routes),
            providers=len(built.graph.providers),
            rollback_of=job.back_to.package.number if job.back_to else 0,
        )
        self.history.add(entry)
        _told(self._teller.took, "prepare", build_s)
        _told(self._teller.took, "commit", swap_s)
        if job.seen_at_s is not None:
            _told(self._teller.served, job.served_at_s - job.seen_at_s)
        entry.changes = await self._changes(old, built.graph)

    async def _changes(self, old: Graph | None, new: Graph) -> tuple[str, ...]:
        """Put the difference in words. It serves already: this delays nobody, and must not fail anything."""
        if old is None:
            return ()
        try:
            return await asyncio.to_thread(self._steps.compare, old, new)
        except Exception:  # words are not worth an edit
            log.exception("the changes could not be put in words")
            return ()


def _told(listener: Callable[..., None], *what: object) -> None:
    """Tell one listener. One that fails must neither turn a reload that serves into a failed one nor end reloading."""
    try:
        listener(*what)
    except Exception:
        log.exception("a reload could not be told")


def _held_problem(by_probation: bool) -> Problem:
    if by_probation:
        message, hint = "probation rolled this content back", "change the file; `routerd rollback N` serves it all the same"
    else:
        message, hint = "this content was rolled back", "change the file, or `routerd reload` to apply it all the same"
    return Problem(stage=REVERTED, code="rolled-back", path="", message=message, file="", hint=hint)
