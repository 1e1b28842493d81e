"""Rules of control's own look at the endpoints: gauges, notices, drains, and what a reload keeps."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from routerd.daemon.endpoints.drains import Drains
from routerd.daemon.endpoints.vitals import Vitals
from routerd.graph import Breaker, Provider
from routerd.health import Health
from routerd.messages import DRAINED
from routerd.observe import Metrics
from routerd.state import Board
from tests.plan.build import endpoint, provider

RULES = Breaker(min_requests=2, open_for_s=10.0, ramp_s=10.0)


@dataclass
class Package:
    providers: Mapping[str, Provider]


def package(*names: str) -> Package:
    return Package({"gpu": provider("gpu", *(endpoint(name, "gpu") for name in names), breaker=RULES)})


class Room:
    """Control and one worker on one board."""

    def __init__(self, directory: Path | None = None) -> None:
        self.now_s = 1000.0
        self.serving: Package | None = None
        self.told: list[tuple[str, str]] = []
        self.metrics = Metrics()
        self.board = Board.create(slots=16, workers=1)
        self.worker = Health(Board.attach(os.dup(self.board.fd), worker=0))
        self.vitals = Vitals(
            Health(self.board),
            self.metrics,
            current=lambda: self.serving,
            clock=lambda: self.now_s,
            notify=self.note,
            drains=Drains(directory, lambda: 1.7e9),
        )

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.told.append((f"{kind}_{fields['state']}", fields["endpoint"]))

    def serve(self, *names: str) -> None:
        self.take(package(*names))

    def take(self, package: Package) -> None:
        self.vitals.expect(package.providers)
        self.serving = package
        self.worker.take_up(self.serving.providers, self.now_s)
        self.vitals.look()

    def gauge(self, name: str, endpoint_name: str = "a") -> float:
        return self.metrics.gauge(name, endpoint_name).value

    def news(self) -> list[tuple[str, str]]:
        self.vitals.look()
        told, self.told = self.told, []
        return told


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    os.close(room.board.fd)


def test_before_anything_serves_there_is_nothing(room: Room) -> None:
    room.vitals.look()
    assert (room.vitals.status(), room.vitals.drain("a", True)) == ([], None)


def test_a_breaker_is_told_open_half_open_and_closed_once_each(room: Room) -> None:
    room.serve("a", "b")
    for _ in range(2):
        room.worker.failed("a", room.now_s, room.now_s)
    assert room.news() == [("breaker_open", "a")]
    assert (room.news(), room.gauge("routerd_breaker_state"), room.gauge("routerd_breaker_state", "b")) == ([], 2, 0)
    room.now_s += 11
    assert (room.news(), room.gauge("routerd_breaker_state")) == ([("breaker_half_open", "a")], 1)
    room.now_s += 10
    assert (room.news(), room.gauge("routerd_breaker_state")) == ([("breaker_closed", "a")], 0)


def test_a_cooldown_is_told_and_counted_down(room: Room) -> None:
    room.serve("a")
    room.worker.cool("a", room.now_s + 30, "rate_limited")
    assert room.news() == [("cooldown_begun", "a")]
    room.now_s += 10
    assert (room.news(), room.gauge("routerd_endpoint_cooldown_seconds")) == ([], pytest.approx(20))
    assert room.vitals.status()[0]["reasons"] == ["cools down for 20.0 s, rate limited"]


def another(name: str, host: str) -> Package:
    """Return a package with one endpoint of this name at another address."""
    return Package({"gpu": provider("gpu", dataclasses.replace(endpoint(name, "gpu"), url=f"http://{host}.test/v1"))})


def drained(room: Room) -> dict[str, bool]:
    room.vitals.look()
    found = {one["endpoint"]: one["drained"] for one in room.vitals.status()}
    for name, is_drained in found.items():
        standing = room.worker.standing(name, room.now_s)
        assert (standing is not None and standing.rank == DRAINED) is is_drained
        assert (name in room.vitals.drains) is is_drained
    return found


def test_a_drain_follows_a_rename_and_stays_with_the_name_at_another_address(room: Room) -> None:
    room.serve("a", "b")
    room.vitals.drain("a", True)
    room.take(Package({"gpu": provider("gpu", dataclasses.replace(endpoint("a", "gpu"), name="c"), endpoint("b", "gpu"))}))
    assert drained(room) == {"c": True, "b": False}
    room.take(another("c", "elsewhere"))
    assert drained(room) == {"c": True}
    room.vitals.drain("c", False)
    room.take(another("c", "a"))
    assert drained(room) == {"c": False}


def test_a_drain_is_there_for_the_first_request_of_a_new_address(room: Room) -> None:
    room.serve("a")
    room.vitals.drain("a", True)
    coming = another("a", "elsewhere")
    room.vitals.expect(coming.providers)
    room.worker.take_up(coming.providers, room.now_s)  # control has not looked yet
    standing = room.worker.standing("a", room.now_s)
    assert standing is not None
    assert standing.rank == DRAINED


def test_swapped_names_take_their_drains_along(room: Room) -> None:
    room.serve("a", "b")
    room.vitals.drain("a", True)
    swapped = [dataclasses.replace(endpoint(name, "gpu"), name=other) for name, other in ("ab", "ba")]
    room.take(Package({"gpu": provider("gpu", *swapped)}))
    assert drained(room) == {"b": True, "a": False}


def test_who_is_removed_comes_back_drained_unless_that_was_taken_back_meanwhile(room: Room) -> None:
    room.serve("a", "b")
    room.vitals.drain("a", True)
    room.serve("b")
    assert room.vitals.drained_elsewhere() == ["a"]
    room.serve("a", "b")
    assert drained(room) == {"a": True, "b": False}
    room.serve("b")
    assert room.vitals.drain("a", False) == {"endpoint": "a", "inflight": 0, "drained": False}
    assert room.vitals.drain("a", False) is None
    room.serve("a", "b")
    assert drained(room) == {"a": False, "b": False}


def test_a_drain_outlasts_the_daemon_where_there_is_a_place_for_it(tmp_path: Path) -> None:
    first = Room(tmp_path / "state")
    first.serve("a", "b")
    first.vitals.drain("a", True)
    again = Room(tmp_path / "state")
    again.serve("a", "b")
    assert drained(again) == {"a": True, "b": False}
    assert [one["drained_since_unix_s"] for one in again.vitals.status()] == [1.7e9, None]
    again.vitals.drain("a", False)
    last = Room(tmp_path / "state")
    last.serve("a", "b")
    assert drained(last) == {"a": False, "b": False}
    for one in (first, again, last):
        os.close(one.board.fd)


@pytest.mark.parametrize("content", ["", "[]", '{"drained": 1}', '{"drained": {"a": "x"}}'])
def test_a_list_that_cannot_be_read_or_written_is_a_warning(tmp_path: Path, content: str) -> None:
    (tmp_path / "drains.json").write_text(content)
    assert list(Drains(tmp_path, lambda: 1.0)) == []
    (tmp_path / "file").write_text("")
    refused = Drains(tmp_path / "file", lambda: 1.0)
    refused.change("a", True)
    assert ("a" in refused, bool(refused.error)) == (True, True)


def test_a_drain_is_seen_by_workers_told_and_kept_over_a_reload(room: Room) -> None:
    room.serve("a", "b")
    room.worker.begin("a")
    found = room.vitals.drain("a", True)
    assert found is not None
    assert (found["rank"], found["drained"], found["inflight"]) == ("drained", True, 1)
    assert room.news() == [("endpoint_drained", "a")]
    room.serve("b", "a", "c")
    standing = room.worker.standing("a", room.now_s)
    assert standing is not None
    assert (room.gauge("routerd_endpoint_drained"), room.gauge("routerd_inflight_requests")) == (1, 1)
    room.vitals.drain("a", False)
    assert (room.news(), room.worker.standing("a", room.now_s)) == ([("endpoint_undrained", "a")], None)


def test_the_series_of_a_removed_endpoint_go(room: Room) -> None:
    room.serve("a", "b")
    room.serve("b")
    labels = {labels for name, labels in room.metrics.snapshot().values if name == "routerd_breaker_state"}
    assert labels == {("b",)}
    assert [one["endpoint"] for one in room.vitals.status()] == ["b"]
