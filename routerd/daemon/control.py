"""The control process: reads and watches the configuration, owns the workers, answers the admin listener, ends the daemon.

It carries no traffic, so it may take 100 ms of CPU for a reload while streams run on. `serve` is the order of a life: sockets,
workers (they import while the configuration loads), first generation, then watch until a signal, then drain. What it is made
of decides elsewhere; here the parts are put together.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd import __version__
from routerd.daemon.admin.events import Events
from routerd.daemon.admin.operator import ControlRoom
from routerd.daemon.credit import CreditOffice
from routerd.daemon.drain import Ending, drain
from routerd.daemon.endpoints.probes import HttpFetch, Probes
from routerd.daemon.endpoints.vitals import Vitals, log_notice
from routerd.daemon.first import CANNOT_REACH, FINE, first_generation
from routerd.daemon.known import start_at_zero
from routerd.daemon.notify import Notifier, inherited_sockets, notifier_of
from routerd.daemon.output import log as logs
from routerd.daemon.output.report import report
from routerd.daemon.settings import Address, Listeners, Settings, address_of, bind
from routerd.daemon.tasks import Tasks
from routerd.daemon.workers.crew import Crew
from routerd.daemon.workers.process import Processes
from routerd.errors import Problem
from routerd.ledger import Writer, open_store
from routerd.observe import Metrics

if TYPE_CHECKING:
    from aiohttp import web

    from routerd.config import Kept, Loaded
    from routerd.daemon.reload import Outcome
    from routerd.daemon.reload.history import Entry
    from routerd.daemon.workers.generation import Package
    from routerd.graph import Graph
    from routerd.health import Health
    from routerd.state import Board, LocalCounters

__all__ = ["Control", "serve"]

log = logging.getLogger("routerd.control")

CHANGES_TOLD = 50
LEDGER_GRACE_S = 5.0  # for a ledger that is slow as the daemon ends
NO_WORKER_PAUSE_S = 1.0  # before an edit is tried again that no worker was there to take


class Control:
    """The parts of the control process, once its sockets and workers exist."""

    ledger: Writer | None = None
    credits: CreditOffice

    def __init__(
        self, settings: Settings, crew: Crew, metrics: Metrics, notifier: Notifier, board: Board, *, public: bool
    ) -> None:
        from routerd.daemon.outside import Errands
        from routerd.daemon.reload import Reloader, Steps, Teller
        from routerd.daemon.reload.keep import Keeper
        from routerd.daemon.reload.probation import Count
        from routerd.daemon.reload.trial import Trials
        from routerd.daemon.reload.watch import Watcher
        from routerd.health import Health

        self.settings = settings
        self.crew = crew
        self.metrics = metrics
        self.notifier = notifier
        self.ending = Ending()
        self.tasks = Tasks()
        self.events = Events()
        crew.news = self.events.emit
        self.errands = Errands(crew, metrics, settings.state_dir)
        self.fetch = HttpFetch(self.errands.token)
        health = Health(board)
        self.probes = Probes(self.fetch, state_of=health.get, clock=time.monotonic, rng=random.Random())
        self.vitals = self._vitals(health)
        self._public = public
        for name in ("drift", "file_present", "watch_last_look_timestamp_seconds"):
            metrics.gauge(f"routerd_config_{name}")
        self.watcher = Watcher(
            [settings.config],
            self._changed,
            clock=time.monotonic,
            looked=self._looked,
            failed=metrics.counter("routerd_config_watch_errors_total").inc,
        )
        steps = Steps(load=self._load, gate=self._gate, compare=changes_in_words, publish=self._publish)
        teller = Teller(metrics, partial(report, stream=sys.stderr))
        self.reloader = Reloader(steps, self.watcher, teller, main=settings.config)
        self.reloader.before.append(self._reload_begins)
        self.reloader.listeners += [self._errands_follow, self._reload_ended]
        self.keeper = Keeper(settings.state_dir, time.time)
        self.trials = Trials(
            self.reloader,
            lambda: {number: Count(*pair) for number, pair in crew.outcomes().items()},
            self._proven,
            time.monotonic,
        )

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

    def _gate(self, graph: Graph) -> Sequence[Problem]:
        """What the command line makes wrong: a public address without clients."""
        if graph.clients is not None or self.settings.open or not self._public:
            return ()
        return (
            Problem(
                stage="semantic",
                code="open-listener",
                path="clients",
                message=f"anybody who reaches {self.settings.listen} could call: "
                "add `clients`, listen on 127.0.0.1, or start with --open",
                file=str(self.settings.config),
            ),
        )

    async def _publish(self, package: Package) -> tuple[float, float]:
        await self.credits.grant(package.credits)
        took = await self.crew.publish(package)
        self.credits.serve(package.credits)
        return took

    async def _changed(self, seen_at_s: float) -> None:
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
            follow=self.probes.take_up,
        )

    def _noticed(self, kind: str, fields: Mapping[str, Any]) -> None:
        log_notice(kind, fields)
        self.events.emit(kind, fields)

    def _looked(self, present: bool) -> None:
        gauge = self.metrics.gauge
        gauge("routerd_config_file_present").set(float(present))
        gauge("routerd_config_watch_last_look_timestamp_seconds").set(time.time())

    def _proven(self, entry: Entry) -> None:
        if entry.source == "file":  # else it comes from there
            self.keeper.keep(entry.package.digest, entry.kept)

    def _reload_begins(self) -> None:
        if self.reloader.serving is not None:
            self.notifier.reloading()

    def _errands_follow(self, outcome: Outcome) -> None:
        if outcome.generation and self.reloader.serving is not None:
            self.errands.follow(self.reloader.serving.providers)

    def _reload_ended(self, outcome: Outcome) -> None:
        if outcome.result == "applied" and self.reloader.graph is not None:
            start_at_zero(self.metrics, self.reloader.graph)
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


def serve(settings: Settings) -> int:
    """Run the daemon until it is told to end; return the exit status."""
    logs.setup(settings.log_format, "control")
    notifier = notifier_of(os.environ, os.getpid())
    inherited = inherited_sockets(os.environ, os.getpid())
    try:
        listeners = Listeners(settings.listen, settings.workers, inherited.get("data"))
    except OSError as exc:
        return _cannot_listen(settings.listen, exc, "--listen")
    try:
        admin = inherited.get("admin") or bind(settings.admin, shared=False)
        admin.listen(128)
    except OSError as exc:
        return _cannot_listen(settings.admin, exc, "--admin")
    from routerd.state import Board, LocalCounters

    counters, board = LocalCounters.create(workers=settings.workers), Board.create(workers=settings.workers)
    processes = Processes(settings, listeners, (counters.fd, board.fd))
    try:
        import uvloop

        sys.setswitchinterval(0.001)  # a reload compiles in a thread; the admin listener answers in between
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, Sockets(listeners, admin), processes, Memory(counters, board), notifier))
    except KeyboardInterrupt:  # before the signal handlers stood
        return FINE
    finally:
        processes.kill_unused()


def _cannot_listen(address: Address, exc: OSError, flag: str) -> int:
    log.error("cannot listen on %s: %s; choose another address with %s", address, exc.strerror or exc, flag)
    return CANNOT_REACH


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where clients and operators connect."""

    data: Listeners
    admin: socket.socket


