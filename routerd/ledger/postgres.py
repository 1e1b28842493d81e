"""PostgreSQL through psycopg 3, which its own maintainers keep; several hosts may share one ledger.

A server that stands still is given up after some seconds: the thread that writes must be free again before the queue is full.
Source of the connection's parameters: PostgreSQL documentation, libpq, "Parameter Key Words".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg

__all__ = ["Postgres"]

CONNECT_TIMEOUT_S = 5
SILENCE_MS = 10_000
SCHEMA_LOCK = 0x726F7574  # "rout"


class Postgres:
    """A Driver for one database."""

    away: tuple[type[Exception], ...] = (psycopg.Error, OSError)
    unfit: tuple[type[Exception], ...] = (psycopg.DataError,)
    mark = "%s"
    begin = "BEGIN"

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        self.where = f"postgres://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def connect(self, *, create: bool) -> Any:
        """Connect."""
        connection = psycopg.connect(
            self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, tcp_user_timeout=SILENCE_MS, application_name="routerd"
        )
        connection.execute(f"SET statement_timeout = {SILENCE_MS}")
        connection.execute(f"SET default_transaction_read_only = {'off' if create else 'on'}")
        return connection

    def lock_schema(self, connection: Any) -> None:
        """CREATE TABLE IF NOT EXISTS fails where two do it at the same moment."""
        connection.execute(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")
