"""The real llama.cpp server with a tiny model, one process for all tests of one test process."""

from __future__ import annotations

import pathlib
import sys
import urllib.error
import urllib.request

from tests.support.process import Process

SERVE = pathlib.Path(__file__).with_name("engine") / "serve.py"


class Engine:
    """The engine; `url` is its OpenAI-compatible base URL."""

    def __init__(self) -> None:
        self._process, self.root = _start()
        self.url = f"{self.root}/v1"

    def healthy(self) -> bool:
        """Whether it answers its own health check."""
        try:
            with urllib.request.urlopen(self.root + "/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> None:
        """End the process."""
        self._process.stop()


def _start() -> tuple[Process, str]:
    """Start it and return its address. It is ready in a second; a start that hangs is tried again."""
    for attempt in range(3):
        process = Process([sys.executable, str(SERVE)])
        try:
            return process, process.wait_line(lambda line: line.startswith("ready "), 20).split()[1]
        except AssertionError:
            process.stop()
            if attempt == 2:
                raise
    raise AssertionError("not reached")