@dataclass(frozen=True, slots=True)
class Memory:
    """What control shares with its workers."""

    counters: LocalCounters
    board: Board


async def _serve(settings: Settings, sockets: Sockets, processes: Processes, memory: Memory, notifier: Notifier) -> int:
    counters, board = memory.counters, memory.board
    metrics = Metrics()

    def dropped(index: int) -> None:
        counters.drop_worker(index)
        board.drop_worker(index)

    crew = Crew(
        settings.workers,
        processes.spawn,
        metrics=metrics,
        dropped=dropped,
        clock=time.monotonic,
        paused=sockets.data.close,
    )
    control = Control(settings, crew, metrics, notifier, board, public=sockets.data.is_public)
    control.open_ledger(counters)
    control.ending.listen()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: control.reloader.request("signal"))
    crew.start()
    admin_up = control.tasks.start(_serve_admin(control, sockets.admin), "admin")
    try:
        control.tasks.start(control.reloader.run(), "reload")
        status = await first_generation(control)
        if status is not None:
            return status
        runner = await admin_up
        status = await _run(control, sockets)
        control.events.end()
        await runner.cleanup()
        return status
    finally:
        await crew.kill()
        if control.ledger is not None:  # all workers have ended: what they sent is here
            await control.ledger.close(LEDGER_GRACE_S)
        await control.tasks.cancel()
        await control.probes.close()
        await control.fetch.close()
        await control.errands.close()


