"""OpenAI's answers as Anthropic's SDK sees them, and back from the API's own form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ProtocolFault
from routerd.messages import ModelRequest
from routerd.wire.anthropic import AnthropicDialect, MessagesClient
from routerd.wire.anthropic.inbound.client import EncodingScan
from routerd.wire.anthropic.inbound.encoder import MessagesEncoder, answer_to_messages
from routerd.wire.anthropic.inbound.native import NativeScan
from routerd.wire.anthropic.inbound.request import parse_messages
from routerd.wire.dialect import Call, Scan
from routerd.wire.openai.body import encode_body
from routerd.wire.openai.relay_scan import DONE, RelayScan
from tests.wire.anthropic.oracles import anthropic_message
from tests.wire.transcripts import Recorded, load

OPENAI = [r for r in load("*/chat_*.json") if r.status == 200 and b'"choices"' in r.body]
STREAMS = [r for r in OPENAI if b"data: {" in r.body]
WHOLE = [r for r in OPENAI if r.body.startswith(b"{")]


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c1", "choices": [choice], **more}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 4}}
USAGE_CHUNK = b"data: " + json.dumps({"id": "c1", "choices": [], "usage": USAGE}).encode() + b"\n\n"
ROLE = chunk({"role": "assistant", "content": ""})


def say(data: bytes, size: int | None = None) -> bytes:
    encoder = MessagesEncoder("asked")
    step = size or max(1, len(data))
    return b"".join(encoder.feed(data[i : i + step]) for i in range(0, len(data), step)) + encoder.close()


def blocks(*events: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = anthropic_message(say(ROLE + b"".join(events) + chunk(finish="stop") + DONE))["content"]
    return found


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_recorded_streams_are_messages_to_anthropics_sdk(recorded: Recorded) -> None:
    out = say(recorded.body)
    message = anthropic_message(out)
    body = recorded.body if DONE.strip() in recorded.body else recorded.body.rstrip(b"\n") + b"\n\n" + DONE
    chunks = [json.loads(e[6:]) for e in body.decode().split("\n\n") if e.startswith("data: {")]
    texts = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
    said = "".join(t for t in texts if isinstance(t, str))
    assert "".join(b["text"] for b in message["content"] if b["type"] == "text") == said or "mistral" in recorded.name
    assert message["stop_reason"] in ("end_turn", "max_tokens", "tool_use")
    assert (message["stop_reason"] == "tool_use") == any(b["type"] == "tool_use" for b in message["content"])
    assert message["model"] == "asked"
    for size in (1, 9):
        assert say(recorded.body, size) == out


@pytest.mark.parametrize("recorded", load("anthropic/msg_stream*.json"), ids=lambda r: r.name)
def test_a_stream_through_both_translations_says_the_same(recorded: Recorded) -> None:
    call = Call(operation="chat", path="", model="up", asked_model="asked", stream=True, wants_usage=True)
    scan = AnthropicDialect().scan(call)
    message, truth = anthropic_message(say(scan.feed(recorded.body) + scan.close())), anthropic_message(recorded.body)
    assert message["stop_reason"] == truth["stop_reason"]
    counts = ("input_tokens", "output_tokens", "cache_read_input_tokens")
    assert {k: message["usage"][k] for k in counts} == {k: truth["usage"][k] for k in counts}

    def plain(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in b.items() if k not in ("signature", "caller", "citations")} for b in content]

    assert plain(message["content"]) == plain(truth["content"])


def test_blocks_are_closed_before_the_next_is_opened() -> None:
    events = [
        chunk({"reasoning_content": "h"}), chunk({"reasoning_content": "m"}), chunk({"content": "a"}), chunk({"content": "b"}),
        chunk({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "y", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk(finish="tool_calls"), USAGE_CHUNK, DONE,
    ]  # fmt: skip
    out = say(ROLE + b"".join(events))
    order = [
        (value["type"].removeprefix("content_block_"), value.get("index"))
        for line in out.decode().split("\n")
        if line.startswith("data: ") and (value := json.loads(line[6:]))
    ]
    assert [entry for entry in order if entry[0] in ("start", "stop")] == [(s, i) for i in range(4) for s in ("start", "stop")]
    message = anthropic_message(out)
    assert [(b["type"], b.get("text") or b.get("thinking") or b.get("input")) for b in message["content"]] == [
        ("thinking", "hm"), ("text", "ab"), ("tool_use", {"a": 1}), ("tool_use", {}),
    ]  # fmt: skip
    assert (message["stop_reason"], message["id"]) == ("tool_use", "msg_c1")
    assert message["usage"]["input_tokens"] == 6
    assert message["usage"]["cache_read_input_tokens"] == 4


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call"])
def test_a_finish_behind_a_tool_call_is_tool_use(finish: str) -> None:
    call = chunk({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": "{}"}}]})
    assert anthropic_message(say(call + chunk(finish=finish) + DONE))["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("eos", "end_turn")]
)
def test_finish_reasons(finish: str, reason: str) -> None:
    assert anthropic_message(say(chunk({"content": "a"}) + chunk(finish=finish) + DONE))["stop_reason"] == reason
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": finish}]}
    assert json.loads(answer_to_messages(json.dumps(body).encode(), "m"))["stop_reason"] == reason


def test_whole_calls_without_numbers_or_ids_are_calls_of_their_own() -> None:
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": "{}"}}]
    found = blocks(chunk({"tool_calls": [calls[0]]}), chunk({"tool_calls": [calls[1]]}))
    assert [(b["name"], b["input"], bool(b["id"])) for b in found] == [("f", {"a": 1}, True), ("g", {}, True)]


def test_calls_that_mix_break_the_stream() -> None:
    def part(index: int, **call: Any) -> bytes:
        return chunk({"tool_calls": [{"index": index, "function": {"arguments": "{"}, **call}]})

    encoder = MessagesEncoder("asked")
    encoder.feed(ROLE + part(0, id="a") + part(1, id="b") + part(0))
    assert "tool calls" in encoder.broken
    assert encoder.feed(chunk({"content": "x"})) == b""
    scan = EncodingScan(RelayScan(withhold_usage=False), "asked")
    scan.feed(ROLE + part(0, id="a") + part(1, id="b") + part(0))
    assert scan.fault is not None


def test_a_refusal_is_text_and_the_reason() -> None:
    message = anthropic_message(say(ROLE + chunk({"refusal": "no"}) + DONE))
    assert ([b["text"] for b in message["content"]], message["stop_reason"]) == (["no"], "refusal")


def test_an_error_event_is_told_in_anthropics_words_and_is_the_last() -> None:
    error = b'data: {"error":{"message":"slow down","type":"rate_limit_error"}}\n\n'
    out = say(ROLE + chunk({"content": "a"}) + error + DONE)
    assert out.endswith(b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}\n\n')
    assert b"message_stop" not in out


def test_a_stream_without_a_finish_is_not_ended() -> None:
    assert b"message_stop" not in say(ROLE + chunk({"content": "a"}))
    assert say(ROLE + chunk({"content": "a"}) + chunk(finish="stop")).endswith(b'{"type":"message_stop"}\n\n')


def test_every_event_but_the_finish_is_answered_at_once() -> None:
    encoder = MessagesEncoder("asked")
    outs = [
        encoder.feed(e) for e in (ROLE, chunk({"content": "a"}), chunk({"content": "b"}), chunk(finish="stop"), USAGE_CHUNK, DONE)
    ]
    assert [bool(out) for out in outs] == [True, True, True, False, False, True]


def test_half_an_emoji_passes_as_a_replacement() -> None:
    (block,) = blocks(chunk({"content": "X"}).replace(b'"X"', b'"a\\ud83d"'))
    assert block["text"] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_returns_to_the_engine_in_its_own_field(field: str) -> None:
    found = blocks(chunk({field: "hm"}), chunk({"content": "a"}))
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": found}]}
    request = parse_messages(json.dumps(body).encode())
    sent = json.loads(encode_body(request.body, model="m", extra={}, include_usage=False))["messages"][1]
    assert sent == {"role": "assistant", "content": "a", field: "hm"}


def test_reasoning_details_return_whole() -> None:
    pieces: list[dict[str, Any]] = [
        {"type": "reasoning.text", "text": "h", "index": 0, "format": "x"},
        {"type": "reasoning.text", "text": "m", "index": 0, "signature": None},
        {"type": "reasoning.text", "index": 0, "signature": "sig"},
        {"type": "reasoning.encrypted", "data": "zz", "index": 1},
    ]
    events = [chunk({"reasoning": p.get("text"), "reasoning_details": [p]}) for p in pieces]
    found = blocks(*events, chunk({"content": "a"}))
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": found}]}
    request = parse_messages(json.dumps(body).encode())
    sent = json.loads(encode_body(request.body, model="m", extra={}, include_usage=False))["messages"][1]
    assert sent["reasoning"] == "hm"
    assert sent["reasoning_details"] == [
        {"type": "reasoning.text", "text": "hm", "index": 0, "format": "x", "signature": "sig"},
        {"type": "reasoning.encrypted", "data": "zz", "index": 1},
    ]


@pytest.mark.parametrize("recorded", WHOLE, ids=lambda r: r.name)
def test_recorded_answers_are_messages_to_anthropics_sdk(recorded: Recorded) -> None:
    source = json.loads(recorded.body)
    value = json.loads(answer_to_messages(recorded.body, "asked"))
    message = Message.model_validate(value, strict=True)
    told = source["choices"][0]["message"]
    texts = "".join(b.text for b in message.content if b.type == "text")
    assert texts == (told.get("content") or "")
    calls = [(b.id, b.name, b.input) for b in message.content if b.type == "tool_use"]
    assert calls == [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in told.get("tool_calls") or ()
    ]
    assert message.stop_reason in ("end_turn", "max_tokens", "tool_use")


def test_broken_arguments_are_told_and_not_lost() -> None:
    call = {"id": "x", "function": {"name": "f", "arguments": '{"a": '}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    (block,) = json.loads(answer_to_messages(json.dumps(body).encode(), "m"))["content"]
    assert block["input"] == {"invalid_json": '{"a": '}


def test_a_message_stays_as_it_is() -> None:
    (recorded,) = load("anthropic/msg_basic.json")
    assert answer_to_messages(recorded.body, "asked") == recorded.body


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'{"choices":7}'])
def test_what_is_no_answer_is_a_protocol_fault(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        answer_to_messages(body, "m")


REQUEST = ModelRequest(operation="chat", path="chat/completions", model="asked", body={}, stream=True)


def test_the_clients_scan_tells_the_facts_of_the_one_inside() -> None:
    scan: Scan = MessagesClient().scan(RelayScan(withhold_usage=False), REQUEST)
    out = scan.feed(ROLE)
    assert (b"message_start" in out, scan.content) == (True, False)
    out += scan.feed(chunk({"content": "a"}) + chunk(finish="stop"))
    assert (scan.content, scan.finished, scan.done) == (True, True, False)
    out += scan.feed(USAGE_CHUNK + DONE) + scan.close()
    assert (scan.done, scan.fault, scan.malformed) == (True, None, 0)
    assert scan.usage is not None
    assert anthropic_message(out)["content"][0]["text"] == "a"


def test_an_end_that_the_upstream_did_not_mark_is_said_by_the_client() -> None:
    client = MessagesClient()
    scan = client.scan(RelayScan(withhold_usage=False), REQUEST)
    out = scan.feed(chunk({"content": "a"}) + chunk(finish="stop")) + scan.close() + client.own(scan, DONE)
    assert anthropic_message(out)["stop_reason"] == "end_turn"
    assert client.own(NativeScan(), DONE) == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_errors_have_anthropics_shape() -> None:
    client = MessagesClient()
    error = {"message": "m", "type": "upstream_timeout", "param": None, "code": "x", "attempts": [1]}
    assert json.loads(client.error(504, error, "r1")) == {
        "type": "error",
        "error": {"type": "timeout_error", "message": "m", "code": "x", "attempts": [1]},
        "request_id": "r1",
    }
    assert json.loads(client.error(418, error, ""))["error"]["type"] == "invalid_request_error"
    assert json.loads(client.error(500, error, ""))["error"]["type"] == "api_error"
    event = client.own(NativeScan(), b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
    assert event.startswith(b"event: error\ndata: ")
    assert json.loads(event[19:])["error"]["type"] == "api_error"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda c: (
        st.lists(c, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "tool_calls", "function", "name", "arguments", "index", "type", "text"]), c, max_size=4
        )
    ),
    max_leaves=10,
)
FIELDS = ["content", "reasoning", "reasoning_details", "tool_calls", "refusal"]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4), VALUES, VALUES)
@settings(max_examples=200, deadline=None)
def test_any_answer_is_a_message_or_a_protocol_fault(message: dict[str, Any], finish: Any, usage: Any) -> None:
    body = json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}).encode()
    try:
        Message.model_validate(json.loads(answer_to_messages(body, "m")))
    except ProtocolFault:
        pass


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3), max_size=4), VALUES, st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_any_stream_says_the_same_at_any_split_and_raises_nothing(deltas: list[Any], usage: Any, size: int) -> None:
    data = b"".join(chunk(delta) for delta in deltas) + chunk(finish="stop", usage=usage) + DONE
    out = say(data)
    assert say(data, size) == out
    if b"message_stop" in out:
        anthropic_message(out)


@given(
    st.lists(st.sampled_from([ROLE, USAGE_CHUNK, DONE, b"data: {\n\n", b"\r\n"]) | st.binary(max_size=10), max_size=6),
    st.integers(1, 30),
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_raise_nothing(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    assert say(data, size) == say(data)
