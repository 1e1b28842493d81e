"""What served, and what to go back to."""

from __future__ import annotations

from routerd.daemon.reload.history import KEPT, Entry, History
from routerd.daemon.workers.generation import pack, unpack
from tests.daemon.fakes import graph


def entry(number: int, digest: str, **more: object) -> Entry:
    package = pack(number, graph(digest))
    made = {"kept": None, "at_unix_s": 1000.0 + number, "trigger": "file", "source": "file", "models": 2, "providers": 1}
    return Entry(package=package, **(made | more))  # type: ignore[arg-type]


def test_ten_generations_are_kept_and_the_oldest_goes_first() -> None:
    history = History()
    for number in range(1, KEPT + 4):
        history.add(entry(number, f"d{number}"))
    assert len(history) == KEPT
    assert history.find(3) is None
    assert history.find(4) is not None
    assert [one["generation"] for one in history.as_json()] == list(range(13, 3, -1))
    assert [one["serving"] for one in history.as_json()][:2] == [True, False]


def test_the_previous_one_has_other_content_and_was_not_rolled_back() -> None:
    history = History()
    assert history.previous() is None
    history.add(entry(1, "a"))
    assert history.previous() is None
    history.add(entry(2, "b", reverted=True))
    history.add(entry(3, "c"))
    found = history.previous()
    assert found is not None
    assert found.package.number == 1
    history.add(entry(4, "a", rollback_of=1))
    found = history.previous()
    assert found is not None
    assert found.package.number == 3


def test_a_packed_graph_comes_out_as_it_went_in() -> None:
    before = graph("a", routes=120, clients=True)
    assert unpack(pack(7, before)) == before


def test_no_entry_prints_what_it_holds() -> None:
    assert "sk-hidden" not in repr(entry(1, "a"))
