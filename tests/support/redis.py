"""A real `redis-server` (Debian: redis-server; Valkey's answers too) on a loopback port; it keeps nothing."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket

from tests.support.process import Process


class RedisServer:
    """One server. `url` is for `--state`. Stop and start it to see what is done without it; it comes back empty."""

    def __init__(self, directory: pathlib.Path) -> None:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        assert found is not None, "redis-server is not installed: apt-get install redis-server"
        self._argv = (found, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", str(directory))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: Process | None = None
        self.start()

    def start(self) -> None:
        """Start it on its port."""
        self._process = Process([*self._argv, "--port", str(self.port)])
        self._process.wait_line("Ready to accept connections")

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def pause(self) -> None:
        """Have it answer nothing, with its connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)
