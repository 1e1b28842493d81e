"""A real PostgreSQL (Debian: postgresql) with a cluster of its own on a loopback port; it syncs nothing and is thrown away."""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile

from tests.support.ports import free_port
from tests.support.process import Process


class PostgresServer:
    """One server. `url` is for `--ledger`. Stop and start it to see what is done without it; its data stay."""

    def __init__(self) -> None:
        self._as: tuple[str, ...] = ()
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="routerd-pg-"))
        if os.getuid() == 0:  # initdb refuses root
            user = pwd.getpwnam("postgres")
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            self._as = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        made = subprocess.run(
            [*self._as, _program("initdb"), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "-D", f"{self._directory}/data"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        self._process: Process | None = None
        self.start()

    def start(self) -> None:
        """Start it on its port."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self._directory), "fsync": "off"}
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        argv = [*self._as, _program("postgres"), "-D", str(self._directory / "data"), "-p", str(self.port), *flags]
        self._process = Process(argv, cwd=pathlib.Path("/"))
        self._process.wait_line("ready to accept connections")

    def stop(self) -> None:
        """End it at once; whoever is connected is cut off."""
        if self._process is not None:
            self._process.signal(signal.SIGINT)  # "fast shutdown"
            self._process.wait()
            self._process.stop()
            self._process = None

    def remove(self) -> None:
        """End it and forget its data."""
        self.stop()
        shutil.rmtree(self._directory)


def _program(name: str) -> str:
    """Return the path of a server program; Debian keeps them out of PATH."""
    newest = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or (str(newest[0]) if newest else None)
    assert found is not None, f"{name} is not installed: apt-get install postgresql"
    return found
