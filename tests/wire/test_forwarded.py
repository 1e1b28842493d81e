"""The text that a stream forwarded, counted only for those who must know."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from routerd.messages import Usage
from routerd.wire import forwarded
from routerd.wire.forwarded import ForwardedText, answer_text_bytes


def event(value: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


def test_content_thoughts_calls_and_refusals_are_text() -> None:
    text = ForwardedText(delta(role="assistant", content=""), None)
    text.take(delta(content="four") + delta(content="é"), None)
    text.take(delta(reasoning_content="abc"), None)
    text.take(delta(reasoning="same", reasoning_content="same"), None)
    text.take(delta(tool_calls=[{"index": 0, "function": {"name": "fn", "arguments": '{"a":1}'}}]), None)
    text.take(event({"choices": [{"text": "done"}]}) + b": ping\n\ndata: [DONE]\n\n", None)
    assert text.text_bytes() == 4 + 2 + 3 + 4 + 9 + 4


def test_streams_of_named_events_count_too() -> None:
    text = ForwardedText(event({"type": "message_start", "message": {"usage": {}}}, "message_start"), None)
    text.take(event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hello"}}, "delta"), None)
    text.take(event({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{}"}}), None)
    text.take(event({"type": "response.output_text.delta", "delta": "abc"}), None)
    text.take(event({"type": "response.audio.delta", "delta": "AAAAAAAA"}), None)
    assert text.text_bytes() == 5 + 2 + 3


def test_a_usage_covers_what_came_until_then() -> None:
    first = Usage(input_tokens=3)
    text = ForwardedText(delta(content="12345"), first)
    text.take(delta(content="678"), first)
    assert text.text_bytes() == 8
    second = Usage(input_tokens=3, output_tokens=4)
    text.take(delta(content="covered"), second)
    assert text.text_bytes() == 0
    text.take(delta(content="more"), second)
    assert text.text_bytes() == 4


def test_little_is_kept_of_a_long_stream() -> None:
    text = ForwardedText(b"", None)
    piece = delta(content="x" * 100)
    for _ in range(5000):
        text.take(piece, None)
        assert text._kept_bytes <= forwarded.KEPT_BYTES
    assert text.text_bytes() == 500_000


def test_whole_answers_of_every_client_api_count() -> None:
    chat = {"choices": [{"message": {"content": "abcd", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]}
    messages = {"content": [{"type": "text", "text": "abc"}, {"type": "tool_use", "input": {"a": 1}}]}
    responses = {"output": [{"content": [{"type": "output_text", "text": "hello"}]}, {"arguments": "{}"}]}
    assert [answer_text_bytes(json.dumps(body).encode()) for body in (chat, messages, responses)] == [7, 10, 7]
    assert answer_text_bytes(b"[]") == answer_text_bytes(b"no json") == 0


KEYS = ["choices", "delta", "message", "content", "text", "tool_calls", "function", "type", "output", "input"]
JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.booleans(),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(KEYS), values),
    max_leaves=20,
)


@given(JSON)
def test_no_shape_of_an_answer_is_an_error(value: object) -> None:
    body = json.dumps(value).encode()
    assert answer_text_bytes(body) >= 0
    assert ForwardedText(b"data: " + body + b"\n\n", None).text_bytes() >= 0


@given(st.binary())
def test_no_bytes_are_an_error(data: bytes) -> None:
    assert ForwardedText(b"data: " + data, None).text_bytes() >= 0
