"""Rules of keys and of the models a client may name."""

from __future__ import annotations

import hashlib

import pytest

from routerd.errors import Unauthorized
from routerd.graph import Client, Pattern
from routerd.policy import ClientIndex, allowed


def client(name: str, key: str | bytes, *models: str) -> Client:
    raw = key.encode() if isinstance(key, str) else key
    return Client(name=name, key_sha256=hashlib.sha256(raw).digest(), models=tuple(Pattern.parse(m) for m in models))


def test_without_a_clients_block_anybody_is_nobody() -> None:
    assert ClientIndex(None).authenticate(None) is None
    assert ClientIndex(None).authenticate("whatever") is None


def test_an_empty_clients_block_lets_nobody_in() -> None:
    with pytest.raises(Unauthorized):
        ClientIndex({}).authenticate("key")


def test_a_key_finds_its_client_and_no_other() -> None:
    index = ClientIndex({"a": client("a", "key-a"), "b": client("b", "schlüssel-b")})
    for key, name in (("key-a", "a"), ("schlüssel-b", "b")):
        found = index.authenticate(key)
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize("key", [None, "", "key", "key-a ", "KEY-A", "\udcff", "k" * 100_000])
def test_any_other_key_is_unauthorized(key: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        ClientIndex({"a": client("a", "key-a")}).authenticate(key)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"] == "Bearer"
    assert "key-a" not in caught.value.message


def test_a_key_of_bytes_that_are_no_utf8_still_matches() -> None:
    found = ClientIndex({"a": client("a", b"\xff\xfe")}).authenticate(b"\xff\xfe".decode("utf-8", "surrogateescape"))
    assert found is not None


def test_a_key_with_impossible_characters_is_refused_not_a_crash() -> None:
    with pytest.raises(Unauthorized):
        ClientIndex({"a": client("a", "key-a")}).authenticate("\ud800")


def test_the_digest_itself_is_no_key() -> None:
    one = client("a", "key-a")
    with pytest.raises(Unauthorized):
        ClientIndex({"a": one}).authenticate(one.key_sha256.hex())


def test_no_list_allows_all_and_a_list_only_what_it_matches() -> None:
    assert allowed(None, "x")
    assert allowed(client("a", "k"), "x")
    some = client("a", "k", "fast", "gpt-*")
    assert allowed(some, "gpt-4")
    assert not allowed(some, "claude", "gpt-")


def test_either_name_is_enough() -> None:
    some = client("a", "k", "fast")
    assert allowed(some, "fast", "qwen3-32b")
    assert allowed(some, "other-alias", "fast")
    assert not allowed(some, "qwen3-32b")
