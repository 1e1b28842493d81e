"""Each test of a store runs on every kind of database."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import psycopg
import pytest

from routerd.ledger import Store, open_store
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Give a running PostgreSQL."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Give the place of an empty ledger."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite3")
    server: PostgresServer = request.getfixturevalue("postgres")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS routerd_requests, routerd_usage_daily")
    return server.url


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    """Give an empty ledger."""
    made = open_store(where)
    try:
        yield made
    finally:
        made.close()
