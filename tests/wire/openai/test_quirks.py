"""Quirks: what is changed, what is named, and that everything else keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.graph import Endpoint, Provider, Quirks
from routerd.wire import Call, make_dialect, parse_request
from routerd.wire.openai.quirks import RequestQuirks


def provider(foreign: tuple[str, ...] = (), offers: dict[str, str] | None = None, **quirks: Any) -> Provider:
    return Provider(
        name="p",
        dialect="openai",
        endpoints=(Endpoint(name="p", provider="p", url="http://p/v1"),),
        quirks=Quirks(**quirks),
        foreign_params=foreign,
        offers=offers or {},
    )


def sent(
    given: Provider, body: dict[str, Any], *, stream: bool = False, operation: str = "chat"
) -> tuple[Any, tuple[str, ...], str]:
    """Return the body as the upstream gets it, what was left out, and the path."""
    raw = json.dumps({"model": "m", **body}).encode()
    request = parse_request(raw, operation, {"chat": "chat/completions", "completion": "completions"}[operation])
    call = Call(operation=operation, path=request.path, model="theirs", stream=stream)
    encoded = make_dialect(given).encode(request.body, call)
    return json.loads(encoded.body), encoded.dropped, encoded.path


MESSAGES = [{"role": "user", "content": "hi"}]


def test_without_quirks_there_is_nothing_to_apply() -> None:
    assert RequestQuirks.of(provider()) is None


def test_a_refused_parameter_is_left_out_and_named() -> None:
    body, dropped, _ = sent(provider(drop_params=("logit_bias", "n")), {"messages": MESSAGES, "logit_bias": {"1": 2}})
    assert body == {"model": "theirs", "messages": MESSAGES}
    assert dropped == ("logit_bias",)


def test_parameters_of_another_vendor_do_not_arrive() -> None:
    body, dropped, _ = sent(provider(foreign=("venice_parameters",)), {"messages": MESSAGES, "venice_parameters": {"a": 1}})
    assert "venice_parameters" not in body
    assert dropped == ("venice_parameters",)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({"max_tokens": 5, "max_completion_tokens": None}, {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
    ],
)
def test_a_parameter_gets_its_name_there(body: dict[str, Any], expected: dict[str, Any]) -> None:
    renaming = provider(rename_params={"max_tokens": "max_completion_tokens"})
    assert sent(renaming, {"messages": MESSAGES, **body})[0] == {"model": "theirs", "messages": MESSAGES, **expected}


def test_names_are_those_of_chat_requests_only() -> None:
    body, _, _ = sent(provider(rename_params={"max_tokens": "x"}), {"prompt": "hi", "max_tokens": 5}, operation="completion")
    assert body["max_tokens"] == 5


def test_a_word_of_a_value_gets_its_word_there() -> None:
    wording = provider(param_values={"tool_choice": {"required": "any"}})
    assert sent(wording, {"messages": MESSAGES, "tool_choice": "required"})[0]["tool_choice"] == "any"
    assert sent(wording, {"messages": MESSAGES, "tool_choice": "auto"})[0]["tool_choice"] == "auto"
    named = {"type": "function", "function": {"name": "f"}}
    assert sent(wording, {"messages": MESSAGES, "tool_choice": named})[0]["tool_choice"] == named


def test_a_nested_schema_becomes_flat_and_a_flat_one_stays() -> None:
    flat = provider(response_format="flat")
    nested = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    expected = {"type": "json_schema", "schema": {"type": "object"}}
    assert sent(flat, {"messages": MESSAGES, "response_format": nested})[0]["response_format"] == expected
    assert sent(flat, {"messages": MESSAGES, "response_format": expected})[0]["response_format"] == expected
    assert sent(flat, {"messages": MESSAGES, "response_format": {"type": "text"}})[0]["response_format"] == {"type": "text"}


def test_developer_becomes_system_and_refused_fields_of_messages_go() -> None:
    quirky = provider(developer_role="system", drop_message_fields=("name",))
    messages = [
        {"role": "developer", "content": 'say "developer" and "name"'},
        {"role": "user", "content": "hi", "name": "ann"},
    ]
    assert sent(quirky, {"messages": messages})[0]["messages"] == [
        {"role": "system", "content": 'say "developer" and "name"'},
        {"role": "user", "content": "hi"},
    ]


def test_messages_without_such_words_keep_their_bytes() -> None:
    raw = b'[ {"role":"user",  "content":"na\\u00efve"} ]'
    out, _ = RequestQuirks(Quirks(developer_role="system"), ()).apply({"messages": msgspec.Raw(raw)}, "chat")
    assert bytes(out["messages"]) == raw


def test_messages_that_are_none_are_the_clients_fault() -> None:
    with pytest.raises(BadRequest) as caught:
        sent(provider(developer_role="system"), {"messages": ["developer"]})
    assert caught.value.param == "messages"


def test_the_usage_of_a_stream_is_not_asked_for_where_that_is_an_error() -> None:
    body, dropped, _ = sent(provider(drop_params=("stream_options",)), {"messages": MESSAGES, "stream": True}, stream=True)
    assert "stream_options" not in body
    assert dropped == ()
    body, _, _ = sent(provider(developer_role="system"), {"messages": MESSAGES, "stream": True}, stream=True)
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("value", [1, 1.0, None])
def test_a_value_that_is_accepted_is_sent(value: Any) -> None:
    body, dropped, _ = sent(provider(only_values={"n": (1,)}), {"messages": MESSAGES, "n": value})
    assert (body["n"], dropped) == (value, ())


@pytest.mark.parametrize("value", [2, 0, "1", True, [1], {"n": 1}])
def test_a_value_without_which_the_answer_would_be_another_is_refused_by_name(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(provider(only_values={"n": (1,)}, drop_params=("n",)), {"messages": MESSAGES, "n": value})
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_value")
    assert "no other `n` than 1" in caught.value.message


def test_an_accepted_value_of_a_refused_parameter_is_left_out() -> None:
    body, _, _ = sent(provider(only_values={"n": (1,)}, drop_params=("n",)), {"messages": MESSAGES, "n": 1})
    assert "n" not in body


def tool_round(*ids: Any) -> list[dict[str, Any]]:
    """Return a conversation with one call and one result for each id."""
    calls = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids]
    results = [{"role": "tool", "tool_call_id": one, "content": "ok"} for one in ids]
    return [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": calls}, *results]


def test_ids_of_tool_calls_get_the_providers_form_and_still_meet() -> None:
    nine = provider(tool_call_id_chars=9)
    given = ("call_PTLP8xhu3uwZk4l3nlnrrJha", "bAyGEuxg1", "toolu_01", "functions.weather:0", "ä" * 300, "")
    messages = sent(nine, {"messages": tool_round(*given)})[0]["messages"]
    calls = [one["id"] for one in messages[1]["tool_calls"]]
    assert calls == [one["tool_call_id"] for one in messages[2:]]
    assert len(set(calls)) == len(given)
    assert all(len(one) == 9 and one.isascii() and one.isalnum() for one in calls)
    assert calls[1] == "bAyGEuxg1"  # its own stay
    assert messages == sent(nine, {"messages": tool_round(*given)})[0]["messages"]  # the next turn of the conversation
    assert [one["content"] for one in messages[2:]] == ["ok"] * len(given)


def test_without_a_form_of_ids_messages_keep_their_bytes() -> None:
    raw = json.dumps(tool_round("call_1")).encode()
    out, _ = RequestQuirks(Quirks(developer_role="system"), ()).apply({"messages": msgspec.Raw(raw)}, "chat")
    assert bytes(out["messages"]) == raw


def test_an_operation_goes_to_the_path_that_is_offered() -> None:
    assert sent(provider(offers={"chat": "chat"}), {"messages": MESSAGES})[2] == "chat"
    assert sent(provider(), {"messages": MESSAGES})[2] == "chat/completions"


FIELDS = ["role", "name", "json_schema", "schema", "type", "content", "tool_calls", "tool_call_id", "id"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from(["developer", "required"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@given(messages=JSON, tool_choice=JSON, response_format=JSON)
def test_no_client_value_raises_anything_but_bad_request(messages: Any, tool_choice: Any, response_format: Any) -> None:
    all_of_them = Quirks(
        developer_role="system",
        rename_params={"tool_choice": "choice"},
        param_values={"response_format": {"required": "any"}},
        drop_message_fields=("name",),
        response_format="flat",
        only_values={"tool_choice": ("required", True)},
        tool_call_id_chars=9,
    )
    body = {
        key: msgspec.Raw(json.dumps(value).encode())
        for key, value in (("messages", messages), ("tool_choice", tool_choice), ("response_format", response_format))
    }
    try:
        out, _ = RequestQuirks(all_of_them, ("x",)).apply(body, "chat")
    except BadRequest:
        return
    assert json.loads(msgspec.json.encode(out["choice"])) == tool_choice
