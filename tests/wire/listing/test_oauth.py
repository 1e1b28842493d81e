"""What is sent to a token endpoint, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.graph import ClientCredentials, Secret
from routerd.wire.listing.oauth import TokenRefused, read_token, token_request


def source(**more: Any) -> ClientCredentials:
    return ClientCredentials(token_url="http://l/t", client_id="me&you", client_secret=Secret("s=1 %"), **more)


def answer(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_form_is_escaped_and_has_the_scope_where_there_is_one() -> None:
    headers, body = token_request(source(scope="a b"))
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(body.decode()) == {
        "grant_type": ["client_credentials"], "client_id": ["me&you"], "client_secret": ["s=1 %"], "scope": ["a b"],
    }  # fmt: skip
    assert b"scope" not in token_request(source())[1]


def test_json_has_the_same_fields() -> None:
    headers, body = token_request(source(body="json"))
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {"grant_type": "client_credentials", "client_id": "me&you", "client_secret": "s=1 %"}


@pytest.mark.parametrize(
    ("said", "lifetime_s"),
    [(60, 60.0), ("120", 120.0), (None, 3600.0), ("soon", 3600.0), (True, 3600.0), (-5, 1.0), (0, 1.0), (1e12, 30 * 86400.0),
     ("nan", 3600.0), ([], 3600.0), ("inf", 30 * 86400.0)],
)  # fmt: skip
def test_the_lifetime_is_bounded_and_an_hour_where_nothing_sensible_is_said(said: Any, lifetime_s: float) -> None:
    assert read_token(200, answer(access_token="t", expires_in=said)) == ("t", lifetime_s)


def test_a_server_may_say_no_lifetime() -> None:
    assert read_token(201, answer(access_token="t", token_type="Bearer")) == ("t", 3600.0)


@pytest.mark.parametrize(
    ("status", "body", "final", "message"),
    [
        (401, answer(error="invalid_client", error_description="secret s=1 % is wrong"), True, " answered 401 (invalid_client)"),
        (400, answer(error="s=1 %"), True, " answered 400"),
        (429, b"", False, " answered 429"),
        (503, b"<html>", False, " answered 503"),
        (302, b"", False, " answered 302"),
        (200, b"<html>", False, "'s answer has no access_token"),
        (200, answer(access_token="two lines\r\nx: y"), False, "'s answer has no access_token"),
        (200, answer(access_token=""), False, "'s answer has no access_token"),
        (200, b"[]", False, "'s answer has no access_token"),
    ],
)
def test_an_answer_without_a_token_is_told_by_its_word_only(status: int, body: bytes, final: bool, message: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        read_token(status, body)
    assert (caught.value.final, caught.value.message) == (final, f"the token endpoint{message}")


FIELDS = st.dictionaries(
    st.sampled_from(["access_token", "expires_in", "error"]), st.text(max_size=8) | st.floats() | st.none() | st.integers()
)


@given(st.integers(100, 599), st.binary(max_size=40) | FIELDS.map(lambda fields: json.dumps(fields).encode()))
def test_any_answer_is_a_token_that_a_header_can_carry_or_a_refusal(status: int, body: bytes) -> None:
    try:
        granted = read_token(status, body)
    except TokenRefused:
        return
    assert granted.value.isascii()
    assert granted.value.isprintable()
    assert 1.0 <= granted.lifetime_s <= 30 * 86400.0
