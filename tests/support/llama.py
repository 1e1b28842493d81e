"""The real llama.cpp server with a tiny model, one process for all tests of one test process."""

from __future__ import annotations

import pathlib
import socket
import sys
import urllib.error
import urllib.request

from tests.support.process import Process

SERVE = pathlib.Path(__file__).with_name("engine") / "serve.py"


class Engine:
    """The engine; `url` is its OpenAI-compatible base URL."""

    def __init__(self) -> None:
        self._process, self.port = _start()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def healthy(self) -> bool:
        """Whether it answers its own health check."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> None:
        """End the process."""
        self._process.stop()


def _start() -> tuple[Process, int]:
    """Start on a free port; three tries, as another process may take the port between the look and the bind."""
    for attempt in range(3):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        process = Process([sys.executable, str(SERVE), str(port)])
        try:
            process.wait_line(lambda line: line.startswith("ready "), 60)
            return process, port
        except AssertionError:
            process.stop()
            if attempt == 2:
                raise
    raise AssertionError("not reached")
