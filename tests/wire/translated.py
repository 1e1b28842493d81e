"""What the tests of translating dialects share: running a scan, reading its chunks as the OpenAI SDK does, foreign requests."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from routerd.wire.dialect import Call, Dialect, Scan

DONE = b"data: [DONE]\n\n"


def call(**more: Any) -> Call:
    values = {"operation": "chat", "path": "chat/completions", "model": "upstream-m", "asked_model": "public-m"}
    return Call(**{**values, "answer_id": "r1", "created_unix_s": 1_700_000_000, **more})


def raw(body: dict[str, Any]) -> dict[str, Any]:
    """As a client's body arrives: every value raw JSON."""
    return {key: msgspec.Raw(json.dumps(value).encode()) for key, value in body.items()}


def encoded(dialect: Dialect, body: dict[str, Any], **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request, decoded again, and what was dropped."""
    out = dialect.encode(raw(body), call(**more))
    value: dict[str, Any] = json.loads(out.body)
    return value, out.dropped


def run(scan: Scan, data: bytes, size: int | None = None) -> bytes:
    step = size or max(1, len(data))
    out = b"".join(scan.feed(data[i : i + step]) for i in range(0, len(data), step))
    return out + scan.close()


def facts(scan: Scan) -> tuple[Any, ...]:
    return scan.content, scan.finished, scan.done, scan.usage, scan.fault, scan.malformed


def chunks(out: bytes) -> list[ChatCompletionChunk]:
    """Every event, checked against the SDK's own model in its strict mode."""
    found = []
    for event in out.split(b"\n\n")[:-1]:
        assert event.startswith(b"data: ")
        assert b"\n" not in event
        if event != DONE.strip():
            value = json.loads(event[6:])
            ChatCompletionChunk.model_validate(value, strict=True)
            found.append(ChatCompletionChunk.model_validate(value))
    return found


def told(out: bytes) -> dict[str, Any]:
    """What a client has at the end of a stream of one choice."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": [], "finish_reason": None}
    for chunk in chunks(out):
        for choice in chunk.choices:
            assert message["finish_reason"] is None
            delta = choice.delta
            message["content"] += delta.content or ""
            message["reasoning_content"] += (delta.model_extra or {}).get("reasoning_content", "")
            for entry in delta.tool_calls or ():
                assert entry.index == len(message["tool_calls"])  # whole calls, counted over the stream
                message["tool_calls"].append(entry.model_dump(exclude_none=True, exclude={"index"}))
            message["finish_reason"] = choice.finish_reason
    return message


def accumulated(out: bytes) -> ChatCompletion:
    """What the SDK's own accumulator makes of a stream."""
    state = ChatCompletionStreamState()
    for chunk in chunks(out):
        state.handle_chunk(chunk)
    return state.get_final_completion()


def completion(body: bytes) -> ChatCompletion:
    """A whole answer, checked against the SDK's own model in its strict mode."""
    value = json.loads(body)
    ChatCompletion.model_validate(value, strict=True)
    return ChatCompletion.model_validate(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_TEXTS = st.text(max_size=20)
_PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "file", "input_audio", "refusal", "video"])},
    optional={
        "text": _TEXTS | JSON,
        "image_url": st.fixed_dictionaries(
            {"url": st.sampled_from(["data:image/png;base64,AA==", "https://x/y.png", "data:", ""])}
        )
        | JSON,
        "file": st.fixed_dictionaries({"file_data": _TEXTS}) | JSON,
        "input_audio": st.fixed_dictionaries({"data": _TEXTS, "format": _TEXTS}) | JSON,
    },
)
_CALLS = st.fixed_dictionaries(
    {
        "function": st.fixed_dictionaries(
            {"name": _TEXTS}, optional={"arguments": st.sampled_from(["", "{}", '{"a":1}', "[", "7"]) | JSON}
        )
    },
    optional={"id": st.sampled_from(["a", "b"]), "extra_content": JSON},
)
_MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
    optional={
        "content": _TEXTS | st.lists(_PARTS, max_size=3) | JSON,
        "tool_calls": st.lists(_CALLS, max_size=2) | JSON,
        "tool_call_id": st.sampled_from(["a", "b"]) | JSON,
        "name": _TEXTS | JSON,
        "reasoning_content": _TEXTS,
        "extra_content": JSON,
    },
)
_SCHEMAS = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": ["integer", "null"]}, {"const": 1}, {"$ref": "#/$defs/a"}, {}, True]),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array"])},
        optional={
            "properties": st.dictionaries(_TEXTS, inner, max_size=3),
            "items": inner,
            "$defs": st.fixed_dictionaries({"a": inner}),
            "anyOf": st.lists(inner, max_size=2),
            "required": JSON,
            "enum": JSON,
        },
    ),
    max_leaves=6,
)
_TOOLS = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom"])},
    optional={"function": st.fixed_dictionaries({"name": _TEXTS}, optional={"parameters": _SCHEMAS | JSON, "strict": JSON})},
)
REQUESTS = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGES, max_size=4) | JSON},
    optional={
        "tools": st.lists(_TOOLS, max_size=2) | JSON,
        "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": ""}}]) | JSON,
        "response_format": st.sampled_from([{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {}}}])
        | JSON,
        "stop": _TEXTS | st.lists(_TEXTS, max_size=6) | JSON,
        "temperature": st.floats(0, 2) | JSON,
        "max_tokens": st.integers(0, 9) | JSON,
        "n": st.integers(0, 3) | JSON,
        "reasoning_effort": st.sampled_from(["none", "low", "xhigh"]) | JSON,
        "modalities": JSON,
        "logprobs": st.booleans() | JSON,
        "logit_bias": JSON,
        "options": JSON,
        "unknown,\n": JSON,
    },
)
