"""Every reload, whatever caused it: one queue, one code path, one outcome with one word.

The steps: look, read and compile (in a thread, so that the admin listener answers), check what the command line adds, compare
the digest, pack, publish to all workers, and only then the success metrics. A failure at any step leaves what serves as it was.
One reload runs at a time and at most one waits: it reads the newest bytes when it starts, so it stands for everybody who asked
before. `result` is `applied`, `unchanged`, or the stage that failed; the metric, the log and the API say the same word.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from routerd.daemon.generation import NO_WORKER, Package, WorkerGone, build_problem, pack
from routerd.daemon.report import is_unreadable
from routerd.errors import ConfigError, Problem
from routerd.graph import Graph
from routerd.observe import Metrics

__all__ = ["Inputs", "Loaded", "Outcome", "Reloader"]

log = logging.getLogger("routerd.reload")


class Loaded(Protocol):
    """What loading the configuration returns."""

    @property
    def graph(self) -> Graph: ...
    @property
    def warnings(self) -> tuple[Problem, ...]: ...
    @property
    def inputs(self) -> Sequence[Any]: ...


class Inputs(Protocol):
    """The watcher, as a reload sees it."""

    def before_load(self) -> Any:
        """Look at the inputs right before they are read."""

    def taken(self, before: Any, paths: Sequence[Path]) -> None:
        """They were read as they were at `before`; `paths` are the inputs from now on (empty: the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one reload ended. `generation` and `digest` are of what serves now."""

    trigger: str  # start | file | signal | api
    result: str  # applied | unchanged | read | yaml | interpolate | schema | semantic | tests | build
    generation: int
    digest: str
    at_unix_s: float
    duration_s: float = 0.0
    problems: tuple[Problem, ...] = ()

    @property
    def untried(self) -> bool:
        """Whether nothing is wrong with the files, but no worker was up to take them."""
        return any(problem.code == NO_WORKER for problem in self.problems)

    @property
    def unreadable(self) -> bool:
        """Whether it failed for files that are missing or may not be read, and for nothing else."""
        return is_unreadable(self.problems)

    @property
    def ok(self) -> bool:
        """Whether the configuration in the files serves now."""
        return self.result in ("applied", "unchanged")


@dataclass(slots=True)
class _Waiting:
    trigger: str
    seen_at_s: float | None
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Reloader:
    """The queue in front of loading and publishing."""

    def __init__(
        self,
        *,
        load: Callable[[], Loaded],
        gate: Callable[[Graph], Sequence[Problem]],
        publish: Callable[[Package], Awaitable[tuple[float, float]]],
        inputs: Inputs,
        metrics: Metrics,
        report: Callable[[Sequence[Problem]], str],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._load = load
        self._gate = gate
        self._publish = publish
        self._inputs = inputs
        self._metrics = metrics
        self._report = report
        self._clock = clock
        self._wall = wall
        self._waiting: _Waiting | None = None
        self._kick = asyncio.Event()
        self._logged: tuple[Problem, ...] = ()
        self._warned: tuple[Problem, ...] = ()
        self._number = 0  # of the last generation tried; a number is never used twice
        self._info: tuple[str, ...] | None = None
        self.serving: Package | None = None
        self.last: Outcome | None = None

    def request(self, trigger: str, seen_at_s: float | None = None) -> asyncio.Future[Outcome]:
        """Ask for a reload that reads the inputs after this call; the future holds how it ended."""
        if self._waiting is None:
            self._waiting = _Waiting(trigger, seen_at_s)
            self._kick.set()
        return self._waiting.outcome

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            if (waiting := self._waiting) is None:
                continue
            self._waiting = None
            try:
                outcome = await self._reload(waiting)
            except BaseException:
                waiting.outcome.cancel()
                raise
            if not waiting.outcome.done():
                waiting.outcome.set_result(outcome)

    async def _reload(self, waiting: _Waiting) -> Outcome:
        began_s = self._clock()
        self._metrics.gauge("routerd_config_last_reload_attempt_timestamp_seconds").set(self._wall())
        problems: tuple[Problem, ...] = ()
        try:
            package, warnings = await self._build()
            if self.serving is not None and package.digest == self.serving.digest:
                result = "unchanged"
            else:
                await self._apply(package)
                result = "applied"
            self._warn(warnings)
        except ConfigError as exc:
            result, problems = exc.stage, exc.problems
        except Exception as exc:  # a fault of our own must not end reloading for good
            log.exception("a reload failed unexpectedly")
            result, problems = "build", (build_problem(f"internal error: {type(exc).__name__}", code="internal"),)
        outcome = Outcome(
            trigger=waiting.trigger,
            result=result,
            generation=self.serving.number if self.serving else 0,
            digest=self.serving.digest if self.serving else "",
            at_unix_s=self._wall(),
            duration_s=self._clock() - began_s,
            problems=problems,
        )
        self._tell(outcome)
        if outcome.untried:
            self._inputs.taken({}, ())  # they count as unseen: the watcher comes back with them
        if result == "applied" and waiting.seen_at_s is not None:
            self._metrics.histogram("routerd_config_detect_to_serve_seconds").observe(self._clock() - waiting.seen_at_s)
        return outcome

    async def _build(self) -> tuple[Package, tuple[Problem, ...]]:
        """Read, compile and pack in a thread; ConfigError with every problem."""
        before: Any = None

        def work() -> tuple[Package, tuple[Problem, ...], tuple[Path, ...]]:
            nonlocal before
            before = self._inputs.before_load()
            loaded = self._load()
            if refused := tuple(self._gate(loaded.graph)):
                raise ConfigError(refused, inputs=[item.path for item in loaded.inputs])
            package = pack(self._number + 1, loaded.graph)
            return package, loaded.warnings, tuple(item.path for item in loaded.inputs)

        began_s = self._clock()
        try:
            package, warnings, paths = await asyncio.to_thread(work)
        except BaseException as exc:
            if before is not None:
                self._inputs.taken(before, exc.inputs if isinstance(exc, ConfigError) else ())
            raise
        self._inputs.taken(before, paths)
        self._observe("load", self._clock() - began_s)
        return package, warnings

    async def _apply(self, package: Package) -> None:
        self._number = package.number
        try:
            build_s, swap_s = await self._publish(package)
        except WorkerGone as exc:
            raise ConfigError((build_problem(str(exc), code="worker-died"),)) from exc
        self._observe("prepare", build_s)
        self._observe("commit", swap_s)
        self.serving = package

    def _observe(self, phase: str, took_s: float) -> None:
        self._metrics.histogram("routerd_config_reload_duration_seconds", phase).observe(took_s)

    def _tell(self, outcome: Outcome) -> None:
        """Write the metrics, the log and the status; what serves has served since before this call."""
        metrics, package = self._metrics, self.serving
        if package is not None and outcome.result == "applied":
            info = (package.digest[:16], str(package.number), "file")
            if self._info is not None:
                metrics.drop("routerd_config_info", *self._info)
            metrics.gauge("routerd_config_info", *info).set(1)
            self._info = info
            metrics.gauge("routerd_config_last_reload_success_timestamp_seconds").set(outcome.at_unix_s)
        metrics.gauge("routerd_config_last_reload_successful").set(float(outcome.ok))
        metrics.counter("routerd_config_reloads_total", outcome.trigger, outcome.result).inc()
        self._log(outcome)
        self.last = outcome

    def _log(self, outcome: Outcome) -> None:
        took_ms = outcome.duration_s * 1000
        if outcome.ok:
            log.info("reload (%s): %s, generation %d in %.0f ms", outcome.trigger, outcome.result, outcome.generation, took_ms)
            self._logged = ()
            return
        if outcome.trigger == "start":
            log.error("cannot start (%s):\n%s", outcome.result, self._report(outcome.problems))
            return
        kept = f"generation {outcome.generation} keeps serving" if outcome.generation else "nothing serves yet"
        if outcome.problems == self._logged:
            log.warning("reload (%s): %s, the same problems as before; %s", outcome.trigger, outcome.result, kept)
            return
        self._logged = outcome.problems
        count = len(outcome.problems)
        log.error(
            "reload (%s): %s, %d problem%s; %s\n%s",
            outcome.trigger,
            outcome.result,
            count,
            "" if count == 1 else "s",
            kept,
            self._report(outcome.problems),
        )

    def _warn(self, warnings: tuple[Problem, ...]) -> None:
        if warnings and warnings != self._warned:
            log.warning("the configuration has warnings\n%s", self._report(warnings))
        self._warned = warnings
