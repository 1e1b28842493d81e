"""SQLite: one file, readable by its owner only, with a write-ahead log beside it.

`synchronous=NORMAL`: a crash of this process loses nothing that was committed, a crash of the machine the last commits, and the
file is sound in both cases (https://sqlite.org/pragma.html#pragma_synchronous). Readers never wait for the writer.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

__all__ = ["Sqlite"]

BUSY_TIMEOUT_S = 5.0


class Sqlite:
    """A Driver for one file."""

    away: tuple[type[Exception], ...] = (sqlite3.DatabaseError, sqlite3.InterfaceError, OSError)
    unfit: tuple[type[Exception], ...] = (sqlite3.DataError, OverflowError)
    mark = "?"
    begin = "BEGIN IMMEDIATE"

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()
        self.where = str(self._path)

    def connect(self, *, create: bool) -> Any:
        """Open the file."""
        if create:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        elif not self._path.exists():
            raise FileNotFoundError(f"{self._path} does not exist")
        uri = f"{self._path.as_uri()}?mode={'rw' if create else 'ro'}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        if create:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def lock_schema(self, connection: Any) -> None:
        """Nothing: a transaction that writes is alone."""
        del connection
