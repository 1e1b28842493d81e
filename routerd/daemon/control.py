"""The control process: reads and watches the configuration, owns the workers, answers the admin listener, ends the daemon.

It carries no traffic, so it may take 100 ms of CPU for a reload while streams run on. `serve` is the order of a life: sockets,
workers (they import while the configuration loads), first generation, then watch until a signal, then drain. What it is made
of decides elsewhere; here the parts are put together and asked for the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd import __version__
from routerd.daemon import log as logs
from routerd.daemon.crew import Crew, StartFailed
from routerd.daemon.drain import Ending, drain
from routerd.daemon.process import Processes
from routerd.daemon.report import problem_as_json, report
from routerd.daemon.settings import Address, Listeners, Settings, bind
from routerd.daemon.tasks import Tasks
from routerd.errors import Problem
from routerd.observe import Metrics, merge, render_metrics

if TYPE_CHECKING:
    from aiohttp import web

    from routerd.daemon.reload import Outcome
    from routerd.graph import Graph

__all__ = ["CANNOT_REACH", "FAILED", "FINE", "INVALID", "Control", "serve"]

log = logging.getLogger("routerd.control")

FINE, FAILED, INVALID, CANNOT_REACH = 0, 1, 2, 3
SCRAPE_TIMEOUT_S = 0.5
NO_WORKER_PAUSE_S = 1.0  # before an edit is tried again that no worker was there to take
STORM_SPACING_S = 0.25  # between two reloads for file changes; the first one is not delayed


class Control:
    """The control process once its sockets and workers exist."""

    def __init__(self, settings: Settings, crew: Crew, metrics: Metrics, *, public: bool) -> None:
        from routerd.daemon.reload import Reloader
        from routerd.daemon.watch import Watcher

        self.settings = settings
        self.crew = crew
        self.metrics_of_control = metrics
        self.ending = Ending()
        self.tasks = Tasks()
        self._public = public
        self._started_s = time.monotonic()
        self._last_file_reload_s = -STORM_SPACING_S
        self.watcher = Watcher(
            [settings.config],
            self._changed,
            clock=time.monotonic,
            looked=self._looked,
            failed=metrics.counter("routerd_config_watch_errors_total").inc,
        )
        self.reloader = Reloader(
            load=self._load,
            gate=self._gate,
            publish=crew.publish,
            inputs=self.watcher,
            metrics=metrics,
            report=partial(report, stream=sys.stderr),
        )

    # ── configuration ──

    def _load(self) -> Any:
        from routerd.daemon.load import load_checked

        loaded = load_checked(self.settings.config, os.environ)
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

    async def _changed(self, seen_at_s: float) -> None:
        spacing_s = self._last_file_reload_s + STORM_SPACING_S - time.monotonic()
        if spacing_s > 0:
            await asyncio.sleep(spacing_s)
        outcome = await self.reloader.request("file", seen_at_s)
        self._last_file_reload_s = time.monotonic() + (NO_WORKER_PAUSE_S if outcome.untried else 0.0)

    def _looked(self, present: bool) -> None:
        gauge = self.metrics_of_control.gauge
        gauge("routerd_config_file_present").set(float(present))
        gauge("routerd_config_watch_last_look_timestamp_seconds").set(time.time())
        gauge("routerd_config_drift").set(float(self.drifts()))

    def drifts(self) -> bool:
        """Whether the files differ from what serves: they are wrong, or a change is not taken up yet."""
        last = self.reloader.last
        return last is None or not last.ok or self.watcher.settle.changed_at_s is not None

    # ── what the admin listener asks (server.admin.Operator) ──

    def not_ready(self) -> str:
        """Return why requests are not served, or an empty string."""
        if self.ending.asked.is_set():
            return "draining"
        if self.reloader.serving is None:
            return "no generation serves yet"
        return "" if any(slot.usable.is_set() for slot in self.crew.slots) else "no worker is up"

    def status(self) -> Mapping[str, Any]:
        """Return the status as plain values."""
        serving = self.reloader.serving
        last = self.reloader.last
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "ready": not self.not_ready(),
            "generation": serving.number if serving else 0,
            "digest": serving.digest if serving else "",
            "source": "file",
            "config": str(self.settings.config),
            "inputs": [str(path) for path in self.watcher.paths],
            "drift": self.drifts(),
            "listen": str(self.settings.listen),
            "models": len(serving.models) if serving else 0,
            "disabled": dict(serving.disabled) if serving else {},
            "last_reload": outcome_as_json(last) if last else None,
            "workers": [
                {
                    "worker": slot.index,
                    "pid": slot.pid,
                    "up": slot.usable.is_set(),
                    "generation": slot.generation,
                    "digest": slot.digest,
                    "inflight": sum(slot.inflight.values()),
                    "restarts": slot.restarts,
                    "event_loop_lag_s": round(slot.lag_s, 6),
                }
                for slot in self.crew.slots
            ],
        }

    async def metrics(self) -> bytes:
        """Return the text exposition of all processes."""
        snapshots = await self.crew.collect(SCRAPE_TIMEOUT_S)
        own = self.metrics_of_control.snapshot()
        for number, inflight in self.crew.inflight().items():
            own.values[("routerd_config_generation_inflight", (str(number),))] = inflight
        total = merge([own, *snapshots], self.crew.retired)
        return await asyncio.to_thread(render_metrics, [total])

    async def reload(self) -> tuple[bool, Mapping[str, Any]]:
        """Reload for the API."""
        outcome = await asyncio.shield(self.reloader.request("api"))
        return outcome.ok, outcome_as_json(outcome)


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """Return `outcome` with plain values."""
    return {
        "result": outcome.result,
        "trigger": outcome.trigger,
        "generation": outcome.generation,
        "digest": outcome.digest,
        "at_unix_s": round(outcome.at_unix_s, 3),
        "duration_s": round(outcome.duration_s, 6),
        "problems": [problem_as_json(problem) for problem in outcome.problems],
    }


def serve(settings: Settings) -> int:
    """Run the daemon until it is told to end; return the exit status."""
    logs.setup(settings.log_format, "control")
    try:
        listeners = Listeners(settings.listen, settings.workers)
    except OSError as exc:
        return _cannot_listen(settings.listen, exc, "--listen")
    try:
        admin = bind(settings.admin, shared=False)
        admin.listen(128)
    except OSError as exc:
        return _cannot_listen(settings.admin, exc, "--admin")
    from routerd.state import LocalCounters

    counters = LocalCounters.create(workers=settings.workers)
    processes = Processes(settings.workers, listeners, counters.fd, settings.log_format)
    try:
        import uvloop

        sys.setswitchinterval(0.001)  # a reload compiles in a thread; the admin listener answers in between
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, listeners, admin, processes, counters.drop_worker))
    except KeyboardInterrupt:  # before the signal handlers stood
        return FINE
    finally:
        processes.kill_unused()


def _cannot_listen(address: Address, exc: OSError, flag: str) -> int:
    log.error("cannot listen on %s: %s; choose another address with %s", address, exc.strerror or exc, flag)
    return CANNOT_REACH


async def _serve(settings: Settings, listeners: Listeners, admin: socket.socket, processes: Processes, dropped: Any) -> int:
    metrics = Metrics()
    crew = Crew(
        settings.workers,
        processes.spawn,
        metrics=metrics,
        dropped=dropped,
        clock=time.monotonic,
        paused=listeners.close,
    )
    control = Control(settings, crew, metrics, public=listeners.is_public)
    control.ending.listen()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: control.reloader.request("signal"))
    crew.start()
    admin_up = control.tasks.start(_serve_admin(control, admin), "admin")
    try:
        control.tasks.start(control.reloader.run(), "reload")
        status = await _first_generation(control)
        if status is not None:
            return status
        runner = await admin_up
        status = await _run(control, listeners, admin)
        await runner.cleanup()
        return status
    finally:
        await crew.kill()
        await control.tasks.cancel()


async def _serve_admin(control: Control, sock: socket.socket) -> web.AppRunner:
    """Answer the admin listener. What it needs is imported in a thread, while the configuration loads and the workers start."""
    module = await asyncio.to_thread(importlib.import_module, "routerd.server.admin")
    from aiohttp import web

    runner = web.AppRunner(module.admin_app(control), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner


async def _first_generation(control: Control) -> int | None:
    """Load and publish for the first time; return the exit status if the daemon cannot go on."""
    first = control.reloader.request("start")
    asked = asyncio.ensure_future(control.ending.asked.wait())
    await asyncio.wait((first, control.crew.failed, asked), return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        return FINE
    asked.cancel()
    if not first.done():
        with contextlib.suppress(StartFailed):
            control.crew.failed.result()
        log.error("the daemon does not start: %s", control.crew.failed.exception())
        return FAILED
    outcome = first.result()
    if outcome.ok:
        return None
    return CANNOT_REACH if outcome.unreadable else INVALID


async def _run(control: Control, listeners: Listeners, admin: socket.socket) -> int:
    """Watch the inputs until a signal comes, then drain."""
    from routerd.daemon.watch import notifications

    settings = control.settings
    control.tasks.start(control.watcher.run(), "watch")
    control.tasks.start(notifications(lambda: control.watcher.paths, control.watcher.wake), "notifications")
    addresses = {
        "listen": f"http://{listeners.address}",
        "admin": f"http://{Address(settings.admin.host, admin.getsockname()[1])}",
    }
    with _state_file(settings.state_dir, addresses):
        _announce(control, **addresses)
        await control.ending.asked.wait()
        log.info("draining for up to %g s", settings.drain_timeout_s)
        finished = await drain(
            control.ending,
            settings.drain_timeout_s,
            close_listeners=listeners.close_all,
            drain_workers=control.crew.drain,
        )
        log.info("ended" if finished else "ended before everything was finished")
    return FINE


def _announce(control: Control, listen: str, admin: str) -> None:
    """Say what runs where, for people and for programs."""
    settings, serving = control.settings, control.reloader.serving
    assert serving is not None
    names = ", ".join(serving.models[:8]) + (f" and {len(serving.models) - 8} more" if len(serving.models) > 8 else "")
    say = log.info
    say("routerd %s serves %s with %d worker(s)", __version__, listen, settings.workers)
    say("admin: %s (GET / lists its pages)", admin)
    say("generation %d of %s, digest %s", serving.number, settings.config, serving.digest[:16])
    say("models: %s", names or "patterns only")
    if serving.open:
        say("no `clients` block: anybody who can reach the address may call")
    ready = f"ready listen={listen} admin={admin} generation={serving.number}"
    if settings.log_format == "json":
        say("%s", ready)
    else:
        print(ready, file=sys.stderr, flush=True)
    if serving.models and serving.open:
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
        log.warning("the state directory cannot be written: %s", exc)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
