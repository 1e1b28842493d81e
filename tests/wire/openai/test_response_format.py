"""Both forms of a structured answer's schema, and everything that is neither."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.graph import Params
from routerd.wire import parse_request, prepare_body
from routerd.wire.openai.response_format import flattened, nested

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
NESTED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
FLAT = {"type": "json_schema", "schema": SCHEMA}
NEITHER = [{"type": "text"}, {"type": "json_object"}, {"type": "json_object", "schema": SCHEMA}, "text", None, [], {"schema": 1}]


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_each_form_becomes_the_other_and_stays_itself() -> None:
    assert plain(flattened(raw(NESTED))) == FLAT
    assert plain(flattened(raw(FLAT))) == FLAT
    assert plain(nested(raw(FLAT))) == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert nested(NESTED) is NESTED


@pytest.mark.parametrize("value", NEITHER)
def test_what_is_neither_form_keeps_its_bytes(value: Any) -> None:
    given_raw = raw(value)
    assert nested(given_raw) is given_raw
    assert flattened(given_raw) is given_raw


def test_a_client_may_send_the_flat_form_for_every_target() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": FLAT}
    request = parse_request(json.dumps(body).encode(), "chat", "chat/completions")
    made = prepare_body(request, system_prompt=None, params=Params())
    assert plain(made["response_format"])["json_schema"]["schema"] == SCHEMA


JSON = st.recursive(
    st.none() | st.sampled_from(["json_schema", "text", 1]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "schema", "json_schema", "name"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON)
def test_there_and_back_loses_no_schema(value: Any) -> None:
    there = plain(flattened(nested(raw(value))))
    if isinstance(value, dict) and value.get("type") == "json_schema" and "schema" in value and "json_schema" not in value:
        assert there["schema"] == value["schema"]
