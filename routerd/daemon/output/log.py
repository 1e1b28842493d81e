"""Where the processes write: their log to stderr, access records to stdout, both as text or JSON. The one place for both.

Access records must never slow a request: a request appends to a queue, a timer formats a bounded batch and writes it in pieces
that poll says will not block. A reader that stands still is left alone; when QUEUE_MAX records wait, further ones are dropped and
counted. No thread: one that writes 4 KiB at a time fights the loop for the interpreter (18 ms at the 99th percentile).
Several workers write to one pipe: a write of at most PIPE_BUF bytes is atomic there, so lines never mix.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol

from routerd.observe import AccessRecord, Cell, format_json, format_text

__all__ = ["AccessLog", "LineWriter", "is_discarded", "setup"]

QUEUE_MAX = 10_000
BATCH = 100  # records formatted in one go: about 0.5 ms of the loop


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


class Writer(Protocol):
    """Where lines go, in parts of at most `piece_bytes`."""

    piece_bytes: int

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Return whether a write would not block."""

    def write(self, data: bytes) -> int:
        """Write and return how many bytes went."""


class LineWriter:
    """Writes to a descriptor without ever waiting for its reader: only when poll says that PIPE_BUF bytes find room."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        # A file takes any length at once; in a pipe or a socket only this much is sure to find room, and to stay in one piece.
        self.piece_bytes = 65536 if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Return whether a write would not block; wait that long for it."""
        return bool(self._poll.poll(timeout_s * 1000))

    def write(self, data: bytes) -> int:
        """Write and return how many bytes went; a reader that left is no error and takes everything."""
        try:
            return os.write(self._fd, data)
        except OSError:
            return len(data)


class AccessLog:
    """The queue of access records of one worker. `add` is for the request path, `flush` for a timer.

    `first` is called when a record waits where none did.
    """

    def __init__(self, form: str, dropped: Cell, writer: Writer, first: Callable[[], object] = lambda: None) -> None:
        self._format = format_json if form == "json" else format_text
        self._dropped = dropped
        self._writer = writer
        self._first = first
        self._records: deque[AccessRecord] = deque()
        self._parts: deque[bytes] = deque()

    def add(self, record: AccessRecord) -> None:
        """Queue `record`, or drop and count it when too many wait."""
        records = self._records
        if not records:
            self._first()
        elif len(records) >= QUEUE_MAX:
            self._dropped.inc()
            return
        records.append(record)

    @property
    def waiting(self) -> bool:
        """Whether something is not written yet."""
        return bool(self._parts or self._records)

    def flush(self) -> bool:
        """Format a batch and write while the reader takes it; return whether more could be written at once."""
        if not self._parts and self._records:
            records = [self._records.popleft() for _ in range(min(BATCH, len(self._records)))]
            lines = "".join(self._format(record) + "\n" for record in records).encode()
            self._parts.extend(_pieces(lines, self._writer.piece_bytes))
        while self._parts:
            if not self._writer.ready():
                return False
            self._write_one()
        return bool(self._records)

    def finish(self, timeout_s: float) -> None:
        """Write what is queued, waiting up to `timeout_s` for a reader that stands still; for the end of the process."""
        while self.flush() or self._parts:
            if self._parts and not self._writer.ready(timeout_s):
                return

    def _write_one(self) -> None:
        part = self._parts.popleft()
        rest = part[self._writer.write(part) :]
        if rest:
            self._parts.appendleft(rest)


def _pieces(data: bytes, most: int) -> Iterator[bytes]:
    """Split `data` behind line ends into parts of at most `most` bytes; a longer line stays whole."""
    at = 0
    while at < len(data):
        end = len(data) if len(data) - at <= most else data.rfind(b"\n", at, at + most) + 1
        if end <= at:
            end = data.find(b"\n", at) + 1 or len(data)
        yield data[at:end]
        at = end
