"""An OpenAI request in Gemini's words: what the recorders' clients sent, and what has no words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from routerd.errors import BadRequest
from routerd.wire.dialect import Call
from routerd.wire.gemini import GeminiDialect
from tests.wire.transcripts import load
from tests.wire.translated import REQUESTS, call, encoded, raw

GEMINI = GeminiDialect()
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
SYSTEM = {"role": "system", "content": "You are a helpful assistant"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Get weather information for a location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string", "description": "the city"}},
            "required": ["location"],
        },
    },
}
PNG = "iVBORw0KGgo="


def body(**more: Any) -> dict[str, Any]:
    return encoded(GEMINI, {"messages": HI, **more})[0]


def contents(*messages: dict[str, Any], **more: Any) -> Any:
    return encoded(GEMINI, {"messages": list(messages)}, **more)[0]["contents"]


def recorded(name: str) -> dict[str, Any]:
    [found] = load(f"gemini/{name}.json")
    sent: dict[str, Any] = found.request
    sent.get("systemInstruction", {}).pop("role", None)
    return sent


def called(arguments: str = '{"location":"Florence,Italy"}', **more: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function, **more}]}


def result(content: Any = "40 C", call_id: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def refused(body: dict[str, Any], **more: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        GEMINI.encode(raw({"messages": HI, **body}), call(**more))
    return caught.value.param


# ── what was recorded ──


def test_the_recorded_conversation() -> None:
    messages = [SYSTEM, {"role": "user", "content": "Say hi in Portuguese"}]
    assert encoded(GEMINI, {"messages": messages, "max_tokens": 4000}) == (recorded("gen_basic"), ())


def test_the_recorded_tools() -> None:
    messages = [SYSTEM, {"role": "user", "content": "What's the weather in Florence,Italy?"}]
    request = {"messages": messages, "max_completion_tokens": 4000, "tools": [WEATHER], "tool_choice": "auto"}
    assert encoded(GEMINI, request) == (recorded("gen_function_call"), ())


def test_the_recorded_result_with_its_signature() -> None:
    sent = recorded("gen_function_response")
    signature = sent["contents"][1]["parts"][0]["thoughtSignature"]
    messages = [
        SYSTEM,
        {"role": "user", "content": "What's the weather in Florence,Italy?"},
        called(extra_content={"google": {"thought_signature": signature}}),
        result(),
    ]
    request = {"messages": messages, "max_tokens": 4000, "tools": [WEATHER], "tool_choice": "auto"}
    assert encoded(GEMINI, request) == (sent, ())


def test_the_recorded_schema_of_an_answer() -> None:
    sent = recorded("gen_response_schema")
    schema = sent["generationConfig"]["responseJsonSchema"]
    text = sent["contents"][0]["parts"][0]["text"]
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    assert (
        encoded(GEMINI, {"messages": [{"role": "user", "content": text}], "max_tokens": 4000, "response_format": shape})[0]
        == sent
    )
    flat = {"type": "json_schema", "schema": schema}
    assert body(response_format=flat)["generationConfig"]["responseJsonSchema"] == schema


def test_the_recorded_image() -> None:
    sent = recorded("gen_image")
    inline = sent["contents"][0]["parts"][1]["inlineData"]
    url = f"data:{inline['mimeType']};base64,{inline['data']}"
    parts = [{"type": "text", "text": sent["contents"][0]["parts"][0]["text"]}, {"type": "image_url", "image_url": {"url": url}}]
    assert contents({"role": "user", "content": parts}) == sent["contents"]


# ── path ──


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-2.5-pro", "models/gemini-2.5-pro:generateContent"),
        ("models/gemini-2.5-pro", "models/gemini-2.5-pro:generateContent"),
        ("tunedModels/mine", "tunedModels/mine:generateContent"),
        ("a/b c?:d", "models/a%2Fb%20c%3F%3Ad:generateContent"),
    ],
)
def test_the_model_is_in_the_path(model: str, path: str) -> None:
    encoded_request = GEMINI.encode(raw({"messages": HI}), call(model=model))
    assert encoded_request.path == path
    assert "model" not in json.loads(encoded_request.body)


def test_a_stream_is_asked_for_as_events() -> None:
    assert GEMINI.encode(raw({"messages": HI}), call(stream=True)).path == "models/upstream-m:streamGenerateContent?alt=sse"


def test_the_providers_own_fields_win_at_leaves() -> None:
    extra = {"generationConfig": {"topK": 3, "temperature": 0.1}, "safetySettings": []}
    sent = encoded(GEMINI, {"messages": HI, "temperature": 1, "top_p": 0.5}, extra=extra)[0]
    assert sent["generationConfig"] == {"temperature": 0.1, "topP": 0.5, "topK": 3}
    assert sent["safetySettings"] == []


# ── turns ──


def test_system_messages_are_gathered_from_everywhere() -> None:
    messages = [{"role": "system", "content": "a"}, *HI, {"role": "developer", "content": [{"type": "text", "text": "b"}]}]
    sent = encoded(GEMINI, {"messages": messages})[0]
    assert sent["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]


def test_a_conversation_of_a_system_message_alone_is_the_users() -> None:
    sent = encoded(GEMINI, {"messages": [SYSTEM]})[0]
    assert sent == {"contents": [{"role": "user", "parts": [{"text": SYSTEM["content"]}]}]}


def test_neighbours_of_one_role_are_one_turn_and_empty_ones_none() -> None:
    messages = [*HI, {"role": "user", "content": ""}, {"role": "user", "content": "you"}, {"role": "assistant", "content": "yes"}]
    assert contents(*messages) == [
        {"role": "user", "parts": [{"text": "hi"}, {"text": "you"}]},
        {"role": "model", "parts": [{"text": "yes"}]},
    ]
    assert refused({"messages": [{"role": "user", "content": ""}]}) == "messages"


def test_parallel_results_are_one_turn_with_the_names_of_their_calls() -> None:
    calls = [{"id": c, "function": {"name": f"f{c}", "arguments": a}} for c, a in (("x", ""), ("y", '{"n": 1.0}'))]
    sent = contents(*HI, {"role": "assistant", "tool_calls": calls}, result("1", "x"), result('{"a": 2}', "y"))
    assert sent[1]["parts"] == [
        {"functionCall": {"name": "fx", "args": {}, "id": "x"}},
        {"functionCall": {"name": "fy", "args": {"n": 1.0}, "id": "y"}},
    ]
    assert sent[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "fx", "response": {"result": "1"}, "id": "x"}},
            {"functionResponse": {"name": "fy", "response": {"a": 2}, "id": "y"}},
        ],
    }


def test_a_result_of_no_call_and_arguments_that_are_no_object_are_refused() -> None:
    assert refused({"messages": [*HI, result()]}) == "messages[1].tool_call_id"
    for bad in ("[1]", "{", "7", '"x"'):
        assert refused({"messages": [*HI, called(bad)]}) == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("model", "placed"),
    [("gemini-3-pro-preview", True), ("models/gemini-3.1-flash", True), ("gemini-flash-latest", True), ("gemini-2.5-pro", False)],
)
def test_gemini_3_gets_a_placeholder_for_calls_it_did_not_make(model: str, placed: bool) -> None:
    two = called()
    two["tool_calls"].append({"id": "2", "function": {"name": "weather", "arguments": "{}"}})
    parts = contents(*HI, two, model=model)[1]["parts"]
    assert ("thoughtSignature" in parts[0]) is placed
    assert "thoughtSignature" not in parts[1]


def test_a_signature_of_a_message_goes_back_on_its_last_part() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    assert contents(*HI, {"role": "assistant", "content": "yes", **signed})[1]["parts"] == [
        {"text": "yes", "thoughtSignature": "c2ln"}
    ]
    assert contents(*HI, {"role": "assistant", "content": None, **signed})[1]["parts"] == [
        {"text": "", "thoughtSignature": "c2ln"}
    ]


# ── parts ──


def inline(media: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": media, "data": data}}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def file(**more: str) -> dict[str, Any]:
    return {"type": "file", "file": more}


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        ({"type": "text", "text": "a"}, {"text": "a"}),
        (image(f"data:image/png;base64,{PNG}"), inline("image/png", PNG)),
        ({"type": "image_url", "image_url": f"DATA:image/png;base64,{PNG[:4]}\n{PNG[4:]}"}, inline("image/png", PNG)),
        (image("https://h/a.PNG?x=1"), {"fileData": {"fileUri": "https://h/a.PNG?x=1", "mimeType": "image/png"}}),
        (image("https://www.youtube.com/watch?v=1"), {"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}}),
        ({"type": "input_audio", "input_audio": {"data": "AAA=", "format": "mp3"}}, inline("audio/mp3", "AAA=")),
        (file(file_data="data:application/pdf;base64,AA=="), inline("application/pdf", "AA==")),
        (file(file_data="data:text/plain,a%20b"), inline("text/plain", "YSBi")),
        (file(url="https://h/a.pdf"), {"fileData": {"fileUri": "https://h/a.pdf", "mimeType": "application/pdf"}}),
    ],
)
def test_a_part(part: dict[str, Any], sent: dict[str, Any]) -> None:
    assert contents({"role": "user", "content": [part]}) == [{"role": "user", "parts": [sent]}]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "ftp://h/a.png"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png"}}, ".image_url.url"),
        ({"type": "image_url"}, ""),
        ({"type": "text"}, ""),
        ({"type": "text", "text": 7}, ".text"),
        ({"type": "file", "file": {"file_id": "file-1"}}, ".file"),
        ({"type": "video_url", "video_url": {"url": "x"}}, ""),
    ],
)
def test_a_part_that_cannot_be_said_is_named(part: dict[str, Any], param: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, part]}
    assert refused({"messages": [message]}) == f"messages[0].content[1]{param}"


# ── parameters ──


def test_generation_parameters() -> None:
    config = body(
        temperature=0.5, top_p=0.9, top_k=40, seed=7, stop="END", max_tokens=10, max_completion_tokens=20, n=2,
        presence_penalty=0.1, frequency_penalty=0.2, logprobs=True, top_logprobs=3,
    )["generationConfig"]  # fmt: skip
    assert config == {
        "temperature": 0.5, "topP": 0.9, "topK": 40, "seed": 7, "stopSequences": ["END"], "maxOutputTokens": 20,
        "candidateCount": 2, "presencePenalty": 0.1, "frequencyPenalty": 0.2, "responseLogprobs": True, "logprobs": 3,
    }  # fmt: skip


def test_null_is_not_set() -> None:
    sent, dropped = encoded(
        GEMINI, {"messages": HI, "temperature": None, "tools": None, "stop": None, "user": None, "stream": False}
    )
    assert (sent, dropped) == ({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}, ())


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "weather"}}, {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tool_choice(choice: Any, config: dict[str, Any]) -> None:
    assert body(tools=[WEATHER], tool_choice=choice)["toolConfig"] == {"functionCallingConfig": config}


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-3-pro-preview", "high", {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-3-pro-preview", "minimal", {"thinkingLevel": "minimal", "includeThoughts": True}),
    ],
)
def test_effort_is_a_budget_or_a_level_never_both(model: str, effort: str, config: dict[str, Any]) -> None:
    sent = encoded(GEMINI, {"messages": HI, "reasoning_effort": effort}, model=model)[0]
    assert sent["generationConfig"] == {"thinkingConfig": config}


def test_formats_of_an_answer() -> None:
    assert body(response_format={"type": "json_object"})["generationConfig"] == {"responseMimeType": "application/json"}
    assert "generationConfig" not in body(response_format={"type": "text"})
    assert body(modalities=["text", "image"])["generationConfig"] == {"responseModalities": ["TEXT", "IMAGE"]}


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("logit_bias", {"50256": -100}),
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("functions", [{"name": "f"}]),
        ("web_search_options", {"search_context_size": "low"}),
        ("modalities", ["text", "audio"]),
        ("stop", ["a", "b", "c", "d", "e", "f"]),
        ("response_format", {"type": "grammar"}),
        ("reasoning_effort", "enormous"),
        ("tool_choice", {"type": "function", "function": {"name": "nobody"}}),
        ("tool_choice", "sometimes"),
        ("temperature", "hot"),
        ("max_tokens", 1.5),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(param: str, value: Any) -> None:
    assert refused({param: value}) == param


def test_what_the_answer_can_do_without_is_dropped_by_name() -> None:
    request = {
        "messages": [{"role": "user", "content": "hi", "name": "ann"}],
        "user": "u", "parallel_tool_calls": False, "service_tier": "auto", "metadata": {"a": "b"}, "min_p": 0.1,
        "tools": [{**WEATHER, "function": {**WEATHER["function"], "strict": True}}],  # type: ignore[dict-item]
        "logit_bias": {}, "n": 1, "bad\nname": 1,
    }  # fmt: skip
    dropped = encoded(GEMINI, request)[1]
    assert set(dropped) == {
        "user", "parallel_tool_calls", "service_tier", "metadata", "min_p", "messages.name", "tools.function.strict", "?",
    }  # fmt: skip
    assert encoded(GEMINI, {"messages": HI, "parallel_tool_calls": True})[1] == ()


def test_a_completion_is_a_users_message() -> None:
    sent, dropped = encoded(GEMINI, {"prompt": ["once"], "max_tokens": 5}, operation="completion")
    assert sent == {"contents": [{"role": "user", "parts": [{"text": "once"}]}], "generationConfig": {"maxOutputTokens": 5}}
    assert dropped == ()
    for bad in ({"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": "a", "suffix": "b"}, {"prompt": "a", "logprobs": 2}):
        with pytest.raises(BadRequest):
            GEMINI.encode(raw(bad), call(operation="completion"))


def test_python_values_of_the_routes_parameters_are_read_too() -> None:
    sent = GEMINI.encode({"messages": [{"role": "system", "content": "s"}, *raw({"m": HI[0]}).values()], "top_k": 5}, call())
    value = json.loads(sent.body)
    assert value["generationConfig"] == {"topK": 5}
    assert value["contents"][0]["parts"] == [{"text": "hi"}]


@given(REQUESTS)
@settings(max_examples=300, deadline=None)
def test_any_request_is_encoded_or_refused(request: dict[str, Any]) -> None:
    for model in ("gemini-2.5-pro", "gemini-3-pro"):
        one = Call(operation="chat", path="chat/completions", model=model)
        try:
            sent = GEMINI.encode(raw(request), one)
        except BadRequest:
            continue
        assert json.loads(sent.body)["contents"]
        assert all(name.isprintable() for name in sent.dropped)
