"""What a whole Messages answer becomes, judged by OpenAI's SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ErrorKind, ProtocolFault
from routerd.messages import Usage
from routerd.wire.anthropic import AnthropicDialect
from routerd.wire.dialect import Call
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.openai.body import parse_request
from tests.wire.anthropic.oracles import openai_completion
from tests.wire.transcripts import Recorded, load

CALL = Call(operation="chat", path="chat/completions", model="up", asked_model="asked", answer_id="r1", created_unix_s=5)
WHOLE = [r for r in load("anthropic/msg_*.json") if b"event:" not in r.body]


def decode(body: bytes) -> tuple[dict[str, Any], UnaryAnswer]:
    out, answer = AnthropicDialect().decode(body, CALL)
    return json.loads(out), answer


def message(**fields: Any) -> bytes:
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": "end_turn"}
    return json.dumps({**base, **fields}).encode()


@pytest.mark.parametrize("recorded", WHOLE, ids=lambda r: r.name)
def test_recorded_answers_are_completions_to_openais_sdk(recorded: Recorded) -> None:
    body, answer = AnthropicDialect().decode(recorded.body, CALL)
    completion, source = openai_completion(body), json.loads(recorded.body)
    choice = completion.choices[0]
    texts = [b["text"] for b in source["content"] if b["type"] == "text"]
    assert choice.message.content == ("".join(texts) or None)
    calls = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or ()]
    assert calls == [(b["id"], b["name"], b["input"]) for b in source["content"] if b["type"] == "tool_use"]
    assert choice.finish_reason == {"end_turn": "stop", "tool_use": "tool_calls"}[source["stop_reason"]]
    assert completion.usage is not None
    assert completion.usage.total_tokens == source["usage"]["input_tokens"] + source["usage"]["output_tokens"]
    assert (completion.id, completion.model, answer.response_model) == (source["id"], "asked", source["model"])
    assert (answer.finish_reason, answer.error) == (choice.finish_reason, None)


@pytest.mark.parametrize("name", ["anthropic/msg_thinking_tool.json"])
def test_what_thinking_gives_out_takes_back_the_same_blocks(name: str) -> None:
    (recorded,) = load(name)
    out, _ = decode(recorded.body)
    source = json.loads(recorded.body)
    turn = out["choices"][0]["message"]
    assert turn["reasoning_content"] == source["content"][0]["thinking"]
    result = {"role": "tool", "tool_call_id": turn["tool_calls"][0]["id"], "content": "40 C"}
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}, turn, result], "reasoning_effort": "low"}
    request = parse_request(json.dumps(body).encode(), "chat", "chat/completions")
    sent = json.loads(AnthropicDialect().encode(request.body, CALL).body)
    expected = [{k: v for k, v in block.items() if k != "caller"} for block in source["content"]]
    assert sent["messages"][1] == {"role": "assistant", "content": expected}


def test_input_and_cache_are_the_prompt() -> None:
    usage = {
        "input_tokens": 3, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 11,
        "output_tokens_details": {"thinking_tokens": 2},
    }  # fmt: skip
    out, answer = decode(message(content=[{"type": "text", "text": "x"}], usage=usage))
    assert answer.usage == Usage(input_tokens=15, output_tokens=11, cached_tokens=7, reasoning_tokens=2)
    assert out["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 11,
        "total_tokens": 26,
        "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"), ("new_one", "stop"),
        ("model_context_window_exceeded", "length"), ("refusal", "content_filter"), (None, "stop"), (["x"], "stop"),
        ("tool_use", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons(reason: Any, finish: str) -> None:
    out, answer = decode(message(content=[{"type": "text", "text": "x"}], stop_reason=reason))
    assert (out["choices"][0]["finish_reason"], answer.finish_reason) == (finish, finish)


def test_a_refusal_says_why() -> None:
    out, _ = decode(message(stop_reason="refusal", stop_details={"type": "refusal", "explanation": "no"}))
    assert out["choices"][0]["message"]["refusal"] == "no"
    assert out["choices"][0]["message"]["content"] is None


def test_the_tool_that_stands_for_a_schema_is_content() -> None:
    block = {"type": "tool_use", "id": "t", "name": "routerd_json_answer", "input": {"a": 1}}
    out, _ = decode(message(content=[block], stop_reason="tool_use"))
    choice = out["choices"][0]
    assert (json.loads(choice["message"]["content"]), choice["finish_reason"]) == ({"a": 1}, "stop")
    assert "tool_calls" not in choice["message"]


def test_blocks_of_server_tools_say_nothing_and_a_missing_id_is_made_up() -> None:
    blocks = [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, {"type": "text", "text": "x"}]
    out, _ = decode(message(content=blocks, id=None))
    assert out["choices"][0]["message"] == {"role": "assistant", "content": "x", "refusal": None}
    assert out["id"] == "chatcmpl-r1"


def test_half_an_emoji_is_no_reason_to_lose_an_answer() -> None:
    body = message(content=[{"type": "text", "text": "x"}]).replace(b'"x"', b'"x\\ud83d"')
    assert decode(body)[0]["choices"][0]["message"]["content"] == "x\N{REPLACEMENT CHARACTER}"


def test_an_error_in_a_200_is_told_as_one() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    _, answer = AnthropicDialect().decode(body, CALL)
    assert answer.error is not None
    assert (answer.error.kind, answer.error.message) == (ErrorKind.SERVER_ERROR, "Overloaded")


@pytest.mark.parametrize("body", [b"", b"  ", b"<html>", b"[]", b"{}", b'{"content":7}', b"7", b'{"choices":[]}', b"\xff"])
def test_what_is_no_message_is_a_protocol_fault(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        decode(body)


KEYS = ["type", "text", "content", "id", "input", "usage", "error", "stop_reason"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(KEYS), c, max_size=4),
    max_leaves=10,
)


@given(VALUES | st.fixed_dictionaries({"content": VALUES, "usage": VALUES, "stop_reason": VALUES}))
@settings(max_examples=200, deadline=None)
def test_any_json_is_an_answer_or_a_protocol_fault(value: Any) -> None:
    try:
        body, answer = AnthropicDialect().decode(json.dumps(value).encode(), CALL)
    except ProtocolFault:
        return
    assert answer.error is not None or openai_completion(body).choices


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_protocol_fault_or_an_answer(body: bytes) -> None:
    try:
        AnthropicDialect().decode(body, CALL)
    except ProtocolFault:
        pass
