"""What an OpenAI body becomes in the Messages API, and what is refused or named instead."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.wire.anthropic import AnthropicDialect
from routerd.wire.anthropic.outbound.models import abilities
from routerd.wire.anthropic.outbound.request import DEFAULT_MAX_TOKENS
from routerd.wire.dialect import Call
from routerd.wire.openai.body import parse_request

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}


def encode(model: str = "claude-sonnet-4-20250514", extra: Any = None, **body: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    raw = json.dumps({"model": "asked", "messages": HI, **body}).encode()
    request = parse_request(raw, "chat", "chat/completions")
    call = Call(operation="chat", path=request.path, model=model, stream=request.stream, extra=extra or {})
    encoded = AnthropicDialect().encode(request.body, call)
    assert encoded.path == "v1/messages"
    return json.loads(encoded.body), encoded.dropped


def refused(**body: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        encode(**body)
    assert caught.value.param
    return caught.value.param


def text(value: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": value}]


def test_the_smallest_request_gets_a_limit_and_nothing_else() -> None:
    out, dropped = encode()
    assert out == {
        "model": "claude-sonnet-4-20250514",
        "messages": [{"role": "user", "content": text("hi")}],
        "max_tokens": DEFAULT_MAX_TOKENS,
    }
    assert dropped == ()


def test_system_and_developer_messages_become_system_in_order_and_turns_of_one_role_are_one() -> None:
    messages = [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "d"}]},
    ]
    out, _ = encode(messages=messages)
    assert out["system"] == text("one") + text("two")
    assert out["messages"] == [
        {"role": "user", "content": text("a") + text("b")},
        {"role": "assistant", "content": text("c")},
        {"role": "user", "content": text("d")},
    ]


def test_the_turn_after_tool_calls_begins_with_every_result() -> None:
    calls = [
        {"id": "call:1", "type": "function", "function": {"name": "f", "arguments": '{"n": 12345678901234567890123, "x": 1.10}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    messages = [
        *HI,
        {"role": "assistant", "content": "so", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call:1", "content": "1"},
        {"role": "user", "content": "and"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
    ]
    out, _ = encode(messages=messages)
    assert [b["type"] for b in out["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
    assert out["messages"][1]["content"][1]["id"] == "call_1"
    assert out["messages"][1]["content"][2]["input"] == {}
    assert out["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "call_1", "content": text("1")},
        {"type": "tool_result", "tool_use_id": "c2", "content": text("2")},
        *text("and"),
    ]


def test_arguments_keep_their_own_digits() -> None:
    arguments = '{"n": 12345678901234567890123, "x": 1.10}'
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {"messages": [*HI, {"role": "assistant", "tool_calls": [call]}]}
    encoded = AnthropicDialect().encode(body, Call(operation="chat", path="", model="m"))
    assert arguments.encode() in encoded.body


def test_images_and_files_keep_their_kind_of_source() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,iVBO\nRw=="}, "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.jpg", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
        {"type": "file", "file": {"url": "https://x.example/a.pdf"}},
    ]
    out, _ = encode(messages=[{"role": "user", "content": parts}])
    png = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert out["messages"][0]["content"] == [
        {"type": "image", "source": png, "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.jpg"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}, "title": "a.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "data:image/bmp;base64,xx"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,xx"}},
        {"type": "image_url", "image_url": {"url": "ftp://x/y"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:text/csv;base64,xx"}},
        {"text": "no type"},
        7,
    ],
)
def test_a_part_that_the_model_cannot_take_is_refused_with_its_place(part: Any) -> None:
    with pytest.raises(BadRequest, match=r"messages\[0\].content\[0\]"):
        encode(messages=[{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "robot", "content": "x"}],
        [{"role": "assistant", "content": "x"}],
        [{"role": "system", "content": "x"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": 3}],
        [*HI, {"role": "tool", "content": "x"}],
        [*HI, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}],
        [*HI, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "[1]"}}]}],
        ["x"],
    ],
)
def test_messages_that_make_no_conversation_are_refused(messages: Any) -> None:
    assert refused(messages=messages) == "messages"


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("auto", True, {"type": "auto"}),
    ],
)
def test_tool_choice(choice: Any, parallel: Any, expected: Any) -> None:
    out, dropped = encode(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel)
    assert out.get("tool_choice") == expected
    assert out["tools"] == [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}]
    assert dropped == ()


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    out, _ = encode(tools=[{"type": "function", "function": {"name": "f", "strict": True}}])
    assert out["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}, "strict": True}]


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_the_clients_limit_counts(key: str) -> None:
    assert encode(**{key: 7})[0]["max_tokens"] == 7
    assert refused(**{key: 0}) == key
    assert refused(**{key: "7"}) == key
    assert refused(**{key: 1.5}) == key


def test_stop_is_an_array_without_blanks() -> None:
    assert encode(stop="END")[0]["stop_sequences"] == ["END"]
    assert encode(stop=["a", "b"])[0]["stop_sequences"] == ["a", "b"]
    out, dropped = encode(stop=["\n", "b"])
    assert (out["stop_sequences"], dropped) == (["b"], ("stop",))
    assert refused(stop=[1]) == "stop"


@pytest.mark.parametrize(
    ("model", "given", "sent", "dropped"),
    [
        ("claude-sonnet-4", {"temperature": 0.3}, {"temperature": 0.3}, ()),
        ("claude-sonnet-4", {"temperature": 1.7}, {"temperature": 1.0}, ("temperature",)),
        ("claude-sonnet-4", {"temperature": 0.3, "top_p": 0.5, "top_k": 3}, {"temperature": 0.3, "top_p": 0.5, "top_k": 3}, ()),
        ("claude-opus-4-1", {"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3}, ("top_p",)),
        ("claude-opus-4-1", {"temperature": 0.3, "top_p": 1}, {"temperature": 0.3}, ()),
        ("claude-opus-4-1", {"top_p": 0.5}, {"top_p": 0.5}, ()),
        ("claude-opus-4-7", {"temperature": 0.3, "top_p": 0.5, "top_k": 3}, {}, ("temperature", "top_p", "top_k")),
        ("claude-opus-4-7", {"temperature": 1, "top_p": 1}, {}, ()),
        ("claude-sonnet-5", {"temperature": 0.3}, {}, ("temperature",)),
    ],
)
def test_sampling_parameters_by_model(model: str, given: dict[str, Any], sent: dict[str, Any], dropped: tuple[str, ...]) -> None:
    out, left_out = encode(model, **given)
    assert {key: out[key] for key in ("temperature", "top_p", "top_k") if key in out} == sent
    assert left_out == dropped


def test_values_out_of_openais_range_are_refused() -> None:
    assert refused(temperature=2.1) == "temperature"
    assert refused(top_p=-1) == "top_p"
    assert refused(temperature="warm") == "temperature"


def test_a_json_schema_is_native_where_the_model_has_it_and_every_object_is_closed() -> None:
    out, dropped = encode("claude-sonnet-4-5", response_format=FORMAT)
    schema = out["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["a"]["additionalProperties"] is False
    assert ("tools" in out, dropped) == (False, ())


def test_a_json_schema_is_a_forced_tool_on_older_models() -> None:
    out, dropped = encode(response_format=FORMAT)
    assert out["tool_choice"] == {"type": "tool", "name": "routerd_json_answer"}
    assert out["tools"] == [{"name": "routerd_json_answer", "description": "Give the answer.", "input_schema": SCHEMA}]
    out, _ = encode(response_format=FORMAT, tools=[TOOL])
    assert out["tool_choice"] == {"type": "any"}
    assert [tool["name"] for tool in out["tools"]] == ["f", "routerd_json_answer"]
    out, _ = encode(response_format=FORMAT, tools=[TOOL], tool_choice="required")
    assert [tool["name"] for tool in out["tools"]] == ["f"]
    assert dropped == ()


def test_json_object_is_asked_for_in_words_and_told_to_the_client() -> None:
    out, dropped = encode(response_format={"type": "json_object"}, messages=[{"role": "system", "content": "s"}, *HI])
    assert out["system"][0] == text("s")[0]
    assert "JSON" in out["system"][1]["text"]
    assert dropped == ("response_format",)
    assert refused(response_format={"type": "json_schema"}) == "response_format"
    assert refused(response_format={"type": "grammar"}) == "response_format"


@pytest.mark.parametrize(
    ("model", "effort", "more", "sent", "dropped"),
    [
        ("claude-sonnet-4-5", "low", {}, {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 5120}, ()),
        ("claude-sonnet-4-5", "high", {"max_tokens": 5000}, {"thinking": {"type": "enabled", "budget_tokens": 2500}}, ()),
        ("claude-sonnet-4-5", "high", {"max_tokens": 1000}, {"max_tokens": 1000}, ("reasoning_effort",)),
        ("claude-sonnet-4-5", "high", {"tools": [TOOL], "tool_choice": "required"}, {}, ("reasoning_effort",)),
        ("claude-sonnet-4-5", "none", {}, {}, ()),
        ("claude-3-5-sonnet-20241022", "high", {}, {}, ("reasoning_effort",)),
        ("claude-opus-4-6", "xhigh", {}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, ()),
        ("claude-opus-4-7", "minimal", {}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, ()),
        ("claude-opus-5", "xhigh", {}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, ()),
        ("claude-opus-5", "none", {}, {"thinking": {"type": "disabled"}}, ()),
        ("claude-opus-5", "low", {"tools": [TOOL], "tool_choice": "required"}, {"output_config": {"effort": "low"}}, ()),
    ],
)
def test_reasoning_effort_by_model(
    model: str, effort: str, more: dict[str, Any], sent: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    out, left_out = encode(model, reasoning_effort=effort, **more)
    assert left_out == dropped
    assert ("thinking" in out) == ("thinking" in sent)
    assert {key: out[key] for key in sent} == sent


def test_effort_and_schema_share_output_config() -> None:
    out, _ = encode("claude-opus-4-6", reasoning_effort="low", response_format=FORMAT)
    assert set(out["output_config"]) == {"effort", "format"}


def test_thinking_leaves_the_sampling_that_the_api_refuses_beside_it() -> None:
    out, dropped = encode("claude-sonnet-4-5", reasoning_effort="low", temperature=0.2, top_k=4)
    assert ("temperature" in out, "top_k" in out) == (False, False)
    assert dropped == ("temperature", "top_k")
    out, dropped = encode("claude-sonnet-4-5", reasoning_effort="low", top_p=0.97)
    assert (out["top_p"], dropped) == (0.97, ())


def test_thinking_comes_back_first_with_its_signature() -> None:
    details = [
        {"type": "reasoning.text", "text": "hm", "signature": "sig", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "xx", "format": "anthropic-claude-v1", "index": 1},
        {"type": "reasoning.encrypted", "data": "other", "format": "openai-responses-v1", "index": 2},
    ]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": "so", "tool_calls": [call], "reasoning_content": "hm", "reasoning_details": details}
    messages = [*HI, turn, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    out, dropped = encode("claude-sonnet-4-5", messages=messages, reasoning_effort="low", tools=[TOOL])
    assert out["messages"][1]["content"][:2] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xx"},
    ]
    assert ("thinking" in out, dropped) == (True, ())


def test_a_tool_loop_without_its_thinking_goes_on_without_thinking() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "tool_calls": [call], "reasoning_content": "unsigned"}
    messages = [*HI, turn, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    out, dropped = encode("claude-sonnet-4-5", messages=messages, reasoning_effort="low", tools=[TOOL])
    assert ("thinking" in out, dropped) == (False, ("messages.reasoning_content", "reasoning_effort"))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"reasoning_effort": ["low"]}, "reasoning_effort"),
    ],
)
def test_what_would_make_another_answer_is_refused(body: dict[str, Any], param: str) -> None:
    assert refused(**body) == param


def test_what_has_no_word_is_left_out_and_named_but_not_what_changes_nothing() -> None:
    out, dropped = encode(seed=7, logprobs=True, logit_bias={"5": 1}, min_p=0.1, metadata={"a": "b"}, n=1, service_tier="flex")
    assert set(dropped) == {"seed", "logprobs", "logit_bias", "min_p", "metadata", "service_tier"}
    assert set(out) == {"model", "messages", "max_tokens"}
    assert encode(logprobs=False, presence_penalty=0, logit_bias={}, seed=None, store=True)[1] == ()


def test_the_user_is_metadata_and_anthropics_own_fields_pass() -> None:
    out, dropped = encode(user="u1", top_k=5, thinking={"type": "disabled"}, output_config={"effort": "low"})
    assert out["metadata"] == {"user_id": "u1"}
    assert (out["top_k"], out["thinking"], out["output_config"]) == (5, {"type": "disabled"}, {"effort": "low"})
    assert dropped == ()


def test_a_thinking_budget_of_the_client_comes_on_top_of_the_default_limit() -> None:
    thinking = {"type": "enabled", "budget_tokens": 8000}
    assert encode(thinking=thinking)[0]["max_tokens"] == DEFAULT_MAX_TOKENS + 8000
    assert encode(thinking=thinking, max_tokens=9000)[0]["max_tokens"] == 9000


def test_names_of_speakers_are_left_out_and_told() -> None:
    out, dropped = encode(messages=[{"role": "user", "name": "Ann", "content": "hi"}])
    assert out["messages"] == [{"role": "user", "content": text("hi")}]
    assert dropped == ("messages.name",)


def test_the_providers_fields_win_at_leaves_and_come_last() -> None:
    out, _ = encode(extra={"metadata": {"x": 1}, "max_tokens": 9}, user="u", stream=True)
    assert out["metadata"] == {"user_id": "u", "x": 1}
    assert (out["max_tokens"], out["stream"]) == (9, True)


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("claude-3-7-sonnet-20250219", ("budget", True, False)),
        ("claude-instant-1.2", ("none", True, False)),
        ("claude-4-opus-20250514", ("budget", True, False)),
        ("anthropic.claude-opus-4-5-20251101-v1:0", ("budget", True, True)),
        ("claude-haiku-4-5@20251001", ("budget", True, True)),
        ("claude-mythos-preview", ("adaptive", False, True)),
        ("claude-sonnet-5-5", ("adaptive", False, True)),
        ("MiniMax-M2", ("budget", True, False)),
    ],
)
def test_abilities_are_read_off_the_name(model: str, version: tuple[str, bool, bool]) -> None:
    able = abilities(model)
    assert (able.thinking, able.sampling, able.json_schema) == version


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
KEYS = ["role", "content", "type", "text", "tool_calls", "tool_call_id", "image_url", "url", "file", "reasoning_details", "id"]
WORDS = st.sampled_from(["user", "assistant", "tool", "system", "text", "image_url", "file", "data:image/png;base64,"])
MESSAGES = st.recursive(
    JSON | WORDS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(KEYS), children, max_size=5),
    max_leaves=20,
)
PARAMS = [
    "temperature", "top_p", "stop", "tools", "tool_choice", "response_format", "max_tokens", "n", "reasoning_effort", "metadata",
    "modalities", "user", "thinking", "output_config", "service_tier", "parallel_tool_calls", "audio",
]  # fmt: skip


@given(st.lists(MESSAGES, max_size=4), st.dictionaries(st.sampled_from(PARAMS), MESSAGES, max_size=4))
@settings(max_examples=300, deadline=None)
def test_whatever_json_a_client_sends_only_a_bad_request_comes_of_it(messages: list[Any], params: dict[str, Any]) -> None:
    call = Call(operation="chat", path="chat/completions", model="claude-sonnet-4-5")
    for message in ([*HI, *messages], messages):
        body = {key: msgspec.Raw(json.dumps(value).encode()) for key, value in {**params, "messages": message}.items()}
        try:
            AnthropicDialect().encode(body, call)
        except BadRequest:
            pass
