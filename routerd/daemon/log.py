"""Where the processes write: their log to stderr, access records to stdout, both as text or JSON. The one place for both.

Access records must never slow a request: a request appends to a queue, a timer formats a bounded batch, and a thread writes it,
so that a reader that stands still blocks the thread only. When QUEUE_MAX records wait, further ones are dropped and counted.
Several workers write to one pipe: a write of at most PIPE_BUF bytes is atomic there, so lines never mix.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from routerd.observe import AccessRecord, Cell, format_json, format_text

__all__ = ["AccessLog", "is_discarded", "setup", "write_lines"]

QUEUE_MAX = 10_000
BATCH = 200  # records formatted in one go: about 2 ms of the loop


class _Text(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        lines = f"{_moment(record)} {record.levelname.lower()} {self._role}: {record.getMessage()}"
        return f"{lines}\n{self.formatException(record.exc_info)}" if record.exc_info else lines


class _Json(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "process": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def setup(form: str, role: str) -> None:
    """Send the log of this process to stderr as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(role) if form == "json" else _Text(role))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.raiseExceptions = False  # a closed stderr is no reason to fail
    for noisy in ("asyncio", "aiohttp.access", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def is_discarded(fd: int) -> bool:
    """Return whether nobody can read what is written to `fd`: it is closed or the null device."""
    try:
        found = os.fstat(fd)
    except OSError:
        return True
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev


class AccessLog:
    """The queue of access records of one worker. `add` is for the request path, `flush` for a timer."""

    def __init__(self, form: str, dropped: Cell, write: Callable[[bytes], None]) -> None:
        self._format = format_json if form == "json" else format_text
        self._dropped = dropped
        self._write = write
        self._records: deque[AccessRecord] = deque()
        self._batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def add(self, record: AccessRecord) -> None:
        """Queue `record`, or drop and count it when too many wait."""
        if len(self._records) >= QUEUE_MAX:
            self._dropped.inc()
        else:
            self._records.append(record)

    def flush(self) -> bool:
        """Hand a batch to the writer if it is idle; return whether more could be handed over at once."""
        if not self._records or not self._idle.is_set():
            return False
        records = [self._records.popleft() for _ in range(min(BATCH, len(self._records)))]
        self._idle.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()
        self._batches.put("".join(self._format(record) + "\n" for record in records).encode())
        return bool(self._records)

    def finish(self, timeout_s: float) -> None:
        """Write what is queued, for at most `timeout_s` per batch; for the end of the process."""
        while self._records and self._idle.wait(timeout_s):
            self.flush()
        self._idle.wait(timeout_s)

    def _run(self) -> None:
        while True:
            batch = self._batches.get()
            try:
                self._write(batch)
            finally:
                self._idle.set()


def write_lines(fd: int) -> Callable[[bytes], None]:
    """Return a function that writes whole lines to `fd`, in atomic pieces if it is a pipe. A reader that left is no error."""
    piece = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else sys.maxsize

    def write(data: bytes) -> None:
        try:
            for part in _pieces(data, piece):
                view = memoryview(part)
                while view:
                    view = view[os.write(fd, view) :]
        except OSError:
            return

    return write


def _pieces(data: bytes, most: int) -> Iterator[bytes]:
    """Split `data` behind line ends into parts of at most `most` bytes; a longer line stays whole."""
    at = 0
    while at < len(data):
        end = len(data) if len(data) - at <= most else data.rfind(b"\n", at, at + most) + 1
        if end <= at:
            end = data.find(b"\n", at) + 1 or len(data)
        yield data[at:end]
        at = end
