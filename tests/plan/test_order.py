"""Rules of the plan: chain order, groups, endpoints, cooldown, full endpoints, skipped targets, filled names."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.graph import Balance, Graph, Route
from routerd.messages import COOLING, DOWN, DRAINED, OPEN, Standing
from routerd.plan import Planned, RoutePlan, Skipped, resolve, skipped
from tests.plan.build import Fixed, endpoint, graph, group, provider, route, target

NOW = 1000.0


def order(g: Graph, r: Route, health: Fixed | None = None, seed: int = 0, captured: tuple[str, ...] = ()) -> list[Planned]:
    return list(RoutePlan(g, r).order(captured, health or Fixed(), random.Random(seed), NOW))


def names(planned: list[Planned]) -> list[str]:
    return [p.endpoint.name for p in planned]


def test_a_chain_keeps_its_order_and_the_same_tuple_is_returned() -> None:
    r = route("m", "a/x", "b/y", "c/z")
    plan = RoutePlan(graph(r), r)
    planned = plan.order((), Fixed(), random.Random(0), NOW)
    assert planned is plan.entries
    assert [(p.provider.name, p.model, p.index) for p in planned] == [("a", "x", 0), ("b", "y", 1), ("c", "z", 2)]


def test_cooling_targets_go_last_and_keep_their_order() -> None:
    r = route("m", "a/x", "b/y", "c/z", "d/w")
    assert names(order(graph(r), r, Fixed({"a": NOW + 5, "c": NOW + 1}))) == ["b", "d", "a", "c"]


def test_an_ended_cooldown_counts_no_more() -> None:
    r = route("m", "a/x", "b/y")
    assert names(order(graph(r), r, Fixed({"a": NOW}))) == ["a", "b"]


def test_all_cooling_drops_nobody() -> None:
    r = route("m", "a/x", "b/y")
    assert names(order(graph(r), r, Fixed({"a": NOW + 5, "b": NOW + 5}))) == ["a", "b"]


def test_full_goes_behind_free_and_before_cooling() -> None:
    r = route("m", "cool/x", "full/y", "free/z")
    g = graph(r, providers=(provider("full", endpoint("full", "full", max_concurrent=2)),))
    health = Fixed({"cool": NOW + 1}, {"full": 2})
    assert names(order(g, r, health)) == ["free", "full", "cool"]
    assert names(order(g, r, Fixed({}, {"full": 1}))) == ["cool", "full", "free"]


def test_a_provider_shares_its_endpoints_by_its_own_balance() -> None:
    gpu = provider("gpu", endpoint("a", "gpu"), endpoint("b", "gpu", weight=2), balance=Balance.LEAST_BUSY)
    r = route("m", "gpu/x", "other/y")
    assert names(order(graph(r, providers=(gpu,)), r, Fixed({}, {"a": 3, "b": 4}))) == ["b", "a", "other"]


def test_a_pinned_endpoint_is_the_only_one() -> None:
    gpu = provider("gpu", endpoint("a", "gpu"), endpoint("b", "gpu"))
    r = route("m", target("gpu/x", endpoint="b"))
    assert names(order(graph(r, providers=(gpu,)), r)) == ["b"]


def test_a_group_is_drawn_by_weight_and_the_rest_is_its_failover() -> None:
    r = route("m", group(target("a/x", weight=3), target("b/y", weight=1)), "last/z")
    plan, rng = RoutePlan(graph(r), r), random.Random(3)
    orders = [names(list(plan.order((), Fixed(), rng, NOW))) for _ in range(4000)]
    first = Counter(o[0] for o in orders)
    assert first["a"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {o[2] for o in orders} == {"last"}


def test_a_cooling_member_loses_its_share_to_all_others_evenly() -> None:
    r = route("m", group(target("a/x"), target("b/y"), target("c/z"), balance=Balance.ROUND_ROBIN))
    plan = RoutePlan(graph(r), r)
    orders = [names(list(plan.order((), Fixed({"a": NOW + 9}), random.Random(0), NOW))) for _ in range(100)]
    assert Counter(o[0] for o in orders) == {"b": 50, "c": 50}
    assert {o[2] for o in orders} == {"a"}


def test_a_target_is_usable_while_one_of_its_endpoints_is() -> None:
    gpu = provider("gpu", endpoint("a", "gpu"), endpoint("b", "gpu"))
    r = route("m", group(target("gpu/x"), target("other/y", weight=0)))
    planned = order(graph(r, providers=(gpu,)), r, Fixed({"a": NOW + 1}))
    assert names(planned) == ["b", "other", "a"]


def test_least_busy_over_targets_adds_up_their_endpoints() -> None:
    gpu = provider("gpu", endpoint("a", "gpu"), endpoint("b", "gpu"))
    r = route("m", group(target("gpu/x"), target("other/y"), balance=Balance.LEAST_BUSY))
    planned = order(graph(r, providers=(gpu,)), r, Fixed({}, {"a": 2, "b": 2, "other": 3}))
    assert names(planned)[0] == "other"


def test_a_target_of_a_disabled_provider_is_skipped_with_its_reason() -> None:
    off = provider("off", disabled="no key")
    r = route("m", "off/x", target("on/y", endpoint="nope"), "on/y")
    g = graph(r, providers=(off,))
    assert names(order(g, r)) == ["on"]
    assert skipped(g, r) == (
        Skipped(r.chain[0].targets[0], "provider 'off' is disabled: no key"),
        Skipped(r.chain[1].targets[0], "provider 'on' has no endpoint 'nope'"),
    )


def test_a_step_without_a_usable_target_is_passed_over() -> None:
    r = route(
        "m", "off/x", group(target("a/x"), target("off/y")), group(target("b/x"), target("c/y"), balance=Balance.ROUND_ROBIN)
    )
    g = graph(r, providers=(provider("off", disabled="no key"),))
    assert names(order(g, r)) == ["a", "b", "c"]


@given(
    st.lists(st.lists(st.sampled_from("abcd-"), min_size=1, max_size=4), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([COOLING, OPEN, DOWN, DRAINED])),
    st.sets(st.sampled_from("abcd")),
    st.sampled_from(list(Balance)),
    st.integers(0, 99),
)
def test_any_plan_has_every_entry_once_by_rank_and_the_drained_not_at_all(
    chain: list[list[str]], bad: dict[str, int], full: set[str], balance: Balance, seed: int
) -> None:
    providers = [
        provider(n, *(endpoint(f"{n}{i}", n, max_concurrent=3, weight=i) for i in range(2)), balance=balance) for n in "abcd"
    ]
    r = route("m", *(group(*(target(f"{n}/x") for n in step), balance=balance) for step in chain))
    g = graph(r, providers=(*providers, provider("-", disabled="no key")))
    health = Fixed({}, {f"{n}1": 3 for n in full}, standings={f"{n}0": Standing(rank) for n, rank in bad.items()})
    plan, rng = RoutePlan(g, r), random.Random(seed)
    gone = {f"{n}0" for n, rank in bad.items() if rank == DRAINED}
    for _ in range(3):
        planned = plan.order((), health, rng, NOW, key=seed)
        assert sorted(p.index for p in planned) == [p.index for p in plan.entries if p.endpoint.name not in gone]
        ranks = [
            standing.rank if (standing := health.standing(p.endpoint.name, NOW)) else int(health.inflight(p.endpoint.name) >= 3)
            for p in planned
        ]
        assert ranks == sorted(ranks)
        steps = [next(i for i, s in enumerate(r.chain) if any(t is p.target for t in s.targets)) for p in planned]
        assert all(a <= b for a, b, x, y in zip(steps, steps[1:], ranks, ranks[1:], strict=False) if x == y)


def test_the_ranks_are_free_full_cooling_open_down() -> None:
    r = route("m", *(f"{rank}/x" for rank in ("down", "open", "cooling", "full", "free")))
    full = provider("full", endpoint("full", "full", max_concurrent=1))
    health = Fixed({}, {"full": 1}, standings={"cooling": Standing(COOLING), "open": Standing(OPEN), "down": Standing(DOWN)})
    assert names(order(graph(r, providers=(full,)), r, health)) == ["free", "full", "cooling", "open", "down"]


@pytest.mark.parametrize("chain", [("a/x",), ("a/x", "b/y")])
def test_the_drained_get_nothing_not_even_as_the_last_resort(chain: tuple[str, ...]) -> None:
    r = route("m", *chain)
    health = Fixed(standings={"a": Standing(DRAINED), "b": Standing(DOWN)})
    assert names(order(graph(r), r, health)) == [name[0] for name in chain[1:]]


def test_a_half_open_endpoint_gets_its_share_and_is_behind_for_the_rest() -> None:
    r = route("m", "a/x", "b/y")
    plan, rng = RoutePlan(graph(r), r), random.Random(1)
    health = Fixed(standings={"a": Standing(open_share=0.25)})
    first = Counter(plan.order((), health, rng, NOW)[0].endpoint.name for _ in range(4000))
    assert first["a"] / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_slow_start_gives_a_share_among_equals_and_nothing_to_the_next_step() -> None:
    gpu = provider("gpu", endpoint("old", "gpu"), endpoint("new", "gpu"))
    r = route("m", "gpu/x", "cloud/y")
    plan, rng = RoutePlan(graph(r, providers=(gpu,)), r), random.Random(1)
    health = Fixed(standings={"new": Standing(slow_share=0.2)})
    orders = [names(list(plan.order((), health, rng, NOW))) for _ in range(4000)]
    assert Counter(o[0] for o in orders)["new"] / 4000 == pytest.approx(0.1, abs=0.02)
    assert {o[2] for o in orders} == {"cloud"}
    alone = Fixed(standings={"new": Standing(slow_share=0.2), "old": Standing(DOWN)})
    assert {names(list(plan.order((), alone, rng, NOW)))[0] for _ in range(50)} == {"new"}


def test_the_engines_own_gauges_count_where_all_of_a_group_have_them() -> None:
    gpu = provider("gpu", endpoint("a", "gpu"), endpoint("b", "gpu"), balance=Balance.LEAST_BUSY)
    r = route("m", "gpu/x")
    g = graph(r, providers=(gpu,))
    assert names(order(g, r, Fixed({}, {"a": 0, "b": 9}, loads={"a": 20, "b": 10})))[0] == "b"
    assert names(order(g, r, Fixed({}, {"a": 0, "b": 9}, loads={"b": 10})))[0] == "a"


def test_a_plan_says_what_it_needs_to_know() -> None:
    cases = ((Balance.PREFIX_HASH, True, False), (Balance.LATENCY, False, True), (Balance.WEIGHTED, False, False))
    for balance, key, latency in cases:
        two = provider("p", endpoint("a"), endpoint("b"), balance=balance)
        one = provider("p", endpoint("a"), balance=balance)
        r = route("m", "p/x")
        plan = RoutePlan(graph(r, providers=(two,)), r)
        assert (plan.needs_key, plan.needs_latency) == (key, latency)
        alone = RoutePlan(graph(r, providers=(one,)), r)
        assert (alone.needs_key, alone.needs_latency) == (False, False)


def test_a_conversation_stays_at_its_endpoint() -> None:
    gpu = provider("gpu", *(endpoint(f"g{i}", "gpu") for i in range(5)), balance=Balance.PREFIX_HASH)
    r = route("m", "gpu/x")
    plan = RoutePlan(graph(r, providers=(gpu,)), r)
    for key in range(1, 50):
        firsts = {plan.order((), Fixed(), random.Random(seed), NOW, key=key)[0].endpoint.name for seed in range(5)}
        assert len(firsts) == 1


def test_a_route_without_a_usable_target_has_an_empty_plan() -> None:
    r = route("m", group(target("off/x"), target("off/y")))
    assert order(graph(r, providers=(provider("off", disabled="no key"),)), r) == []


def test_captured_parts_fill_the_upstream_name_only() -> None:
    r = route("*/*", "p/{1}-{2}", "q/fixed")
    planned = order(graph(r), r, captured=("a", "b/c"))
    assert [(p.model, p.target.label) for p in planned] == [("a-b/c", "p/{1}-{2}"), ("fixed", "q/fixed")]


def test_a_direct_name_reaches_its_provider_with_the_rest_of_the_name() -> None:
    g = graph(providers=(provider("openrouter", direct=True),))
    found = resolve(g, "openrouter/x/y:free")
    assert [p.model for p in order(g, found.route, captured=found.captured)] == ["x/y:free"]
    assert found.route.chain[0].targets[0].label == "openrouter/{1}"


def test_entries_are_numbered_by_their_place() -> None:
    gpu = provider("gpu", endpoint("a", "gpu"), endpoint("b", "gpu"))
    r = route("m", "gpu/x", group(target("c/x"), target("d/y")))
    plan = RoutePlan(graph(r, providers=(gpu,)), r)
    for seed in range(20):
        for planned in plan.order((), Fixed(), random.Random(seed), NOW):
            assert plan.entries[planned.index] is planned


# ── what providers offer ──


def test_a_target_that_does_not_offer_what_was_asked_is_left_out() -> None:
    chat_only = provider("a", offers={"chat": "chat/completions"})
    plan = RoutePlan(graph(route("m", "a/x", "b/x"), providers=(chat_only,)), route("m", "a/x", "b/x"))
    assert [entry.endpoint.name for entry in plan.order((), Fixed(), random.Random(0), 0.0)] == ["a", "b"]
    assert [entry.endpoint.name for entry in plan.order((), Fixed(), random.Random(0), 0.0, "embedding")] == ["b"]


def test_a_form_is_offered_by_its_path() -> None:
    images = provider("a", offers={"image_edit": "images/edits"})
    plan = RoutePlan(graph(route("m", "a/x"), providers=(images,)), route("m", "a/x"))
    assert plan.order((), Fixed(), random.Random(0), 0.0, "images/edits")
    with pytest.raises(BadRequest) as caught:
        plan.order((), Fixed(), random.Random(0), 0.0, "chat")
    assert caught.value.code == "unsupported_operation"


def test_a_suffix_is_added_once() -> None:
    suffixed = provider("a", model_suffix=":free")
    made = route("m/*", "a/x", "a/y:free", "a/{1}")
    plan = RoutePlan(graph(made, providers=(suffixed,)), made)
    models = [entry.model for entry in plan.order(("z",), Fixed(), random.Random(0), 0.0)]
    assert models == ["x:free", "y:free", "z:free"]
    assert [entry.model for entry in plan.order(("z:free",), Fixed(), random.Random(0), 0.0)][2] == "z:free"


# ── the chain for prompts that are too long ──


def test_the_overflow_is_numbered_on_and_ordered_by_its_own_rules() -> None:
    p = provider("p", endpoint("p1", "p"), endpoint("p2", "p"))
    compiled = RoutePlan(graph(made := route("x-*", "a/{1}", overflow=route("o", "b/{1}", "p/long").chain), providers=(p,)), made)
    assert [entry.index for entry in compiled.every] == [0, 1, 2, 3]
    assert [entry.model for entry in compiled.order(("7",), Fixed(), random.Random(0), 0.0)] == ["7"]
    found = compiled.order(("7",), Fixed(cooling={"b": 9.0}), random.Random(0), 0.0, overflow=True)
    assert sorted((entry.endpoint.name, entry.model) for entry in found) == [("b", "7"), ("p1", "long"), ("p2", "long")]
    assert found[-1].endpoint.name == "b"
    assert all(compiled.every[entry.index].endpoint is entry.endpoint for entry in found)


def test_without_an_overflow_or_an_offer_there_is_none() -> None:
    picky = provider("picky", offers={"embedding": "embeddings"})
    made = route("m", "a/x", overflow=route("o", "picky/x").chain)
    assert RoutePlan(graph(made, providers=(picky,)), made).order((), Fixed(), random.Random(0), 0.0, overflow=True) == ()
    assert RoutePlan(graph(plain := route("m", "a/x")), plain).order((), Fixed(), random.Random(0), 0.0, overflow=True) == ()
