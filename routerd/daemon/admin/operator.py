"""What an operator may ask and order through the admin listener, answered from the parts of the control process.

Nothing is decided here. `status` is one look at everything; every other answer is the outcome of a reload, a rollback, or a list.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from routerd import __version__
from routerd.daemon.admin.events import KINDS, Subscription
from routerd.daemon.admin.footprint import Footprint
from routerd.daemon.admin.picture import picture
from routerd.daemon.admin.rates import Rates
from routerd.daemon.output.report import problem_as_json
from routerd.errors import ConfigError, RequestError
from routerd.ledger import BY, LedgerLost, period_of, usage_answer
from routerd.observe import merge, render_metrics

if TYPE_CHECKING:
    from routerd.daemon.control import Control
    from routerd.daemon.workers.crew import Slot
    from routerd.graph import Graph
    from routerd.plan import Origins

__all__ = ["ControlRoom"]

SCRAPE_TIMEOUT_S = 0.5
LEDGER_FLUSH_S = 1.0


class ControlRoom:
    """`server.admin.Operator` over the control process."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._started_s = time.monotonic()
        self._rates = Rates(time.monotonic)
        self._footprint = Footprint()
        self._pictured: tuple[int, Mapping[str, Any]] = (0, {})
        self._origins: tuple[int, Origins] = (0, {})

    def not_ready(self) -> str:
        """Return why requests are not served, or an empty string."""
        control = self._control
        serving = control.reloader.serving
        if control.ending.asked.is_set():
            return "draining"
        if serving is None:
            return "no generation serves yet"
        if serving.empty:
            return "no model is offered; add one, or say `allow_empty: true`"
        return "" if any(slot.usable.is_set() for slot in control.crew.slots) else "no worker is up"

    def status(self) -> Mapping[str, Any]:
        """Return the status as plain values."""
        control, reloader = self._control, self._control.reloader
        serving, last, now_s = reloader.serving, reloader.last, time.monotonic()
        throttle = control.watcher.throttle
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(now_s - self._started_s, 3),
            "ready": not self.not_ready(),
            "not_ready": self.not_ready(),
            "generation": serving.number if serving else 0,
            "digest": serving.digest if serving else "",
            "source": reloader.source,
            "config": str(control.settings.config),
            "config_path": os.path.abspath(control.settings.config),
            "inputs": [str(path) for path in control.watcher.paths],
            "held": reloader.held,
            "drift": control.drifts(),
            "file_digest": reloader.file_digest,
            "listen": str(control.settings.listen),
            "models": len(serving.models) if serving else 0,
            "disabled": dict(serving.disabled) if serving else {},
            "discovery": self._control.errands.discovery.status(),
            "endpoints": control.vitals.status(),
            "drains": {"not_configured": control.vitals.drained_elsewhere(), "error": control.vitals.drains.error},
            "last_reload": last.as_json() if last else None,
            "last_good": control.keeper.as_json(),
            "probation": control.trials.as_json(),
            "history": len(reloader.history),
            "throttle": {"storm": throttle.storms(now_s), "interval_s": throttle.interval_s},
            "workers": [_worker(slot) for slot in control.crew.slots],
        }

    async def metrics(self) -> bytes:
        """Return the text exposition of all processes."""
        control = self._control
        snapshots = await control.crew.collect(SCRAPE_TIMEOUT_S)
        control.metrics.gauge("routerd_config_drift").set(float(control.drifts()))
        control.vitals.look()
        control.known.look()
        own = control.metrics.snapshot()
        for number, inflight in control.crew.inflight().items():
            own.values[("routerd_config_generation_inflight", (str(number),))] = inflight
        pids = [(slot.index, slot.pid) for slot in control.crew.slots]
        footprint = await asyncio.to_thread(self._footprint.look, pids)
        total = merge([own, footprint, *snapshots], control.crew.retired)
        return await asyncio.to_thread(render_metrics, [total])

    def drain_endpoint(self, name: str, drained: bool) -> Mapping[str, Any] | None:
        """Drain an endpoint or let it come back; None when there is none of that name."""
        return self._control.vitals.drain(name, drained)

    async def reload(self, *, allow_removal: bool = False) -> tuple[bool, Mapping[str, Any]]:
        """Reload for the API."""
        outcome = await asyncio.shield(self._control.reloader.request("api", allow_removal=allow_removal))
        return outcome.ok, outcome.as_json()

    async def rollback(self, to: int | None) -> tuple[bool, Mapping[str, Any]]:
        """Serve the content of generation `to` again, or of the one before; LookupError when it is not known."""
        history = self._control.reloader.history
        entry = history.previous() if to is None else history.find(to)
        if entry is None:
            if to is None:
                raise LookupError("nothing served before")
            known = ", ".join(str(one["generation"]) for one in history.as_json())
            raise LookupError(f"generation {to} is not in the history; known are {known}")
        outcome = await asyncio.shield(self._control.reloader.roll_back(entry))
        return outcome.ok, outcome.as_json()

    async def diff(self) -> tuple[bool, Mapping[str, Any]]:
        """Say what a reload would change; LookupError when nothing serves yet."""
        from routerd.config import diff
        from routerd.daemon.load.configuration import load_checked
        from routerd.daemon.reload.guard import shrunk

        reloader, config = self._control.reloader, self._control.settings.config
        if reloader.graph is None or reloader.serving is None:
            raise LookupError("no generation serves yet")
        told = {"config": os.path.abspath(config), "generation": reloader.serving.number}
        try:
            loaded = await asyncio.to_thread(load_checked, config, os.environ)
        except ConfigError as exc:
            return False, {**told, "result": exc.stage, "problems": [problem_as_json(problem) for problem in exc.problems]}
        changes = await asyncio.to_thread(diff, reloader.graph, loaded.graph)
        refused = [problem_as_json(problem) for problem in shrunk(reloader.graph, loaded.graph, config)]
        made = [change.as_json() for change in changes]
        return True, {**told, "digest": loaded.graph.digest, "changes": made, "refused": refused}

    async def usage(self, by: str, since: str, until: str) -> Mapping[str, Any]:
        """Return what was used, by the ledger, entries that are on their way to it included."""
        ledger = self._control.ledger
        if ledger is None:
            raise LookupError("there is no ledger: start the daemon with --state-dir or --ledger")
        period = period_of(since, until, int(time.time() * 1000))
        if by not in BY:
            raise ValueError(f"by {by[:20]!r} is none of {', '.join(BY)}")
        await self._control.crew.collect(SCRAPE_TIMEOUT_S)  # workers hand over what they have when they are asked
        pending = await ledger.flush(LEDGER_FLUSH_S)
        try:
            rows = await ledger.ask(lambda: ledger.store.usage(by, period))
            return {**usage_answer(by, period, rows, pending), "credits": await self._control.credits.balances()}
        except LedgerLost as exc:
            raise OSError(f"the ledger cannot be read: {exc}") from exc

    def history(self) -> Mapping[str, Any]:
        """Return the last generations, newest first."""
        return {"generations": self._control.reloader.history.as_json()}

    def graph(self) -> Mapping[str, Any]:
        """Return what serves, made once a generation; LookupError when nothing serves yet."""
        graph, number = self._serving()
        if self._pictured[0] != number:
            self._pictured = (number, {"generation": number, **picture(graph), "events": sorted(KINDS)})
        return self._pictured[1]

    async def rates(self) -> Mapping[str, Any]:
        """Return what happens a second, over all workers."""
        crew = self._control.crew
        snapshots = await crew.collect(SCRAPE_TIMEOUT_S)
        return self._rates.look(merge(snapshots, crew.retired))

    async def explain(self, model: str, client: str | None, down: Sequence[str]) -> Mapping[str, Any]:
        """Decide for a request to what serves, with what is known of the endpoints now."""
        from routerd.daemon.load.explained import explained
        from routerd.daemon.load.question import question_of

        graph, number = self._serving()
        question = question_of(graph, model=model, client=client, down=down)
        if self._origins[0] != number:
            self._origins = (number, await asyncio.to_thread(self._read_origins))
        try:
            view = (self._control.vitals.health, time.monotonic())
            return {"generation": number, **explained(graph, self._origins[1], question, view)}
        except RequestError as exc:
            told = {"status": exc.status, "code": exc.code or exc.type, "message": exc.message}
            return {"generation": number, "model": model, **told, "route": None, "targets": []}

    def _serving(self) -> tuple[Graph, int]:
        reloader = self._control.reloader
        if reloader.graph is None or reloader.serving is None:
            raise LookupError("no generation serves yet")
        return reloader.graph, reloader.serving.number

    def _read_origins(self) -> Origins:
        """Return where the values of what serves were written: its inputs are kept, so they are read once more when asked."""
        from routerd.config import load

        latest = self._control.reloader.history.latest
        if latest is None or latest.kept is None:
            return {}
        try:
            return load(self._control.settings.config, os.environ, latest.kept).origins
        except ConfigError:  # a secret has gone since: the decision can be told, its places cannot
            return {}

    def events(self, last_id: str) -> Subscription | None:
        """Return a new reader's events, those after `last_id` first; None when too many listen."""
        return self._control.events.subscribe(last_id)


def _worker(slot: Slot) -> dict[str, Any]:
    return {
        "worker": slot.index,
        "pid": slot.pid,
        "up": slot.usable.is_set(),
        "generation": slot.generation,
        "digest": slot.digest,
        "inflight": sum(slot.inflight.values()),
        "restarts": slot.restarts,
        "event_loop_lag_s": round(slot.lag_s, 6),
    }
