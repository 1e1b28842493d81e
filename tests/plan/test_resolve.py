"""Rules of names: precedence, captures, did-you-mean, bounded memory and bounded work."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ModelNotFound
from routerd.graph import Failover, Graph, Pattern, Retry, Route
from routerd.plan import Resolver, resolve
from routerd.plan.resolve import CACHE_NAMES, PatternIndex
from tests.plan.build import graph, provider, route

names = st.text(alphabet="ab/-*", min_size=1, max_size=10)
pieces = st.text(alphabet="ab/-", max_size=3)
patterns = st.lists(pieces, min_size=2, max_size=4).map("*".join)


def small() -> Graph:
    return graph(
        route("gpt-4", "p/gpt-4", aliases=("fast", "openrouter/pinned")),
        route("openrouter/exact", "p/x"),
        route("gpt-*", "p/gpt-{1}"),
        route("openrouter/z*", "p/{1}"),
        route("*/*", "p/{1}/{2}"),
        route("off", "p/off", enabled=False),
        providers=(provider("openrouter", direct=True), provider("closed")),
    )


@pytest.mark.parametrize(
    ("asked", "name", "captured", "via"),
    [
        ("gpt-4", "gpt-4", (), "exact"),
        ("openrouter/exact", "openrouter/exact", (), "exact"),
        ("fast", "gpt-4", (), "alias"),
        ("openrouter/pinned", "gpt-4", (), "alias"),
        ("openrouter/z/y", "openrouter/*", ("z/y",), "direct"),
        ("gpt-5", "gpt-*", ("5",), "pattern"),
        ("closed/a/b", "*/*", ("closed", "a/b"), "pattern"),
        ("gpt-*", "gpt-*", ("*",), "pattern"),
    ],
)
def test_exact_beats_alias_beats_direct_beats_pattern(asked: str, name: str, captured: tuple[str, ...], via: str) -> None:
    resolver = Resolver(small())
    for _ in range(2):  # the second answer comes from memory and is the same
        found = resolver.resolve(asked)
        assert (found.route.name, found.captured, found.via) == (name, captured, via)


def test_a_direct_name_needs_a_model() -> None:
    assert resolve(small(), "openrouter/z").via == "direct"
    with pytest.raises(ModelNotFound):
        resolve(small(), "openrouter/")


def test_a_disabled_route_says_so() -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve(small(), "off")
    assert (caught.value.code, caught.value.status, caught.value.param) == ("model_disabled", 404, "model")


@pytest.mark.parametrize("asked", ["gpt4", "GPT-4x", "gtp-4", "gp-4"])
def test_a_typo_is_answered_with_the_name_that_was_meant(asked: str) -> None:
    only = graph(route("gpt-4", "p/m"), route("llama-3", "p/m"), route("off-4", "p/m", enabled=False))
    with pytest.raises(ModelNotFound, match=r"Did you mean 'gpt-4'\?") as caught:
        resolve(only, asked)
    assert caught.value.code == "model_not_found"


def test_the_hint_names_nothing_the_client_may_not_see() -> None:
    only = graph(route("secret-model", "p/m"), route("secret-models-9", "p/m"))
    with pytest.raises(ModelNotFound, match="secret-models-9"):
        resolve(only, "secret-modex", lambda name: name.endswith("9"))
    with pytest.raises(ModelNotFound) as caught:
        resolve(only, "secret-modex", lambda _: False)
    assert "mean" not in caught.value.message


def test_a_disabled_name_is_no_hint() -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve(graph(route("gpt-4", "p/m", enabled=False)), "gpt-44")
    assert "mean" not in caught.value.message


def test_a_message_carries_neither_control_characters_nor_a_long_name() -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve(small(), "a\r\nb\x1b" + "x" * 5000)
    assert len(caught.value.message) < 160
    assert caught.value.message.isprintable()


def test_a_typo_anywhere_in_a_name_is_found_among_thousands() -> None:
    many = graph(*(route(f"vendor-{i % 97}/model-{i}-instruct", "p/m") for i in range(3000)))
    resolver = Resolver(many)
    meant = "vendor-5/model-2236-instruct"
    assert meant in many.routes
    for typo in (
        "vendro-5/model-2236-instruct",
        "vendor-5/modl-2236-instruct",
        "vendor-5/model-2236-instrcut",
        "vendor-5/model-2236",
    ):
        with pytest.raises(ModelNotFound, match=meant):
            resolver.resolve(typo)


def test_unknown_names_leave_nothing_behind_and_made_up_names_little() -> None:
    resolver = Resolver(small())
    for i in range(CACHE_NAMES + 500):
        resolver.resolve(f"gpt-made-up-{i}")
        with pytest.raises(ModelNotFound):
            resolver.resolve(f"nobody{i}")
    assert len(resolver._recent) == CACHE_NAMES
    assert not resolver._known


def test_a_warm_resolver_answers_the_same() -> None:
    cold, warm = Resolver(small()), Resolver(small())
    warm.warm()
    built = (warm._patterns, warm._suggester)
    assert None not in built
    assert warm.resolve("gpt-5") == cold.resolve("gpt-5")
    with pytest.raises(ModelNotFound, match="gpt-4"):
        warm.resolve("pgt-4")
    assert (warm._patterns, warm._suggester) == built


def test_ten_thousand_patterns_are_not_tried_one_by_one() -> None:
    tried = 0

    class Counted(Pattern):
        def match(self, name: str) -> tuple[str, ...] | None:
            nonlocal tried
            tried += 1
            return super().match(name)

    def counted(name: str) -> Route:
        return Route(name=name, chain=(), pattern=Counted.parse(name))

    index = PatternIndex((*(counted(f"vendor{i}/*-v{i % 7}") for i in range(10_000)), counted("*")))
    found = index.find("vendor777/x-v0")
    assert found is not None
    assert (found[0].name, found[1]) == ("vendor777/*-v0", ("x",))
    assert index.find("nobody") is not None
    assert tried <= 5


def test_nor_are_ten_thousand_that_share_their_beginning() -> None:
    index = PatternIndex(tuple(route(f"*-v{i}", "p/{1}") for i in range(10_000)))
    found = index.find("model-v777")
    assert found is not None
    assert (found[0].name, found[1]) == ("*-v777", ("model",))
    assert sum(len(index._candidates("", f"model-v{i}")) for i in range(100)) == 100


def test_a_name_nobody_has_is_cheap_to_refuse() -> None:
    resolver = Resolver(graph(*(route(f"vendor-{i % 97}/model-{i}-instruct", "p/m") for i in range(10_000))))
    with pytest.raises(ModelNotFound):
        resolver.resolve("warm")
    began = time.process_time()
    for i in range(50):
        with pytest.raises(ModelNotFound):
            resolver.resolve(f"vendor-{i}/model-{i}x-instructed")
    assert (time.process_time() - began) / 50 < 0.005  # about 0.3 ms; difflib over all names would take 100 ms


@pytest.mark.parametrize("many", [1, 2, 32])
@given(texts=st.lists(patterns, min_size=1, max_size=12, unique=True), name=names)
@settings(max_examples=200, deadline=None)  # a busy machine is no failure
def test_the_index_finds_what_trying_every_pattern_in_order_finds(many: int, texts: list[str], name: str) -> None:
    ordered = graph(*(route(text, "p/m") for text in texts)).patterns
    expected = None
    for one in ordered:
        assert one.pattern is not None
        captured = one.pattern.match(name)
        if captured is not None:
            expected = (one.name, captured)
            break
    found = PatternIndex(ordered, many).find(name)
    assert (found and (found[0].name, found[1])) == expected


@given(patterns, names)
def test_what_a_pattern_captured_rebuilds_the_name(text: str, name: str) -> None:
    captured = Pattern.parse(text).match(name)
    if captured is None:
        return
    pieces = text.split("*")
    assert pieces[0] + "".join(value + piece for value, piece in zip(captured, pieces[1:], strict=True)) == name
    assert all(captured)
    inner = captured if pieces[-1] else captured[:-1]
    assert not any("/" in value for value in inner)


def test_a_direct_name_is_retried_and_failed_over_as_its_provider_says() -> None:
    graph = small()
    own = dataclasses.replace(graph.providers["openrouter"], retry=Retry(attempts=3), failover=Failover(max_attempts=7))
    changed = dataclasses.replace(graph, providers={**graph.providers, "openrouter": own})
    route = resolve(changed, "openrouter/z").route
    assert (route.retry.attempts, route.failover.max_attempts) == (3, 7)
