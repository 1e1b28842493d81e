"""An OpenAI request in Ollama's words: what the recorders' clients sent, and what has no words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from routerd.errors import BadRequest
from routerd.wire.ollama import OllamaDialect
from tests.wire.transcripts import load
from tests.wire.translated import REQUESTS, call, encoded, raw

OLLAMA = OllamaDialect()
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {}}}},
}


def body(**more: Any) -> dict[str, Any]:
    return encoded(OLLAMA, {"messages": HI, **more})[0]


def messages(*sent: dict[str, Any]) -> Any:
    return encoded(OLLAMA, {"messages": list(sent)})[0]["messages"]


def recorded(name: str) -> dict[str, Any]:
    [found] = load(f"ollama/{name}.json")
    sent: dict[str, Any] = found.request
    return {key: value for key, value in sent.items() if value not in (None, "", {}, [])}  # what the client left at nothing


def refused(body: dict[str, Any], **more: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        OLLAMA.encode(raw({"messages": HI, **body}), call(**more))
    return caught.value.param


# ── what was recorded ──


@pytest.mark.parametrize(("name", "stream"), [("chat_basic", False), ("chat_stream_ndjson", True)])
def test_the_recorded_conversation_with_stream_always_sent(name: str, stream: bool) -> None:
    sent = recorded(name)
    assert encoded(OLLAMA, {"messages": sent["messages"]}, model="llama3", stream=stream) == (sent, ())
    assert sent["stream"] is stream


def test_the_recorded_tools() -> None:
    sent = recorded("chat_tool_call")
    sent["think"] = "low"
    request = {"messages": sent["messages"], "tools": sent["tools"], "reasoning_effort": "low"}
    assert encoded(OLLAMA, request, model="qwen3:4b") == (sent, ())


def test_the_recorded_result() -> None:
    sent = recorded("chat_tool_result")
    [asked, result] = sent["messages"]
    function = asked["tool_calls"][0]["function"]
    call_of_it = {"id": "c1", "type": "function", "function": {**function, "arguments": json.dumps(function["arguments"])}}
    history = [
        {"role": "assistant", "content": None, "tool_calls": [call_of_it]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": result["content"]}]},
    ]
    assert messages(*history) == [
        {**asked, "tool_calls": [{"function": function, "id": "c1"}]},
        {**result, "tool_name": "get_current_weather", "tool_call_id": "c1"},
    ]


# ── messages ──


def test_the_path_and_the_providers_own_fields() -> None:
    sent = OLLAMA.encode(raw({"messages": HI, "temperature": 1}), call(extra={"options": {"num_ctx": 8192}, "keep_alive": "5m"}))
    assert sent.path == "api/chat"
    assert json.loads(sent.body) == {
        "model": "upstream-m", "messages": HI, "stream": False, "options": {"temperature": 1.0, "num_ctx": 8192},
        "keep_alive": "5m",
    }  # fmt: skip


def test_developers_are_the_system_and_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "developer", "content": parts}, {"role": "user", "content": parts}) == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "a\nb"},
    ]


def test_images_are_bare_base64_on_their_message() -> None:
    parts = [
        {"type": "text", "text": "what?"},
        *({"type": "image_url", "image_url": {"url": f"data:image/{x}"}} for x in ("png;base64,AA==", "x,a")),
    ]
    assert messages({"role": "user", "content": parts}) == [{"role": "user", "content": "what?", "images": ["AA==", "YQ=="]}]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "https://h/a.png"}}, ".image_url.url"),
        ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, ""),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}}, ""),
    ],
)
def test_a_part_that_cannot_be_said_is_named(part: dict[str, Any], param: str) -> None:
    assert refused({"messages": [*HI, {"role": "user", "content": [part]}]}) == f"messages[1].content[0]{param}"


def test_thoughts_go_back_and_refusals_are_text() -> None:
    assert messages({"role": "assistant", "content": None, "refusal": "no", "reasoning_content": "hm"}) == [
        {"role": "assistant", "content": "no", "thinking": "hm"}
    ]


def test_arguments_are_objects() -> None:
    def asked(arguments: Any) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    assert (
        messages(asked(""))[0]["tool_calls"]
        == messages(asked(None))[0]["tool_calls"]
        == [{"function": {"name": "f", "arguments": {}}}]
    )
    assert refused({"messages": [asked("[]")]}) == "messages[0].tool_calls[0].function.arguments"


# ── parameters ──


def test_options() -> None:
    sent = body(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, stop=["a", "b"], max_tokens=10, repetition_penalty=1.1,
        presence_penalty=0.1, frequency_penalty=0.2, options={"num_gpu": 1, "seed": 1}, keep_alive=0,
    )  # fmt: skip
    assert sent["options"] == {
        "num_gpu": 1, "seed": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "stop": ["a", "b"],
        "num_predict": 10, "repeat_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.2,
    }  # fmt: skip
    assert sent["keep_alive"] == 0
    assert body(stop="x")["options"] == {"stop": ["x"]}


def test_formats_of_an_answer() -> None:
    schema = {"type": "object", "properties": {}}
    assert body(response_format={"type": "json_object"})["format"] == "json"
    assert body(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})["format"] == schema
    assert "format" not in body(response_format={"type": "text"})


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", "low"), ("medium", "medium"), ("xhigh", "high")])
def test_effort_is_think(effort: str, think: Any) -> None:
    assert body(reasoning_effort=effort)["think"] == think


def test_log_probabilities_are_asked_for() -> None:
    sent = body(logprobs=True, top_logprobs=2)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)


def test_tools_are_sent_as_they_are_but_not_with_none() -> None:
    assert body(tools=[TOOL], tool_choice="auto")["tools"] == [TOOL]
    assert "tools" not in body(tools=[TOOL], tool_choice="none")
    bare = {"type": "function", "function": {"name": "f"}}
    assert body(tools=[bare])["tools"][0]["function"] == {
        "name": "f", "description": "", "parameters": {"type": "object", "properties": {}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("n", 2),
        ("logit_bias", {"1": 5}),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "enormous"),
        ("seed", "x"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(param: str, value: Any) -> None:
    assert refused({"tools": [TOOL], param: value}) == param


def test_what_the_answer_can_do_without_is_dropped_by_name() -> None:
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    request = {
        "messages": [{**HI[0], "name": "ann"}],
        "user": "u",
        "parallel_tool_calls": False,
        "store": True,
        "tools": [strict],
        "n": 1,
    }
    assert set(encoded(OLLAMA, request)[1]) == {"user", "parallel_tool_calls", "store", "messages.name", "tools.function.strict"}


def test_a_completion_is_a_users_message() -> None:
    assert encoded(OLLAMA, {"prompt": "once"}, operation="completion")[0]["messages"] == [{"role": "user", "content": "once"}]


@given(REQUESTS)
@settings(max_examples=300, deadline=None)
def test_any_request_is_encoded_or_refused(request: dict[str, Any]) -> None:
    try:
        sent = OLLAMA.encode(raw(request), call(stream=True))
    except BadRequest:
        return
    assert json.loads(sent.body)["stream"] is True
    assert all(name.isprintable() for name in sent.dropped)
