"""Rules of explain: the same decision as traffic gets, with the why and the where."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from routerd.errors import Forbidden, ModelNotFound
from routerd.graph import Balance, Clamp, Client, Failover, Graph, Params, Pattern, SystemPrompt, Timeouts
from routerd.plan import Explanation, RoutePlan, TargetLine, explain, resolve
from tests.plan.build import Fixed, endpoint, graph, group, provider, route, target

ORIGINS = {
    "models.m": "routes.yaml:10:3",
    "models.m.params.defaults.temperature": "routes.yaml:12:7",
    "models.m.params.clamp": "routes.yaml:13:5",
    "models.m.chain[0]": "routes.yaml:20:7",
    "models.m.chain[1].any_of": "routes.yaml:21:7",
    "models.m.chain[1].any_of[1]": "routes.yaml:23:9",
    "models.m.chain[0].timeouts.connect": "routes.yaml:20:40",
    "models.m.timeouts.idle": "routes.yaml:30:5",
    "providers.gpu.timeouts.idle": "routes.yaml:3:5",
    "defaults.timeouts.total": "base.yaml:2:3",
}


def case() -> Graph:
    gpu = provider("gpu", endpoint("gpu-a", "gpu"), endpoint("gpu-b", "gpu", max_concurrent=2), balance=Balance.LEAST_BUSY)
    params = Params(
        defaults={"temperature": 1.6, "stop": ["x"]},
        clamp={"temperature": Clamp(min=0, max=1.2)},
        force={"seed": 7},
        drop=("logit_bias",),
    )
    m = route(
        "m",
        target("gpu/big", params=Params(defaults={"temperature": 0.1, "top_p": 0.5}), timeouts=Timeouts(connect_s=1.0)),
        group(target("a/x", weight=3), target("b/y", weight=1)),
        "off/z",
        aliases=("fast",),
        params=params,
        system_prompt=SystemPrompt(text="be brief", mode="prepend"),
        failover=Failover(max_attempts=3, deadline_s=120.0),
        budgets=("route-budget",),
    )
    return graph(m, route("*/*", "p/{1}-{2}"), providers=(gpu, provider("off", disabled="no key")))


def line(found: Explanation, label: str, endpoint_name: str = "") -> TargetLine:
    return next(t for t in found.targets if t.label == label and endpoint_name in ("", t.endpoint))


def test_the_order_is_the_one_that_serves() -> None:
    g, health = case(), Fixed({"gpu-a": 50.0}, {"gpu-b": 2})
    found = explain(g, "m", health=health, now_s=40.0)
    plan = RoutePlan(g, resolve(g, "m").route).order((), health, random.Random(0), 40.0)
    assert [(t.label, t.endpoint) for t in found.targets if t.position] == [(p.target.label, p.endpoint.name) for p in plan]
    assert [t.position for t in found.targets] == [1, 2, 3, 4, 0]


def test_a_target_says_why_it_is_where_it_is() -> None:
    found = explain(case(), "m", health=Fixed({"gpu-a": 50.0}, {"gpu-b": 2}), now_s=40.0)
    assert "full, 2 of 2 in flight: goes behind what is free" in line(found, "gpu/big", "gpu-b").why
    cooling = line(found, "gpu/big", "gpu-a")
    assert "cools down for 10.0 s: goes last" in cooling.why
    assert "max_attempts 3 are used up before it" in cooling.why
    assert line(found, "a/x").why[0] == "drawn first in 75 % of the group"
    assert line(found, "off/z").why == ("provider 'off' is disabled: no key",)


def test_the_labels_of_an_endpoint_are_shown() -> None:
    gpu = provider("gpu", endpoint("gpu-a", "gpu", labels={"gpus": "3xL40S", "rack": "7"}))
    found = explain(graph(route("m", "gpu/big"), providers=(gpu,)), "m", now_s=0.0)
    assert "labels gpus=3xL40S, rack=7" in line(found, "gpu/big").why


def test_an_endpoint_thought_away_goes_last() -> None:
    found = explain(case(), "m", down=["gpu-a", "gpu-b"])
    assert {t.endpoint for t in found.targets if t.position > 2} == {"gpu-a", "gpu-b"}
    assert "thought away: goes last" in line(found, "gpu/big", "gpu-a").why


def test_every_value_says_where_it_was_written() -> None:
    found = explain(case(), "fast", origins=ORIGINS)
    assert (found.via, found.origin) == ("alias", "routes.yaml:10:3")
    places = {s.name: s.origin for s in found.params}
    assert places["defaults.temperature"] == "routes.yaml:12:7"
    assert places["clamp.temperature"] == "routes.yaml:13:5"
    assert places["force.seed"] == ""
    assert line(found, "b/y").origin == "routes.yaml:23:9"
    assert line(found, "gpu/big").origin == "routes.yaml:20:7"


def test_a_timeout_names_the_most_specific_place() -> None:
    big = {s.name: (s.value, s.origin) for s in line(explain(case(), "m", origins=ORIGINS), "gpu/big").timeouts}
    assert big["connect"] == (1.0, "routes.yaml:20:40")
    assert big["idle"] == (60.0, "routes.yaml:30:5")
    assert big["total"] == (900.0, "base.yaml:2:3")
    assert big["stream_total"] == (None, "built in")


def test_what_is_sent_is_the_route_then_the_target() -> None:
    sends = {s.name: s.value for s in line(explain(case(), "m"), "gpu/big").sends}
    assert sends == {"temperature": 1.2, "stop": ["x"], "seed": 7, "top_p": 0.5}


def test_a_pattern_fills_names() -> None:
    found = explain(case(), "deep/seek/r1")
    assert (found.via, found.captured, found.targets[0].label) == ("pattern", ("deep", "seek/r1"), "p/deep-seek/r1")


def test_a_direct_name_is_explained() -> None:
    g = graph(providers=(provider("openrouter", direct=True),))
    found = explain(g, "openrouter/x/y", origins={"providers.openrouter.direct": "r.yaml:5:1"})
    assert (found.via, found.origin, found.targets[0].label) == ("direct", "r.yaml:5:1", "openrouter/x/y")


def test_what_a_request_is_refused_explain_refuses() -> None:
    g = case()
    mobile = Client(name="mobile", key_sha256=b"", models=(Pattern.parse("gpt-*"),))
    with pytest.raises(Forbidden):
        explain(g, "m", client=mobile)
    with pytest.raises(ModelNotFound) as caught:
        explain(g, "mm", client=mobile)
    assert "mean" not in caught.value.message
    assert explain(g, "m", client=replace(mobile, models=(Pattern.parse("fast"), Pattern.parse("m")))).client == "mobile"


def test_failover_and_retry_name_their_places() -> None:
    origins = {**ORIGINS, "models.m.failover.max_attempts": "routes.yaml:40:3", "defaults.retry.backoff.max": "base.yaml:5:3"}
    found = explain(case(), "m", origins=origins)
    failover = {one.name: (one.value, one.origin) for one in found.failover}
    assert failover["max_attempts"] == (3, "routes.yaml:40:3")
    assert failover["deadline"] == (120.0, "built in")
    assert {one.name: one.origin for one in found.retry} == {
        "attempts": "built in", "backoff.first": "built in", "backoff.factor": "built in", "backoff.max": "base.yaml:5:3",
        "backoff.jitter": "built in",
    }  # fmt: skip


def test_an_alias_and_a_prompt_name_their_places() -> None:
    under = explain(case(), "fast", origins={"models.m.aliases[0]": "r.yaml:2:1", "models.m.system_prompt.text": "r.yaml:3:1"})
    assert (under.alias_origin, under.system_prompt_origin) == ("r.yaml:2:1", "r.yaml:3:1")
    assert explain(case(), "m", origins={"models.m.aliases[0]": "r.yaml:2:1"}).alias_origin == ""
    table = replace(case(), aliases={"quick": "m"})
    assert explain(table, "quick", origins={"aliases.quick": "r.yaml:9:1"}).alias_origin == "r.yaml:9:1"


def test_an_empty_plan_has_only_what_was_left_out() -> None:
    g = graph(route("m", "off/x"), providers=(provider("off", disabled="no key"),))
    assert [(t.position, t.why) for t in explain(g, "m").targets] == [(0, ("provider 'off' is disabled: no key",))]


def test_a_target_that_does_not_offer_the_operation_is_shown_as_skipped() -> None:
    g = graph(route("m", "a/x", "b/x"), providers=(provider("a", offers={"chat": "chat/completions"}),))
    assert [(line.label, line.position) for line in explain(g, "m").targets] == [("a/x", 1), ("b/x", 2)]
    lines = explain(g, "m", operation="embedding").targets
    assert [(line.label, line.position) for line in lines] == [("b/x", 1), ("a/x", 0)]
    assert lines[1].why == ("provider 'a' does not offer embedding",)
