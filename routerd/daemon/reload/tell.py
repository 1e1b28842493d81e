"""Reloads told to the metrics and to the log. Success is written last: what it reports serves already.

Every label set that there can be stands at 0 from the start, so that a rate over it is right from its first event. The same
problems twice in a row are written out once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from routerd.daemon.reload.outcome import RESULTS, TRIGGERS, Outcome
from routerd.errors import Problem
from routerd.observe import Metrics

__all__ = ["PHASES", "Teller"]

log = logging.getLogger("routerd.reload")

PHASES = ("load", "prepare", "commit")


class Teller:
    """Writes metrics and log."""

    def __init__(self, metrics: Metrics, report: Callable[[Sequence[Problem]], str]) -> None:
        self._metrics = metrics
        self._report = report
        self._logged: tuple[Problem, ...] = ()
        self._warned: tuple[Problem, ...] = ()
        self._info: tuple[str, ...] | None = None
        for trigger in TRIGGERS:
            for result in RESULTS:
                metrics.counter("routerd_config_reloads_total", trigger, result)
        for phase in PHASES:
            metrics.histogram("routerd_config_reload_duration_seconds", phase)
        metrics.histogram("routerd_config_detect_to_serve_seconds")
        for name in ("last_reload_successful", "last_reload_success_timestamp_seconds", "last_reload_attempt_timestamp_seconds"):
            metrics.gauge(f"routerd_config_{name}")

    def began(self, at_unix_s: float) -> None:
        """A reload begins."""
        self._metrics.gauge("routerd_config_last_reload_attempt_timestamp_seconds").set(at_unix_s)

    def took(self, phase: str, took_s: float) -> None:
        """One phase of a reload took so long."""
        self._metrics.histogram("routerd_config_reload_duration_seconds", phase).observe(took_s)

    def served(self, after_s: float) -> None:
        """A change of a file serves so long after it was first seen."""
        self._metrics.histogram("routerd_config_detect_to_serve_seconds").observe(after_s)

    def ended(self, outcome: Outcome) -> None:
        """A reload ended; what serves has served since before this call."""
        metrics = self._metrics
        if outcome.generation:
            info = (outcome.digest[:16], str(outcome.generation), outcome.source)
            if self._info is not None and self._info != info:
                metrics.drop("routerd_config_info", *self._info)
            metrics.gauge("routerd_config_info", *info).set(1)
            self._info = info
        if outcome.result == "applied":
            metrics.gauge("routerd_config_last_reload_success_timestamp_seconds").set(outcome.at_unix_s)
        as_it_is_kept = outcome.trigger == "start" and outcome.source == "last_good"  # the files cannot serve
        metrics.gauge("routerd_config_last_reload_successful").set(float(outcome.ok and not as_it_is_kept))
        metrics.counter("routerd_config_reloads_total", outcome.trigger, outcome.result).inc()
        self._log(outcome)

    def warn(self, warnings: tuple[Problem, ...]) -> None:
        """Write the warnings of a configuration that serves, once for each new set."""
        if warnings and warnings != self._warned:
            log.warning("the configuration has warnings\n%s", self._report(warnings))
        self._warned = warnings

    def _log(self, outcome: Outcome) -> None:
        took_ms = outcome.duration_s * 1000
        words = f"reload ({outcome.trigger}): {outcome.result}"
        if outcome.rolled_back_to:
            words += f", back to what generation {outcome.rolled_back_to} was"
        if outcome.ok:
            log.info("%s, generation %d in %.0f ms", words, outcome.generation, took_ms)
            self._logged = ()
            return
        if outcome.trigger == "start":
            log.error("cannot start from the files (%s):\n%s", outcome.result, self._report(outcome.problems))
            return
        kept = f"generation {outcome.generation} keeps serving" if outcome.generation else "nothing serves yet"
        if outcome.problems == self._logged:
            log.warning("%s: refused with the same problems as before; %s", words, kept)
            return
        self._logged = outcome.problems
        problems = "1 problem" if len(outcome.problems) == 1 else f"{len(outcome.problems)} problems"
        log.error("%s: refused with %s; %s\n%s", words, problems, kept, self._report(outcome.problems))
