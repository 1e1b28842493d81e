"""The parts of the control process, put together: what reads, watches, publishes, remembers and tells.

It carries no traffic, so it may take 100 ms of CPU for a reload while streams run on. What the parts decide stands with them;
here is only who is told of what. `daemon.serve` is the order of their life.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from routerd.daemon.admin.events import Events
from routerd.daemon.credit import CreditOffice
from routerd.daemon.drain import Ending
from routerd.daemon.endpoints.drains import Drains
from routerd.daemon.endpoints.probes import HttpFetch, Probes
from routerd.daemon.endpoints.vitals import Vitals, log_notice
from routerd.daemon.known import Known
from routerd.daemon.load.gate import Listening, unfit
from routerd.daemon.notify import Notifier
from routerd.daemon.output.report import report
from routerd.daemon.settings import Settings
from routerd.daemon.tasks import Tasks
from routerd.daemon.workers.crew import Crew
from routerd.ledger import Writer, open_store
from routerd.observe import Metrics

if TYPE_CHECKING:
    from routerd.config import Kept, Loaded
    from routerd.daemon.reload import Outcome
    from routerd.daemon.reload.history import Entry
    from routerd.daemon.reload.probation import Count
    from routerd.daemon.workers.generation import Package
    from routerd.graph import Graph
    from routerd.health import Health
    from routerd.state import Board, LocalCounters

__all__ = ["Control"]

CHANGES_TOLD = 50
NO_WORKER_PAUSE_S = 1.0  # before an edit is tried again that no worker was there to take


class Control:
    """The parts of the control process, once its sockets and workers exist."""

    ledger: Writer | None = None
    credits: CreditOffice

    def __init__(
        self, settings: Settings, crew: Crew, metrics: Metrics, notifier: Notifier, board: Board, listening: Listening
    ) -> None:
        from routerd.daemon.outside import Errands
        from routerd.daemon.reload import Reloader, Steps, Teller
        from routerd.daemon.reload.keep import Keeper
        from routerd.daemon.reload.trial import Trials
        from routerd.daemon.watch import Watcher
        from routerd.health import Health

        self.settings = settings
        self.crew = crew
        self.metrics = metrics
        self.notifier = notifier
        self.ending = Ending()
        self.tasks = Tasks()
        self.events = Events()
        crew.news = self.events.emit
        self.known = Known(metrics, crew.forget, time.monotonic)
        self.errands = Errands(crew, metrics, settings.state_dir)
        self.fetch = HttpFetch(self.errands.token)
        health = Health(board)
        self.probes = Probes(self.fetch, state_of=health.get, clock=time.monotonic, rng=random.Random())
        self.vitals = self._vitals(health)
        self.watcher = Watcher(
            [settings.config],
            self._changed,
            clock=time.monotonic,
            looked=self._looked,
            failed=metrics.counter("routerd_config_watch_errors_total").inc,
        )
        gate = partial(unfit, listening=listening, main=str(settings.config))
        steps = Steps(load=self._load, gate=gate, compare=changes_in_words, publish=self._publish)
        teller = Teller(metrics, partial(report, stream=sys.stderr))
        self.reloader = Reloader(steps, self.watcher, teller, main=settings.config)
        self.reloader.before.append(self._reload_begins)
        self.reloader.listeners += [self._credits_follow, self._errands_follow, self._reload_ended]
        self.keeper = Keeper(settings.state_dir, time.time)
        self.trials = Trials(self.reloader, self._outcomes, self._proven, time.monotonic)
        for name in ("drift", "file_present", "watch_last_look_timestamp_seconds"):
            metrics.gauge(f"routerd_config_{name}")

    def open_ledger(self, counters: LocalCounters) -> None:
        """Begin to write what workers send, if there is a ledger, and to count credits by it."""
        settings = self.settings
        if settings.ledger:
            ledger = self.ledger = Writer(open_store(settings.ledger), self.metrics, time.time, settings.ledger_keep_s)
            self.crew.ledger = ledger.take
            self.tasks.start(ledger.run(), "ledger")
            self.tasks.start(ledger.prune(), "ledger-keep")
        self.credits = CreditOffice(self.ledger, counters, self.crew, shared=bool(settings.state))

    def _load(self, kept: Kept | None) -> Loaded:
        from routerd.daemon.load.configuration import load_checked

        loaded = load_checked(self.settings.config, os.environ, kept)
        self.watcher.settle.settle_s = loaded.graph.reload.settle_s
        return loaded

    async def _publish(self, package: Package) -> tuple[float, float]:
        await self.credits.grant(package.credits)
        self.vitals.expect(package.providers)
        return await self.crew.publish(package)

    async def _changed(self, seen_at_s: float) -> None:
        if await self.reloader.waited():  # somebody asked right after the edit and was faster; if not, the next look says so
            return
        outcome = await self.reloader.request("file", seen_at_s)
        if outcome.untried:
            self.watcher.throttle.hold(time.monotonic() + NO_WORKER_PAUSE_S)

    def _vitals(self, health: Health) -> Vitals:
        return Vitals(
            health,
            self.metrics,
            current=lambda: self.crew.current,
            clock=time.monotonic,
            notify=self._noticed,
            drains=Drains(self.settings.state_dir, time.time),
            follow=self.probes.take_up,
        )

    def _noticed(self, kind: str, fields: Mapping[str, Any]) -> None:
        log_notice(kind, fields)
        self.events.emit(kind, fields)

    def _looked(self, present: bool) -> None:
        gauge = self.metrics.gauge
        gauge("routerd_config_file_present").set(float(present))
        gauge("routerd_config_watch_last_look_timestamp_seconds").set(time.time())

    def _outcomes(self) -> dict[int, Count]:
        from routerd.daemon.reload.probation import Count

        return {number: Count(*pair) for number, pair in self.crew.outcomes().items()}

    def _proven(self, entry: Entry) -> None:
        if entry.source == "file":  # else it comes from there
            self.keeper.keep(entry.package.digest, entry.kept)

    def _reload_begins(self) -> None:
        if self.reloader.serving is not None:
            self.notifier.reloading()

    def _credits_follow(self, _: Outcome) -> None:
        if self.reloader.serving is not None:
            self.credits.serve(self.reloader.serving.credits)

    def _errands_follow(self, outcome: Outcome) -> None:
        if outcome.generation and self.reloader.serving is not None:
            self.errands.follow(self.reloader.serving.providers)

    def _reload_ended(self, outcome: Outcome) -> None:
        if outcome.result == "applied" and self.reloader.graph is not None:
            self.known.follow(self.reloader.graph)
        self.events.emit(outcome.event, outcome.as_json())
        if outcome.trigger != "start":
            self.notifier.ready(self.summary())

    def summary(self) -> str:
        """Return in a line what serves, for a service manager."""
        last, serving = self.reloader.last, self.reloader.serving
        if last is None or serving is None:
            return "nothing serves yet"
        words = f"generation {serving.number} serves {len(serving.models)} models"
        return words if last.ok else f"{words}; the last reload was refused: {last.result}"

    def drifts(self) -> bool:
        """Whether the files differ from what serves: wrong, rolled back, or a change is not taken up yet."""
        return self.reloader.drifts or self.watcher.settle.changed_at_s is not None


def changes_in_words(old: Graph, new: Graph) -> tuple[str, ...]:
    """Return what changes from one graph to another, as far as it can be read."""
    from routerd.config import diff

    texts = [change.text for change in diff(old, new)]
    rest = len(texts) - CHANGES_TOLD
    return (*texts[:CHANGES_TOLD], *([f"and {rest} more changes"] if rest > 0 else []))
