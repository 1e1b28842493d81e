"""Which found models are offered: those whose names lead somewhere."""

from __future__ import annotations

from dataclasses import replace

from routerd.graph import Discover
from routerd.plan import Resolver, found_names
from tests.plan.build import graph, provider, route


def names(*, direct: bool = False, disabled: str = "", pattern: str = "", found: str | None = "x/y\nz") -> list[tuple[str, str]]:
    one = replace(provider("a"), discover=Discover(), direct=direct, disabled=disabled)
    routes = [route("m", "a/named"), *([route(pattern, "a/{1}")] if pattern else [])]
    built = graph(*routes, providers=(one, provider("b")))
    return list(found_names(built, {"a": found, "b": "no"}, Resolver(built).pattern_of))


def test_the_models_of_a_direct_provider_are_offered() -> None:
    assert names(direct=True) == [("a/x/y", "a/*"), ("a/z", "a/*")]


def test_of_another_provider_those_that_a_pattern_takes() -> None:
    assert names() == []
    assert names(pattern="a/x/*") == [("a/x/y", "a/x/*")]


def test_a_disabled_provider_offers_nothing() -> None:
    assert names(direct=True, disabled="no key") == []


def test_until_a_list_is_known_the_models_of_the_file_stand_in() -> None:
    assert names(direct=True, found=None) == [("a/named", "a/*")]
    assert names(direct=True, found="") == []
