"""Rules of control's own look at the endpoints: gauges, notices, drains, and what a reload keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from routerd.daemon.endpoints.vitals import Vitals
from routerd.graph import Breaker, Provider
from routerd.health import Health
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

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.serving: Package | None = None
        self.told: list[tuple[str, str]] = []
        self.metrics = Metrics()
        self.board = Board.create(slots=16, workers=1)
        self.worker = Health(Board.attach(os.dup(self.board.fd), worker=0))
        self.vitals = Vitals(
            Health(self.board), self.metrics, current=lambda: self.serving, clock=lambda: self.now_s, notify=self.note
        )

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.told.append((f"{kind}_{fields['state']}", fields["endpoint"]))

    def serve(self, *names: str) -> None:
        self.serving = package(*names)
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
