"""What is a credential of a provider, and that none of its forms is left in a text."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.attempt.redaction import Redaction, secrets_of
from routerd.graph import Auth, Endpoint, Provider, Secret

KEY = 'sk/"odd+key=1'


def endpoint(url: str = "http://p/v1") -> Endpoint:
    return Endpoint(name="p", provider="p", url=url)


def provider(**more: Any) -> Provider:
    return Provider(name="p", dialect="openai", endpoints=(endpoint(),), **more)


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"auth": Auth(secret=Secret("sk-0123456"))}, {"sk-0123456"}),
        ({"auth": Auth(type="query", name="key", prefix="", secret=Secret("query-key"))}, {"query-key"}),
        ({"auth": Auth(secret=Secret("short"))}, set()),
        ({"headers": {"x-portkey-api-key": "pk-portkey", "x-portkey-provider": "deepinfra"}}, {"pk-portkey"}),
        ({"headers": {"cf-aig-authorization": "Bearer aig-token"}}, {"Bearer aig-token", "aig-token"}),
        ({"headers": {"x-org": "9f86d081884c7d659a2feaa0"}}, {"9f86d081884c7d659a2feaa0"}),
        ({"headers": {"anthropic-beta": "prompt-caching-2024-07-31"}}, set()),
        ({"body": {"options": {"api_key": "body-key-1"}, "route": "fallback"}}, {"body-key-1"}),
        ({"headers": {"ocp-apim-subscription-key": "ocp-key-1", "x-auth-token": "auth-tok", "apiKey": "plain-one"}},
         {"ocp-key-1", "auth-tok", "plain-one"}),
        ({"body": {"tokens": ["tok-in-list"], "max_tokens": 5}}, {"tok-in-list"}),
    ],
)  # fmt: skip
def test_what_looks_like_a_credential_is_one(more: dict[str, Any], found: set[str]) -> None:
    assert set(secrets_of(provider(**more), endpoint())) == found


def test_a_url_may_carry_credentials() -> None:
    url = "http://someuser:pass%2Fword@p/v1?api-version=2024-10-21&sig=abcdefgh"
    assert set(secrets_of(provider(), endpoint(url))) == {"someuser", "pass/word", "2024-10-21", "abcdefgh"}


def test_the_password_of_basic_is_one() -> None:
    value = "Basic " + base64.b64encode(b"me:pass-word").decode()
    assert "pass-word" in secrets_of(provider(headers={"authorization": value}), endpoint())
    assert secrets_of(provider(headers={"authorization": "Basic !"}), endpoint()) == ()


IN_JSON = json.dumps(KEY)[1:-1]


@pytest.mark.parametrize("form", [KEY, IN_JSON, IN_JSON.replace("/", "\\/"), quote(KEY), quote(KEY, "")])
def test_a_credential_is_found_in_every_form(form: str) -> None:
    redaction = Redaction(provider(auth=Auth(secret=Secret(KEY))), endpoint())
    assert redaction.text(f"key {form} refused") == "key *** refused"
    assert redaction.data(f'{{"m":"{form}"}}'.encode()) == b'{"m":"***"}'


@pytest.mark.parametrize("text", ["refused: sk-0123456...", "refused: sk-012345", "refused: sk-01234..."])
def test_the_beginning_of_a_credential_at_a_cut_is_taken_out(text: str) -> None:
    redaction = Redaction(provider(auth=Auth(secret=Secret("sk-0123456789"))), endpoint())
    assert redaction.text(text) == "refused: ***"


def test_the_longer_of_two_credentials_is_replaced_as_a_whole() -> None:
    redaction = Redaction(provider(headers={"a-key": "secret-value", "b-key": "secret-value-2"}), endpoint())
    assert redaction.text("secret-value-2!") == "***!"


def test_a_provider_without_credentials_changes_nothing() -> None:
    redaction = Redaction(provider(), endpoint())
    assert redaction.text("as it is") == "as it is"
    assert redaction.data(b"as it is") == b"as it is"


@given(st.text(), st.text(), st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8))
def test_no_credential_is_left_in_any_text(before: str, after: str, key: str) -> None:
    redaction = Redaction(provider(auth=Auth(secret=Secret(key))), endpoint())
    assert key not in redaction.text(f"{before}{key}{after}") or key in f"{before}***{after}"


@pytest.mark.parametrize("said", ["http://gpu-a.internal:8000", "http:\\/\\/gpu-a.internal:8000", "gpu-a.internal:8000"])
def test_the_address_of_an_endpoint_is_told_to_nobody(said: str) -> None:
    redaction = Redaction(provider(), endpoint("http://me:password@gpu-a.internal:8000/v1"))
    assert redaction.text(f"cannot reach {said}/v1/chat") == "cannot reach ***/v1/chat"
    public = Redaction(provider(), endpoint("https://api.example.com/v1"))
    assert public.text("see api.example.com or https://api.example.com/v1") == "see api.example.com or ***/v1"
