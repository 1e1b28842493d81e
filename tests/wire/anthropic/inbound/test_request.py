"""What a Messages request becomes for a target that speaks OpenAI, and back again for one that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.graph import Params, SystemPrompt
from routerd.messages import ModelRequest
from routerd.wire.anthropic import AnthropicDialect
from routerd.wire.anthropic.inbound.request import parse_messages
from routerd.wire.dialect import Call
from routerd.wire.openai.body import encode_body, prepare_body
from tests.wire.transcripts import ROOT

HI = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBO"}


def parse(**body: Any) -> ModelRequest:
    return parse_messages(json.dumps({"model": "m", "max_tokens": 9, "messages": HI, **body}).encode())


def chat(**body: Any) -> dict[str, Any]:
    request = parse(**body)
    out: dict[str, Any] = json.loads(encode_body(request.body, model="m", extra={}, include_usage=False))
    return out


def messages(*turns: Any, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(messages=list(turns), **body)["messages"]
    return found


def test_the_request_is_a_chat_whose_own_fields_are_kept() -> None:
    request = parse(stream=True, thinking={"type": "adaptive"}, betas=["x"])
    assert (request.operation, request.path, request.model) == ("chat", "chat/completions", "m")
    assert (request.stream, request.wants_usage) == (True, True)
    assert request.native is not None
    assert set(request.native) == {"model", "max_tokens", "messages", "stream", "thinking", "betas"}
    assert request.dropped == ("thinking", "betas")
    assert parse().wants_usage is False


def test_the_simplest_fields_keep_their_bytes() -> None:
    out = chat(temperature=0.10, top_p=0.5, top_k=3, stop_sequences=["a"], stream=False, metadata={"user_id": "u"})
    assert out == {
        "model": "m", "messages": HI, "max_tokens": 9, "temperature": 0.1, "top_p": 0.5, "top_k": 3, "stop": ["a"],
        "stream": False, "user": "u",
    }  # fmt: skip
    assert "user" not in chat(metadata={"user_id": "u" * 65})


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("be good", "be good"),
        ([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}], "a\n\nb"),
        ("", None),
        ([], None),
        (None, None),
    ],
)
def test_system_is_one_message(system: Any, text: str | None) -> None:
    expected = [{"role": "system", "content": text}, *HI] if text else HI
    assert chat(system=system)["messages"] == expected


def test_parts_of_a_user() -> None:
    blocks = [
        {"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
        {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
    ]
    (message,) = messages({"role": "user", "content": blocks})
    assert message["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
        {"type": "text", "text": "plain"},
    ]


def test_one_text_is_a_string() -> None:
    assert messages({"role": "user", "content": [{"type": "text", "text": "a\u00e9"}]}) == [
        {"role": "user", "content": "a\u00e9"}
    ]


def test_tool_calls_and_results() -> None:
    turns = [
        *HI,
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "so "},
                {"type": "text", "text": "be it"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                {"type": "tool_use", "id": "t3", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "now"},
                {"type": "tool_result", "tool_use_id": "t1", "content": "1"},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": [{"type": "text", "text": "no"}]},
                {
                    "type": "tool_result",
                    "tool_use_id": "t3",
                    "content": [{"type": "text", "text": "x"}, {"type": "image", "source": PNG}],
                },
            ],
        },
    ]
    out = messages(*turns)
    assert out[1]["content"] == "so be it"
    calls = [(c["id"], c["type"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in out[1]["tool_calls"]]
    assert calls == [("t1", "function", "f", {"a": 1}), ("t2", "function", "g", {}), ("t3", "function", "g", {})]
    assert out[2:5] == [
        {"role": "tool", "tool_call_id": "t1", "content": "1"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "t3", "content": "x"},
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    assert out[5] == {"role": "user", "content": [image, {"type": "text", "text": "now"}]}


def test_a_result_without_content_is_an_empty_text() -> None:
    assert messages({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]})[0]["content"] == ""


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}, None),
    ],
)
def test_tools_and_choice(choice: Any, expected: Any, parallel: bool | None) -> None:
    out = chat(
        tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}, {"name": "g", "input_schema": {}, "strict": True}],
        tool_choice=choice,
    )
    assert out["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": TOOL["input_schema"]}},
        {"type": "function", "function": {"name": "g", "parameters": {}, "strict": True}},
    ]
    assert (out["tool_choice"], out.get("parallel_tool_calls")) == (expected, parallel)


def test_what_has_no_word_is_named_and_the_rest_goes_on() -> None:
    turns = [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}, {"type": "text", "text": "x"}]}]
    request = parse(messages=turns, tools=[{"type": "web_search_20250305", "name": "web_search"}], service_tier="standard_only")
    assert set(request.dropped) == {"messages.container_upload", "tools.web_search_20250305", "service_tier"}
    assert "tools" not in request.body


def test_effort_and_format_have_counterparts() -> None:
    out = chat(output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}})
    assert out["reasoning_effort"] == "high"
    assert out["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }


def test_thinking_returns_under_the_field_that_it_came_in() -> None:
    def turn(signature: str) -> dict[str, Any]:
        thought = {"type": "thinking", "thinking": "hm", "signature": signature}
        return {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}]}

    out = messages(*HI, turn("routerd.field.reasoning_content"), *HI, turn("routerd.field.reasoning"), *HI, turn("EqQB"))
    assert [sorted(m) for m in out if m["role"] == "assistant"] == [
        ["content", "reasoning_content", "role"],
        ["content", "reasoning", "role"],
        ["content", "role"],
    ]
    for odd in ("routerd.field.content", "routerd.details.!!", "routerd.details.e30=", ""):
        assert set(messages(*HI, turn(odd))[1]) == {"role", "content"}


def test_the_routes_edits_apply_to_the_translation() -> None:
    request = parse(system="own")
    params = Params(defaults={"temperature": 0.5})
    body = prepare_body(request, system_prompt=SystemPrompt(text="first", mode="prepend"), params=params)
    out = json.loads(encode_body(body, model="m", extra={}, include_usage=False))
    assert out["messages"][0] == {"role": "system", "content": "first\n\nown"}
    assert out["temperature"] == 0.5


RECORDED = sorted((ROOT / "anthropic").glob("msg_*.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.stem)
def test_recorded_requests_survive_both_translations(path: Any) -> None:
    sent = json.loads(path.read_text())["request"]["body"]
    request = parse_messages(json.dumps(sent).encode())
    call = Call(operation="chat", path="", model=sent["model"], stream=request.stream)
    back = json.loads(AnthropicDialect().encode(request.body, call).body)

    def plain(value: dict[str, Any]) -> dict[str, Any]:
        out = {key: value[key] for key in ("model", "max_tokens", "messages", "tools", "stream", "system") if key in value}
        for message in out["messages"]:
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
        out["system"] = [{"type": "text", "text": block["text"]} for block in out["system"]]
        return out

    assert plain(back) == plain(sent)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": ["x"]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages"),
        ({"system": 7}, "system"),
        ({"tools": 7}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "maybe"}}, "tool_choice"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_broken_request_is_refused_with_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**body)
    assert caught.value.param == param


KEYS = ["role", "content", "type", "text", "source", "tool_use_id", "thinking", "signature", "input", "id", "name", "data", "url"]
WORDS = st.sampled_from(
    ["user", "assistant", "system", "text", "image", "document", "tool_use", "tool_result", "thinking", "base64"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | WORDS,
    lambda c: st.lists(c, max_size=4) | st.dictionaries(st.sampled_from(KEYS), c, max_size=5),
    max_leaves=20,
)
TOP = st.sampled_from(
    ["system", "tools", "tool_choice", "output_config", "metadata", "stop_sequences", "service_tier", "thinking"]
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.dictionaries(TOP, VALUES, max_size=3))
@settings(max_examples=300, deadline=None)
def test_whatever_json_a_client_sends_only_a_bad_request_comes_of_it(turns: list[Any], fields: dict[str, Any]) -> None:
    try:
        request = parse(messages=turns, **fields)
        encode_body(request.body, model="m", extra={}, include_usage=False)
    except BadRequest:
        pass


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_whatever_bytes_a_client_sends_only_a_bad_request_comes_of_it(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_messages(body)
