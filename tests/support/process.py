"""Processes of a test: their output line by line, and their end, children included.

A process gets a session of its own, so that stopping it stops its whole tree even after a kill -9 of the parent.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

REPO = pathlib.Path(__file__).resolve().parents[2]


def clean_environ(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which routerd is importable and no key or setting of the machine is seen."""
    kept = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}}
    return {**kept, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", **(more or {})}


class Process:
    """A child with its stdout and stderr collected as lines."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._popen = subprocess.Popen(
            argv,
            env=clean_environ(env),
            cwd=cwd or REPO,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id, also of its process group."""
        return self._popen.pid

    @property
    def output(self) -> str:
        """All it printed so far."""
        return "\n".join(self.lines)

    def wait_line(self, wanted: Callable[[str], bool] | str, timeout_s: float = 15.0) -> str:
        """Return the first line that matches; raise with the whole output if the process ends or the time is up."""
        matches = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        seen = 0
        ends_at_s = time.monotonic() + timeout_s
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if matches(line):
                        return line
                seen = len(self.lines)
                ended = not self._reader.is_alive() or self._popen.poll() is not None
                if not self._news.wait(min(0.2, max(0.0, ends_at_s - time.monotonic()))) and (
                    (ended and seen == len(self.lines)) or time.monotonic() >= ends_at_s
                ):
                    raise AssertionError(f"the process {'ended' if ended else 'did not print it in time'}:\n{self.output}")

    def wait(self, timeout_s: float = 15.0) -> int:
        """Wait for the end and return the exit code."""
        code = self._popen.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def signal(self, number: int) -> None:
        """Send a signal to the process itself."""
        self._popen.send_signal(number)

    def stop(self) -> None:
        """End the process tree: politely to the parent, then the rest of its group at once."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(3)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait(5)
        self._reader.join(5)
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
