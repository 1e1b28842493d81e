"""Rules of endpoint state over time and over reloads."""

from __future__ import annotations

import dataclasses

import pytest

from routerd.graph import Auth, Endpoint, Graph, Provider, Secret
from routerd.health import Health, identities
from routerd.plan import HealthView
from routerd.state import Board
from routerd.state.board import KEEP_REMOVED_S
from tests.plan.build import graph as graph_of


def graph(*rows: tuple[str, str, str]) -> Graph:
    """Build a graph of endpoints from (name, url, secret)."""
    providers = []
    for name, url, secret in rows:
        one = Endpoint(name=name, provider=f"p-{name}", url=url)
        auth = Auth(secret=Secret(secret) if secret else None)
        providers.append(Provider(name=f"p-{name}", dialect="openai", endpoints=(one,), auth=auth))
    return graph_of(providers=tuple(providers))


A, B = ("a", "http://a.test/v1", "key"), ("b", "http://b.test/v1", "key")


@pytest.fixture
def health() -> Health:
    health = Health(Board.private())
    health.reconcile(graph(A, B), 0.0)
    return health


def test_it_is_what_a_plan_asks(health: Health) -> None:
    view: HealthView = health
    assert view.inflight("a") == 0
    assert view.standing("a", 0.0) is None


def test_requests_in_flight_are_counted_each_for_itself(health: Health) -> None:
    health.begin("a")
    health.begin("a")
    health.begin("b")
    health.end("a")
    assert (health.inflight("a"), health.inflight("b")) == (1, 1)


def test_an_end_too_many_never_goes_below_zero(health: Health) -> None:
    health.end("a")
    health.begin("a")
    assert health.inflight("a") == 1


def test_a_cooldown_ends_by_itself_and_is_never_shortened(health: Health) -> None:
    health.cool("a", 10.0)
    health.cool("a", 5.0)
    assert health.cooling("a", 9.9) == 10.0
    assert health.cooling("a", 10.0) == 0.0
    assert health.cooling("b", 0.0) == 0.0


def test_an_unknown_name_is_idle(health: Health) -> None:
    health.begin("nobody")
    health.cool("nobody", 10.0)
    health.end("nobody")
    assert (health.inflight("nobody"), health.cooling("nobody", 0.0)) == (0, 0.0)


def test_an_unrelated_edit_keeps_everything(health: Health) -> None:
    health.begin("a")
    health.cool("a", 10.0)
    health.reconcile(graph(A, ("c", "http://c.test/v1", "")), 1.0)
    assert (health.inflight("a"), health.cooling("a", 2.0)) == (1, 10.0)


def test_a_renamed_endpoint_keeps_its_state(health: Health) -> None:
    health.cool("a", 10.0)
    health.reconcile(graph(("new", A[1], A[2])), 1.0)
    assert health.cooling("new", 2.0) == 10.0
    assert health.cooling("a", 2.0) == 0.0


def test_another_credential_starts_clean(health: Health) -> None:
    health.cool("a", 10.0)
    health.reconcile(graph(("a", A[1], "other key")), 1.0)
    assert health.cooling("a", 2.0) == 0.0


def test_swapped_names_never_mix_up_requests_that_began_before(health: Health) -> None:
    old = health.reconcile(graph(A, B), 0.0)
    old.begin("a")
    new = health.reconcile(graph(("b", A[1], A[2]), ("a", B[1], B[2])), 1.0)
    assert (new.inflight("b"), new.inflight("a")) == (1, 0)
    old.cool("a", 10.0)
    old.end("a")
    assert (new.inflight("b"), new.inflight("a")) == (0, 0)
    assert (new.cooling("b", 2.0), new.cooling("a", 2.0)) == (10.0, 0.0)


@pytest.mark.parametrize(("back_after_s", "kept"), [(KEEP_REMOVED_S - 1, True), (KEEP_REMOVED_S + 1, False)])
def test_removed_and_added_again_within_ten_minutes_is_the_last_state(health: Health, back_after_s: float, kept: bool) -> None:
    health.cool("a", 5000.0)
    health.reconcile(graph(B), 100.0)
    health.reconcile(graph(A, B), 100.0 + back_after_s)
    assert bool(health.cooling("a", 2000.0)) is kept


def test_endpoints_with_one_url_and_key_are_kept_apart(health: Health) -> None:
    both = graph(A, ("twin", A[1], A[2]))
    view = health.reconcile(both, 1.0)
    view.cool("a", 10.0)
    assert view.cooling("twin", 2.0) == 0.0
    assert len(set(identities(both.providers).values())) == 2


def test_no_identity_holds_the_secret() -> None:
    g = graph(("a", "http://a.test", "hunter2-secret"))
    assert b"hunter2" not in identities(g.providers)["a"]
    moved = dataclasses.replace(g, digest="other")
    assert identities(moved.providers) == identities(g.providers)
