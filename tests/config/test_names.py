"""Patterns: which one is unreachable, which two overlap, checked against trying names."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.config import Loaded
from routerd.config.compile.names import FRESH, overlap
from routerd.graph import Pattern

LoadText = Callable[..., Loaded]
HEAD = "version: 1\nproviders:\n  demo: {dialect: simulator}\n"
TEXTS = st.text("ab/*", min_size=1, max_size=6)
# Every name of up to five characters over the letters of the patterns, and one more that no pattern has.
NAMES = ["".join(chars) for n in range(1, 6) for chars in itertools.product("abz/", repeat=n)]


@given(TEXTS, TEXTS)
@settings(max_examples=150, deadline=None)
def test_overlap_says_yes_if_some_name_matches_both(one: str, two: str) -> None:
    first, second = Pattern.parse(one), Pattern.parse(two)
    common = [name for name in NAMES if first.match(name) is not None and second.match(name) is not None]
    if common:
        assert overlap(one, two), common[0]
    elif len(one) + len(two) <= 5:  # short patterns have a short common name if they have one
        assert not overlap(one, two)


@given(TEXTS, TEXTS)
@settings(max_examples=150, deadline=None)
def test_a_sample_decides_whether_one_pattern_covers_another(one: str, two: str) -> None:
    first, second = Pattern.parse(one), Pattern.parse(two)
    covers = first.match(two.replace("*", FRESH)) is not None
    if covers:
        assert all(first.match(name) is not None for name in NAMES if second.match(name) is not None)
        assert first.literal_chars <= second.literal_chars


@pytest.mark.parametrize(
    ("names", "lost"),
    [(["a*", "a**"], "a**"), (["a**", "a*"], None), (["*", "**"], "**"), (["*/*", "*"], None), (["*a", "a*"], None)],
)
def test_an_unreachable_pattern_is_told(
    load_text: LoadText, problems_of: Callable[..., list[str]], names: list[str], lost: str | None
) -> None:
    doc = HEAD + "models:\n" + "".join(f"  '{name}': {{chain: ['demo/x']}}\n" for name in names)
    if lost is None:
        assert load_text(doc)
    else:
        (found,) = problems_of(doc)
        assert f"the pattern {lost!r} is never reached" in found


def test_patterns_are_in_order_of_literals_then_of_the_file(load_text: LoadText) -> None:
    names = ["*", "b*", "a*", "*/*", "abc-*"]
    graph = load_text(HEAD + "models:\n" + "".join(f"  '{name}': {{chain: ['demo/x']}}\n" for name in names)).graph
    assert [route.name for route in graph.patterns] == ["abc-*", "b*", "a*", "*/*", "*"]
    assert list(graph.routes) == names


def test_an_alias_of_an_alias_ends_at_the_route(load_text: LoadText) -> None:
    graph = load_text(HEAD + "models: {m: {chain: [demo/x], aliases: [n]}}\naliases: {a: b, b: n, c: m}\n").graph
    assert graph.aliases == {"n": "m", "a": "m", "b": "m", "c": "m"}


@pytest.mark.parametrize(
    ("asked", "warned"),
    [
        ("m", False),
        ("n", False),
        ("m*", True),
        ("x", True),
        ("gpt-*", True),
        ("*", False),
        ("or/*", False),
        ("or/x/y", False),
        ("or", True),
        ("p-*", False),
        ("*-q", False),
        ("p-1", False),
    ],
)
def test_a_client_pattern_that_matches_nothing_is_a_warning(load_text: LoadText, asked: str, warned: bool) -> None:
    doc = (
        "version: 1\nproviders:\n  demo: {dialect: simulator}\n  or: {base_url: 'http://a/v1', direct: true}\n"
        "models: {m: {chain: [demo/x], aliases: [n]}, 'p-*': {chain: ['demo/{1}']}}\n"
        + f"clients: {{c: {{key: k, models: ['{asked}']}}}}\n"
    )
    found = [problem.code for problem in load_text(doc).warnings]
    assert found == (["unused-pattern"] if warned else [])


@pytest.mark.parametrize(
    ("more", "models", "warned"),
    [("", "m", True), (", direct: true", "m", False),
     ("", "up/*", False), ("", "*/x", False), ("", "v*", True), ("", "u*", False)],
)  # fmt: skip
def test_models_that_are_found_and_cannot_be_asked_for_are_a_warning(
    load_text: LoadText, more: str, models: str, warned: bool
) -> None:
    doc = HEAD + f"  up: {{base_url: 'http://a/v1', discover: true{more}}}\nmodels: {{'{models}': {{chain: [demo/x]}}}}\n"
    assert [problem.code for problem in load_text(doc).warnings] == (["unreachable"] if warned else [])