async def _serve_admin(control: Control, sock: socket.socket) -> web.AppRunner:
    """Answer the admin listener. What it needs is imported in a thread, while the configuration loads and the workers start."""
    module = await asyncio.to_thread(importlib.import_module, "routerd.server.admin")
    from aiohttp import web

    runner = web.AppRunner(module.admin_app(ControlRoom(control)), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner


async def _run(control: Control, sockets: Sockets) -> int:
    """Watch the inputs until a signal comes, then drain."""
    from routerd.daemon.reload.watch import notifications

    settings, notifier = control.settings, control.notifier
    control.tasks.start(control.watcher.run(), "watch")
    control.tasks.start(control.keeper.run(), "keep")
    control.tasks.start(control.trials.run(), "probation")
    if notifier.watchdog_s is not None:
        control.tasks.start(_stay_alive(notifier, notifier.watchdog_s), "watchdog")
    control.tasks.start(control.vitals.run(), "vitals")
    control.tasks.start(notifications(lambda: control.watcher.paths, control.watcher.wake), "notifications")
    addresses = {
        "listen": f"http://{sockets.data.address}",
        "admin": f"http://{address_of(sockets.admin)}",
    }
    with _state_file(settings.state_dir, addresses):
        _announce(control, **addresses)
        notifier.ready(control.summary())
        await control.ending.asked.wait()
        notifier.stopping()
        log.info("draining for up to %g s", settings.drain_timeout_s)
        finished = await drain(
            control.ending,
            settings.drain_timeout_s,
            close_listeners=sockets.data.close_all,
            drain_workers=control.crew.drain,
        )
        log.info("ended" if finished else "ended before everything was finished")
    return FINE


async def _stay_alive(notifier: Notifier, each_s: float) -> None:
    while True:
        notifier.alive()
        await asyncio.sleep(each_s)


def _announce(control: Control, listen: str, admin: str) -> None:
    """Say what runs where, for people and for programs."""
    settings, serving = control.settings, control.reloader.serving
    assert serving is not None
    names = ", ".join(serving.models[:8]) + (f" and {len(serving.models) - 8} more" if len(serving.models) > 8 else "")
    say = log.info
    say("routerd %s serves %s with %d worker(s)", __version__, listen, settings.workers)
    say("admin: %s (GET / lists its pages)", admin)
    kept = ", as it was kept: the file is not usable" if control.reloader.source == "last_good" else ""
    say("generation %d of %s, digest %s%s", serving.number, settings.config, serving.digest[:16], kept)
    say("models: %s", names or "patterns only")
    if serving.open:
        say("no `clients` block: anybody who can reach the address may call")
    ready = f"ready listen={listen} admin={admin} generation={serving.number}"
    if settings.log_format == "json":
        say("%s", ready)
    else:
        print(ready, file=sys.stderr, flush=True)
    if serving.models and serving.open and settings.log_format == "text":
        model = "demo" if "demo" in serving.models else serving.models[0]
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
        print(f"curl {listen}/v1/chat/completions -H 'content-type: application/json' -d '{body}'", flush=True)


@contextlib.contextmanager
def _state_file(directory: Path | None, addresses: Mapping[str, str]) -> Any:
    """Keep `routerd.json` (pid and real addresses) in the state directory while the daemon runs."""
    if directory is None:
        yield
        return
    path = directory / "routerd.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"pid": os.getpid(), **addresses}) + "\n")
        fresh.replace(path)
    except OSError as exc:  # a full or read-only disk is no reason not to serve
        log.warning("the state directory cannot be written: %s: %s", directory, exc.strerror or exc)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
