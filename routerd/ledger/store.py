"""The tables, and every statement on them: the same for SQLite and PostgreSQL but for how one connects.

    routerd_requests       one row an entry; (run, seq) is its identity; old rows are deleted as told
    routerd_usage_daily    sums by day, client, route, provider, model; changed in the transaction that writes the rows

A Store belongs to one thread, which connects at the first use and again after a failure. LedgerLost: the database is away, or
does not let us; try again later. Unwritable: it takes everything but these entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from routerd.errors import RouterdError
from routerd.ledger.entry import MOST, Batch, Entry, decode
from routerd.ledger.period import Period, day_of

__all__ = ["BY", "Driver", "LedgerLost", "Store", "Unwritable", "check_url", "open_store"]

BY = {"client": "client", "route": "route", "provider": "provider", "model": "provider, model", "day": "day"}

SUMS = ("requests", "ok", "estimated", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nano_usd")
_KEY = ("day", "client", "route", "provider", "model")
_TEXTS = frozenset({"request_id", "client", "route", "provider", "model", "operation", "outcome", "error_type"})

_CREATE = (
    "CREATE TABLE IF NOT EXISTS routerd_requests (run TEXT NOT NULL, seq BIGINT NOT NULL, "
    + ", ".join(f"{name} {'TEXT' if name in _TEXTS else 'BIGINT'} NOT NULL" for name in Entry._fields)
    + ", PRIMARY KEY (run, seq))",
    "CREATE INDEX IF NOT EXISTS routerd_requests_at ON routerd_requests (at_ms)",
    "CREATE TABLE IF NOT EXISTS routerd_usage_daily ("
    + ", ".join(f"{name} TEXT NOT NULL" for name in _KEY)
    + "".join(f", {name} BIGINT NOT NULL" for name in SUMS)
    + f", PRIMARY KEY ({', '.join(_KEY)}))",
)
_INSERT = (
    f"INSERT INTO routerd_requests (run, seq, {', '.join(Entry._fields)}) "
    f"VALUES ({', '.join('?' * (len(Entry._fields) + 2))}) ON CONFLICT DO NOTHING"
)
_ADD = (
    f"INSERT INTO routerd_usage_daily ({', '.join(_KEY + SUMS)}) VALUES ({', '.join('?' * len(_KEY + SUMS))}) "
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = routerd_usage_daily.{name} + excluded.{name}" for name in SUMS)
)
_KNOWN = "SELECT seq FROM routerd_requests WHERE run = ? AND seq >= ? AND seq < ?"
_PRUNE = (
    "DELETE FROM routerd_requests WHERE (run, seq) IN "
    "(SELECT run, seq FROM routerd_requests WHERE at_ms < ? ORDER BY at_ms LIMIT ?)"
)
_SUM_OF_ROWS = "COUNT(*), SUM(CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END), " + ", ".join(f"SUM({name})" for name in SUMS[2:])


class LedgerLost(RouterdError):
    """The database cannot be reached or used now."""


class Unwritable(RouterdError):
    """The database refuses these entries for what they hold."""


T = TypeVar("T")


class Driver(Protocol):
    """One kind of database."""

    away: tuple[type[Exception], ...]  # what is raised when the database cannot be used
    unfit: tuple[type[Exception], ...]  # and when it does not take a value
    mark: str  # of a parameter
    begin: str  # a transaction that writes
    where: str  # to tell an operator: no password

    def connect(self, *, create: bool) -> Any:
        """Return a DB-API connection that commits by itself. `create`: what is not there yet is made."""

    def lock_schema(self, connection: Any) -> None:
        """In a transaction: keep others from creating the same tables meanwhile."""


class Spent(NamedTuple):
    """What a client used."""

    tokens: int
    nano_usd: int


class Store:
    """The ledger in a database. `create=False`: only read, and only what is there."""

    def __init__(self, driver: Driver, *, create: bool = True) -> None:
        self._driver = driver
        self._create = create
        self._connection: Any = None
        self.where = driver.where

    def write(self, batches: Sequence[Batch]) -> int:
        """Write all batches or none; return how many entries were new. Raises LedgerLost or Unwritable."""
        return self._do(lambda: self._transaction(lambda: self._write(batches)))

    def prune(self, before_ms: int, most: int) -> int:
        """Delete at most so many entries that are older; return how many."""
        return self._do(lambda: int(self._run(_PRUNE, (before_ms, most)).rowcount))

    def usage(self, by: str, period: Period) -> list[tuple[Any, ...]]:
        """Return, by what BY names, the key's columns and SUMS, ordered by the key. KeyError: no such `by`."""
        columns = BY[by]
        if period.whole_days:
            sums = ", ".join(f"SUM({name})" for name in SUMS)
            sql = f"SELECT {columns}, {sums} FROM routerd_usage_daily WHERE day >= ?"
            values: tuple[Any, ...] = (day_of(period.since_ms),)
            if period.until_ms is not None:
                sql, values = sql + " AND day < ?", (*values, day_of(period.until_ms))
        else:
            sql = f"SELECT {columns}, {_SUM_OF_ROWS} FROM routerd_requests WHERE at_ms >= ?"
            values = (period.since_ms,)
            if period.until_ms is not None:
                sql, values = sql + " AND at_ms < ?", (*values, period.until_ms)
        sql += f" GROUP BY {columns} ORDER BY {columns}"
        texts = columns.count(",") + 1
        rows = self._do(lambda: self._run(sql, values).fetchall())
        return [(*row[:texts], *[int(value) for value in row[texts:]]) for row in rows]

    def spent(self, client: str, since_day: str) -> Spent:
        """Return what a client used since a day (empty: ever)."""
        sql = (
            "SELECT COALESCE(SUM(input_tokens + output_tokens), 0), COALESCE(SUM(cost_nano_usd), 0) "
            "FROM routerd_usage_daily WHERE client = ? AND day >= ?"
        )
        row = self._do(lambda: self._run(sql, (client, since_day)).fetchone())
        return Spent(int(row[0]), int(row[1]))

    def close(self) -> None:
        """Let go of the database; the next use connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except self._driver.away:
                pass

    def _write(self, batches: Iterable[Batch]) -> int:
        rows: list[tuple[Any, ...]] = []
        for batch in batches:
            run = batch.run
            known = {row[0] for row in self._run(_KNOWN, (run, batch.first, batch.first + batch.count)).fetchall()}
            rows += [(run, seq, *entry) for seq, entry in enumerate(decode(batch.data), batch.first) if seq not in known]
        if rows:
            self._many(_INSERT, rows)
            self._many(_ADD, _daily(rows))
        return len(rows)

    def _transaction(self, work: Callable[[], int]) -> int:
        self._run(self._driver.begin)
        try:
            done = work()
            self._run("COMMIT")
        except BaseException:
            try:
                self._run("ROLLBACK")
            except Exception:
                self.close()
            raise
        return done

    def _do(self, work: Callable[[], T]) -> T:
        driver = self._driver
        try:
            if self._connection is None:
                self._connect()
            return work()
        except driver.unfit as exc:
            raise Unwritable(str(exc).strip()) from exc
        except driver.away as exc:
            self.close()
            raise LedgerLost(str(exc).strip() or type(exc).__name__) from exc

    def _connect(self) -> None:
        self._connection = self._driver.connect(create=self._create)
        if self._create:
            self._transaction(self._make_tables)

    def _make_tables(self) -> int:
        self._driver.lock_schema(self._connection)
        for statement in _CREATE:
            self._run(statement)
        return 0

    def _run(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(sql.replace("?", self._driver.mark), values)
        return cursor

    def _many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._connection.cursor().executemany(sql.replace("?", self._driver.mark), rows)


_AT = {name: i + 2 for i, name in enumerate(Entry._fields)}
_at_ms, _outcome = itemgetter(_AT["at_ms"]), itemgetter(_AT["outcome"])
_names = itemgetter(*(_AT[name] for name in _KEY[1:]))
_summed = tuple(itemgetter(_AT[name]) for name in SUMS[2:])


def _daily(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the sums of rows, in order of their keys: two hosts never wait for each other in a ring."""
    alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        alike[(day_of(_at_ms(row)), *_names(row))].append(row)
    return [
        (
            *key,
            len(same),
            sum([_outcome(row) == "ok" for row in same]),
            *[min(MOST, sum(map(column, same))) for column in _summed],
        )
        for key, same in sorted(alike.items(), key=itemgetter(0))
    ]


def check_url(url: str) -> str:
    """Return `postgres` or `sqlite`: what a ledger's URL or path names. ValueError says what is wrong with it."""
    scheme, sep, rest = url.partition("://")
    if not sep:
        return "sqlite"
    if scheme not in ("postgres", "postgresql") or not rest:
        raise ValueError(f"{scheme}:// is no ledger: give postgres://USER@HOST/DATABASE, the path of an SQLite file, or `off`")
    try:
        import psycopg  # noqa: F401 - told at the start, not at the first request
    except ImportError:
        raise ValueError("PostgreSQL needs the driver: pip install 'routerd[postgres]'") from None
    return "postgres"


def open_store(url: str, *, create: bool = True) -> Store:
    """Return the ledger behind a URL or a path; nothing is connected yet."""
    if check_url(url) == "postgres":
        from routerd.ledger.postgres import Postgres

        return Store(Postgres(url), create=create)
    from routerd.ledger.sqlite import Sqlite

    return Store(Sqlite(url), create=create)
