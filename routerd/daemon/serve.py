"""`routerd serve`: the order of the daemon's life.

Sockets, workers (they import while the configuration loads), the admin listener, the first generation; then the inputs are
watched until a signal comes; then the daemon drains and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd import __version__
from routerd.daemon.admin.operator import ControlRoom
from routerd.daemon.control import Control
from routerd.daemon.drain import drain
from routerd.daemon.first import CANNOT_REACH, FINE, first_generation
from routerd.daemon.load.gate import Listening
from routerd.daemon.notify import Notifier, inherited_sockets, notifier_of
from routerd.daemon.output import log as logs
from routerd.daemon.settings import Address, Listeners, Settings, address_of, bind
from routerd.daemon.workers.crew import Crew
from routerd.daemon.workers.process import Processes
from routerd.observe import Metrics

if TYPE_CHECKING:
    from aiohttp import web

    from routerd.daemon.workers.generation import Package
    from routerd.state import Board, LocalCounters

__all__ = ["serve"]

log = logging.getLogger("routerd.control")

LEDGER_GRACE_S = 5.0  # for a ledger that is slow as the daemon ends


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
    who = "; is another routerd running there (`routerd status`)? Else" if exc.errno == errno.EADDRINUSE else ";"
    log.error("cannot listen on %s: %s%s choose another address with %s", address, exc.strerror or exc, who, flag)
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
    listening = Listening(
        data=sockets.data.address, admin=address_of(sockets.admin), public=sockets.data.is_public, open=settings.open
    )
    control = Control(settings, crew, metrics, notifier, board, listening)
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
    settings, notifier = control.settings, control.notifier
    control.tasks.start(control.watcher.run(), "watch")
    control.tasks.start(control.keeper.run(), "keep")
    control.tasks.start(control.trials.run(), "probation")
    if notifier.watchdog_s is not None:
        control.tasks.start(_stay_alive(notifier, notifier.watchdog_s), "watchdog")
    control.tasks.start(control.vitals.run(), "vitals")
    addresses = {
        "listen": f"http://{sockets.data.address}",
        "admin": f"http://{address_of(sockets.admin)}",
    }
    with _state_file(settings.state_dir, addresses):
        _announce(control, **addresses)
        notifier.ready(control.summary())
        await control.ending.asked.wait()
        notifier.stopping()
        log.info("draining for up to %g s; a second signal ends it at once", settings.drain_timeout_s)
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
    if serving.models and settings.log_format == "text":
        print(_curl(listen, serving), flush=True)


def _curl(listen: str, serving: Package) -> str:
    """Return a line to try it with: it streams, and asks for a key where one is needed."""
    model = "demo" if "demo" in serving.models else serving.models[0]
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    key = "" if serving.open else ' -H "authorization: Bearer $KEY"'  # KEY: of a client in the file
    return f"curl -N {listen}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"


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
