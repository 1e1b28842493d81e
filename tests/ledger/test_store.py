"""The tables: what is written once is there once, and the sums agree with it."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from routerd.ledger import LedgerLost, Period, Store, Unwritable, check_url, open_store
from tests.ledger.build import DAY_MS, NOON_MS, batch, entry

EVER = Period()


def test_sums_are_by_what_was_asked(store: Store) -> None:
    others = (entry(client="bob", cost_nano_usd=7), entry(route="n", outcome="truncated", estimated=1), entry(provider="q"))
    assert store.write([batch(entry(), *others)]) == 4
    sums = (10, 5, 2, 1)
    assert store.usage("client", EVER) == [("ann", 3, 2, 1, 30, 15, 6, 3, 9000), ("bob", 1, 1, 0, *sums, 7)]
    assert store.usage("route", EVER) == [("m", 3, 3, 0, 30, 15, 6, 3, 6007), ("n", 1, 0, 1, *sums, 3000)]
    assert [row[:3] for row in store.usage("model", EVER)] == [("q", "x", 1), ("up", "x", 3)]
    assert store.usage("day", EVER) == [("2026-11-21", 4, 3, 1, 40, 20, 8, 4, 9007)]


def test_a_batch_that_comes_again_changes_nothing(store: Store) -> None:
    first, second = batch(entry(), entry()), batch(entry(), entry(), first=1)
    assert store.write([first]) == 2
    assert store.write([first]) == 0
    assert store.write([second, first]) == 1
    assert store.write([batch(entry(), run="another")]) == 1
    assert store.usage("client", EVER)[0][1] == 4


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    bad = batch(entry(input_tokens=1 << 63), first=7)
    with pytest.raises(Unwritable):
        store.write([batch(entry()), bad])
    assert store.usage("client", EVER) == []
    assert store.write([batch(entry())]) == 1


def test_text_that_no_database_takes_is_replaced(store: Store) -> None:
    store.write([batch(entry(client="nul\0here"), entry(client="half \ud800"))])
    assert [row[0] for row in store.usage("client", EVER)] == ["half ?", "nul\ufffdhere"]


def test_days_and_moments_agree(store: Store) -> None:
    store.write([batch(entry(), entry(at_ms=NOON_MS - DAY_MS), entry(at_ms=NOON_MS + 5))])
    midnight = NOON_MS - DAY_MS // 2
    assert store.usage("client", Period(midnight, midnight + DAY_MS))[0][1] == 2
    assert store.usage("client", Period(midnight + 1, midnight + DAY_MS - 1)) == store.usage("client", Period(midnight))
    assert store.usage("client", Period(NOON_MS + 1))[0][1] == 1
    assert store.usage("client", Period(NOON_MS + 1, NOON_MS + 5)) == []


def test_old_entries_go_in_steps_and_their_sums_stay(store: Store) -> None:
    store.write([batch(*[entry(at_ms=NOON_MS - i) for i in range(10)])])
    assert store.prune(NOON_MS - 2, 4) == 4
    assert store.prune(NOON_MS - 2, 4) == 3
    assert store.prune(NOON_MS - 2, 4) == 0
    assert store.usage("client", EVER)[0][1] == 10
    assert store.usage("client", Period(1))[0][1] == 3


def test_what_a_client_spent_is_counted_since_a_day(store: Store) -> None:
    store.write([batch(entry(), entry(at_ms=NOON_MS - DAY_MS, cost_nano_usd=1), entry(client="bob"))])
    assert store.spent("ann", "") == (30, 3001)
    assert store.spent("ann", "2026-11-21") == (15, 3000)
    assert store.spent("nobody", "") == (0, 0)


def test_a_second_writer_sees_what_the_first_one_wrote(store: Store, where: str) -> None:
    store.write([batch(entry())])
    other = open_store(where)
    assert other.write([batch(entry(), entry())]) == 1
    assert store.usage("client", EVER)[0][1] == 2
    other.close()


def test_reading_makes_nothing(where: str) -> None:
    reader = open_store(where, create=False)
    with pytest.raises(LedgerLost):
        reader.usage("client", EVER)
    assert "://" in where or not pathlib.Path(where).exists()
    reader.close()


def test_a_file_is_for_its_owner_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite3"
    before = os.umask(0)
    try:
        made = open_store(str(path))
        made.write([batch(entry())])
        made.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["mysql://root@h/x", "postgres://", "redis://h"])
def test_a_wrong_address_is_told_with_what_is_right(url: str) -> None:
    with pytest.raises(ValueError, match="is no ledger: give postgres://"):
        check_url(url)


def test_where_it_is_holds_no_password() -> None:
    assert open_store("postgres://me:secret@db:5433/bills").where == "postgres://db:5433/bills"


def test_a_file_that_is_no_database_is_lost_and_not_touched(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerLost, match="not a database"):
        open_store(str(path)).write([batch(entry())])
    assert path.read_bytes() == b"no database" * 1000
