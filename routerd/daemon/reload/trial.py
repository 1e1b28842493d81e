"""Probation as control runs it: each second the workers' counts, a trial for each new generation, a rollback when one fails.

What decides is `reload.probation`; here are only the moments. A generation is kept on disk as the last good one when it has
passed, or at once when nobody asked for a probation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from routerd.daemon.reload.history import Entry
from routerd.daemon.reload.outcome import REVERTED, Outcome
from routerd.daemon.reload.probation import Baseline, Count, Trial
from routerd.daemon.reload.queue import Reloader
from routerd.daemon.tasks import to_mark
from routerd.errors import Problem

__all__ = ["Trials"]

log = logging.getLogger("routerd.probation")

LOOK_S = 0.5


class Trials:
    """Watches what serves. `counts` are of all workers, by generation; `proven` is told of each generation that is good."""

    def __init__(
        self,
        reloader: Reloader,
        counts: Callable[[], Mapping[int, Count]],
        proven: Callable[[Entry], None],
        clock: Callable[[], float],
    ) -> None:
        self._reloader = reloader
        self._counts = counts
        self._proven = proven
        self._clock = clock
        self._baseline = Baseline()
        self.trial: Trial | None = None
        self._rolling_back = False
        reloader.listeners.append(self._told)

    def as_json(self) -> dict[str, Any] | None:
        """Return the trial that runs with plain values, or None."""
        return self.trial.as_json(self._counts(), self._clock()) if self.trial else None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(to_mark(LOOK_S, self._clock()))
            self.look()

    def look(self) -> None:
        """Judge what runs, and remember what serves for the next judgement."""
        serving, counts, now_s = self._reloader.serving, self._counts(), self._clock()
        if serving is None:
            return
        trial = self.trial
        if trial is None:
            self._baseline.sample(serving.number, counts.get(serving.number, Count()), now_s)
        elif trial.fails(count := counts.get(trial.number, Count())):
            self._fail(trial, count)
        elif trial.over(now_s):
            log.info("generation %d passed its probation: %s failed", trial.number, count)
            self._pass(trial)

    def _pass(self, trial: Trial) -> None:
        self.trial = None
        if entry := self._reloader.history.find(trial.number):
            self._proven(entry)

    def _fail(self, trial: Trial, count: Count) -> None:
        entry = self._reloader.history.find(trial.before)
        if self._rolling_back:
            return
        if entry is None:  # ten reloads ago by now
            self.trial = None
            return
        message = (
            f"generation {trial.number} failed {count} ({count.error_ratio:.0%}), more than max_error_ratio "
            f"{trial.policy.max_error_ratio:g}; generation {trial.before} failed {trial.before_count} in as long a time"
        )
        hint = "change the file to try again"
        problem = Problem(stage=REVERTED, code="probation", path="reload.probation", message=message, file="", hint=hint)
        self._rolling_back = True
        self._reloader.roll_back(entry, "probation", (problem,))

    def _told(self, outcome: Outcome) -> None:
        """Take one outcome of the reloader."""
        if outcome.trigger == "probation":
            self._rolling_back = False
        entry, graph = self._reloader.history.latest, self._reloader.graph
        if entry is None or graph is None or outcome.event not in ("reload_applied", "rolled_back"):
            return
        running, self.trial = self.trial, None
        policy, previous = graph.reload.probation, self._reloader.history.previous()
        if outcome.event == "rolled_back" or policy is None or previous is None:
            self._proven(entry)
            return
        if running is not None:
            before, count = running.before, running.before_count
        else:
            before = previous.package.number
            count = self._baseline.over(policy.for_s) if self._baseline.number == before else Count()
        self.trial = Trial(
            number=entry.package.number, policy=policy, before=before, before_count=count, began_s=self._clock()
        )
