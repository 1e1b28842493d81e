"""Worker processes as the operating system knows them: how one is started, what it inherits, how it is ended.

A worker inherits its end of the socket pair to control, its listening socket, the shared counters and the board of endpoints.
The first ones are started before anything else is imported here, so that they are ready when the configuration is.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from routerd.daemon.settings import Listeners, Settings
from routerd.daemon.workers.channel import Channel, Stream

__all__ = ["Processes"]


class _Process:
    """One worker process and the socket to it."""

    def __init__(self, process: subprocess.Popen[bytes], stream: Stream) -> None:
        self.pid = process.pid
        self.stream = stream
        self._process = process

    def kill(self) -> None:
        self._process.kill()

    async def reap(self) -> int:
        status = await asyncio.to_thread(self._process.wait)
        self.stream.close()
        return status


class Processes:
    """Starts worker processes with what they inherit."""

    def __init__(self, settings: Settings, listeners: Listeners, state_fds: tuple[int, int]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._state_fds = state_fds
        self._host = os.urandom(8).hex()  # among those that share counters
        self._early = [self._start(index) for index in range(settings.workers)]

    async def spawn(self, index: int) -> _Process:
        """Return worker `index`'s process: the one started early, or a new one."""
        if self._early and (early := next((item for item in self._early if item[0] == index), None)):
            self._early.remove(early)
        else:
            early = self._start(index)
        return _Process(early[1], await Channel.open(early[2]))

    def kill_unused(self) -> None:
        """End what was started and never asked for."""
        for _, process, sock in self._early:
            process.kill()
            process.wait()
            sock.close()
        self._early.clear()

    def _start(self, index: int) -> tuple[int, subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        listen = self._listeners.socket(index)
        fds = (theirs.fileno(), listen.fileno(), *self._state_fds)
        told = {
            "index": index,
            "parent": os.getpid(),
            "channel": fds[0],
            "listen": fds[1],
            "state": fds[2],
            "endpoints": fds[3],
            "log_format": self._settings.log_format,
            "host": self._host,
            "state_on_loss": self._settings.state_on_loss,
            "state_timeout_s": self._settings.state_timeout_s,
            "ledger": bool(self._settings.ledger),
        }
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "routerd.daemon.workers.worker", json.dumps(told)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                env=_environment(self._settings.state, self._settings.otel),
                process_group=0,  # Ctrl-C is for control, which tells the workers
            )
        ours.setblocking(False)
        return index, process, ours


def _environment(state: str, otel: str) -> dict[str, str]:
    """The worker imports the same routerd as this process, wherever it came from, and nothing from the current directory."""
    import routerd

    parent = str(Path(routerd.__file__).resolve().parent.parent)
    environ = dict(os.environ)
    environ.pop("ROUTERD_LEDGER", None)  # a password that no worker needs
    environ["ROUTERD_STATE"] = state  # not among the arguments, which others can see: it may hold a password
    environ["ROUTERD_OTEL"] = otel
    if not any(parent == os.path.realpath(place) for place in sys.path if "site-packages" in place):
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (parent, environ.get("PYTHONPATH"))))
    return environ
