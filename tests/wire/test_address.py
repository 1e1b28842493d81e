"""Where a request goes below a base URL, and what is added to it."""

from __future__ import annotations

import pytest

from routerd.graph import Auth, Endpoint, Provider, Secret
from routerd.wire.address import credential, own_fields, path_below, with_query


@pytest.mark.parametrize(
    ("prefix", "path", "where"),
    [
        ("/v1", "chat/completions", "/v1/chat/completions"),
        ("", "chat/completions", "/chat/completions"),
        ("/v1", "v1/messages", "/v1/messages"),
        ("/api", "v1/messages", "/api/v1/messages"),
        ("/v1", "../tokenize", "/tokenize"),
        ("/gpu/v1", "../tokenize", "/gpu/tokenize"),
        ("/gpu/v1", "../../tokenize", "/tokenize"),
        ("", "../tokenize", "/tokenize"),
        ("/v1", "", "/v1"),
        ("", "", "/"),
    ],
)
def test_a_path_is_below_the_base_url(prefix: str, path: str, where: str) -> None:
    assert path_below(prefix, path) == where


def test_a_query_joins_the_one_that_is_there() -> None:
    assert with_query("/a", "") == "/a"
    assert with_query("/a", "k=1") == "/a?k=1"
    assert with_query("/a?b=2", "k=1") == "/a?b=2&k=1"


@pytest.mark.parametrize(
    ("auth", "token", "found"),
    [
        (Auth(secret=Secret("s")), "", ({"authorization": "Bearer s"}, "")),
        (Auth(type="header", name="X-Key", prefix="", secret=Secret("s")), "", ({"x-key": "s"}, "")),
        (Auth(type="query", name="a key", prefix="", secret=Secret("s s")), "", ({}, "a%20key=s%20s")),
        (Auth(type="none", secret=Secret("s")), "", ({}, "")),
        (Auth(), "", ({}, "")),
        (Auth(type="oauth_client_credentials"), "t", ({"authorization": "Bearer t"}, "")),
    ],
)
def test_a_credential_stands_where_the_provider_wants_it(auth: Auth, token: str, found: tuple[dict[str, str], str]) -> None:
    assert credential(auth, token) == found


def test_the_providers_fields_win_over_those_of_a_request_and_those_over_the_dialects() -> None:
    endpoints = (Endpoint(name="p", provider="p", url="http://p"),)
    plain = Provider(name="p", dialect="anthropic", endpoints=endpoints)
    assert own_fields(plain, {}) == {"anthropic-version": "2023-06-01"}
    assert own_fields(plain, {"anthropic-version": "2024-01-01"}) == {"anthropic-version": "2024-01-01"}
    mine = Provider(name="p", dialect="openai", endpoints=endpoints, headers={"Accept": "a", "X-B": "b"})
    assert own_fields(mine, {"accept": "c", "host": "h"}) == {"accept": "a", "host": "h", "x-b": "b"}
