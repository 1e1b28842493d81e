"""OpenAI requests as typed records, and the bytes of answers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.messages import Usage
from routerd.wire.translation.compose import Chunks, made_id, tool_call
from routerd.wire.translation.pivot import data_uri, dump, merged, read_chat
from tests.wire.translated import JSON, call, chunks, raw


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": 7}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"role": "user"}, {"content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [], "max_tokens": "7"}, "max_tokens"),
        ({"messages": [], "tools": [{"function": {}}]}, "tools[0].function"),
        ({"messages": [], "response_format": "json"}, "response_format"),
    ],
)
def test_what_has_the_wrong_type_is_named_by_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_chat(raw(body), call())
    assert caught.value.param == param


def test_deep_nesting_and_half_a_surrogate_pair_are_the_clients_fault() -> None:
    for text in (b'[{"role":"user","content":"\\ud83d"}]', b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises(BadRequest):
            read_chat({"messages": msgspec.Raw(text)}, call())


def test_unknown_fields_anywhere_are_no_fault() -> None:
    chat = read_chat(raw({"messages": [{"role": "user", "content": "x", "cache_control": {}}], "venice_parameters": {}}), call())
    assert chat.messages[0].content == "x"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("data:image/png;base64,AA==", ("image/png", "AA==")),
        ("data:image/png;name=a.png;base64,AA==", ("image/png", "AA==")),
        ("DATA:IMAGE/PNG;BASE64,A A\n==", ("image/png", "AA==")),
        ("data:image/png;base64,AA%3D%3D", ("image/png", "AA==")),
        ("data:,a%20b", ("text/plain", "YSBi")),
        ("data:text/plain;charset=utf-8,é", ("text/plain", "w6k=")),
        ("https://h/a.png", None),
        ("", None),
    ],
)
def test_data_uris(url: str, found: Any) -> None:
    assert data_uri(url, "p") == found


def test_a_data_uri_without_a_comma_is_refused() -> None:
    for bad in ("data:", "data:image/png;base64", "data:" + "x" * 500 + ","):
        with pytest.raises(BadRequest):
            data_uri(bad, "p")


@given(st.text())
def test_any_url_is_read_or_refused(url: str) -> None:
    for text in (url, "data:" + url, "data:image/png;base64," + url):
        try:
            data_uri(text, "p")
        except BadRequest:
            pass


def test_merging_wins_at_leaves_and_changes_neither_side() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": [1], "e": 1}, {"a": {"b": 3}, "d": [2], "e": {"f": 1}}
    assert merged(old, new) == {"a": {"b": 3, "c": 2}, "d": [2], "e": {"f": 1}}
    assert old == {"a": {"b": 1, "c": 2}, "d": [1], "e": 1}


@given(JSON)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    once = json.loads(dump(value))
    assert json.loads(dump(once)) == once
    assert isinstance(value, (float, list, dict)) or once == value


def test_half_a_surrogate_pair_becomes_a_replacement() -> None:
    assert json.loads(dump({"a\ud83d": ["\ude00b", "\ud83d\ude00"]})) == {"a\ufffd": ["\ufffdb", "\U0001f600"]}


def test_every_kind_of_chunk_is_one_the_sdk_knows() -> None:
    made = Chunks(call(asked_model='m"\n'), answer_id="x", created_unix_s=5)
    calls = tool_call("c1", "f", b'{ "a" : [1, 2.50] }', {"google": {}})
    out = [
        made.role(1),
        made.text(1, b'"a\\n"'),
        made.text(0, b'"b"', {"content": [], "refusal": None}),
        made.reasoning(0, b'"hm"'),
        made.tool_call(0, 2, calls),
        made.finish(0, "tool_calls"),
        made.usage(Usage(input_tokens=3, output_tokens=2, cached_tokens=1, reasoning_tokens=1)),
    ]
    assert made.text0 + b'"b"' + made.end == made.text(0, b'"b"')
    role, text, lp, thought, called, finish, usage = chunks(b"".join(out))
    assert {c.model for c in (role, usage)} == {'m"\n'}
    assert {(c.id, c.created) for c in (role, usage)} == {("chatcmpl-x", 5)}
    assert (role.choices[0].index, role.choices[0].delta.role, text.choices[0].delta.content) == (1, "assistant", "a\n")
    assert lp.choices[0].logprobs is not None
    assert thought.choices[0].delta.model_extra == {"reasoning_content": "hm"}
    [delta] = called.choices[0].delta.tool_calls or ()
    assert delta.function is not None
    assert (delta.index, delta.id, delta.function.arguments) == (2, "c1", '{"a":[1,2.50]}')
    assert finish.choices[0].finish_reason == "tool_calls"
    assert usage.usage is not None
    assert (usage.choices, usage.usage.total_tokens) == ([], 5)


def test_a_made_id_fits_every_provider() -> None:
    assert made_id("r1", 0, 2) == "call_r1_0_2"
    assert made_id('a b"é' + "x" * 100, 1) == "call_a-b--" + "x" * 35 + "_1"
