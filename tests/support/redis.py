"""A real `redis-server` (Debian: redis-server; Valkey's answers too) on a loopback port; it keeps nothing."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal

from tests.support.ports import free_port
from tests.support.process import Process

CERTIFICATE = pathlib.Path(__file__).parent / "tls" / "untrusted.pem"  # signed by itself, for 127.0.0.1


class RedisServer:
    """One server. `url` is for `--state`. Stop and start it to see what is done without it; it comes back empty.

    With `tls` it speaks nothing else, with CERTIFICATE, which whoever connects must be told to trust.
    """

    def __init__(self, directory: pathlib.Path, *, tls: bool = False, password: str = "") -> None:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        assert found is not None, "redis-server is not installed: apt-get install redis-server"
        self._argv: tuple[str, ...] = (found, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", str(directory))
        self.port = free_port()
        who = f":{password}@" if password else ""
        self.url = f"redis{'s' * tls}://{who}127.0.0.1:{self.port}/0"
        self._argv += ("--requirepass", password) if password else ()
        self._ports: tuple[str, ...] = ("--port", str(self.port))
        if tls:
            files = [word for name in ("cert", "key", "ca-cert") for word in (f"--tls-{name}-file", str(CERTIFICATE))]
            self._ports = ("--port", "0", "--tls-port", str(self.port), *files, "--tls-auth-clients", "no")
        self._process: Process | None = None
        self.start()

    def start(self) -> None:
        """Start it on its port."""
        self._process = Process([*self._argv, *self._ports])
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
