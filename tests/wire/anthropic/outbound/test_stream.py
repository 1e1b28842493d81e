"""What a Messages stream becomes: the SDKs of both vendors must see the same answer, however the bytes are cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.messages import Usage
from routerd.wire.anthropic import AnthropicDialect
from routerd.wire.anthropic.outbound.stream import MessagesScan
from routerd.wire.dialect import Call
from routerd.wire.openai.relay_scan import DONE, RelayScan
from routerd.wire.sse import MAX_EVENT_BYTES
from tests.wire.anthropic.oracles import anthropic_message, joined, openai_chunks
from tests.wire.transcripts import Recorded, load

STREAMS = load("anthropic/msg_stream*.json")
ASKED: dict[str, Any] = {"operation": "chat", "path": "", "model": "up", "asked_model": "asked", "answer_id": "r", "stream": True}


def event(kind: str, pad: str = "", **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})[:-1]}{pad}}}\n\n".encode()


def start(**message: Any) -> bytes:
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
    return event("message_start", message={**base, "usage": {"input_tokens": 3, "output_tokens": 1}, **message})


def block(index: int, opening: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    parts = [event("content_block_start", index=index, content_block=opening)]
    parts += [event("content_block_delta", "   ", index=index, delta=delta) for delta in deltas]
    return b"".join([*parts, event("content_block_stop", index=index)])


def text(value: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": value}


def end(reason: str | None = "end_turn", **delta: Any) -> bytes:
    usage = {"output_tokens": 9}
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None, **delta}, usage=usage) + STOP


STOP = event("message_stop")
PING = event("ping")
TEXT = {"type": "text", "text": ""}
HELLO = block(0, TEXT, text("hel"), text("lo \u00e9\n"))
WHOLE = start() + PING + HELLO + end()


def scan(data: bytes, size: int | None = None, *, wants_usage: bool = True) -> tuple[MessagesScan, bytes]:
    scanner = AnthropicDialect().scan(Call(**ASKED, wants_usage=wants_usage))
    assert isinstance(scanner, MessagesScan)
    step = size or max(1, len(data))
    out = b"".join(scanner.feed(data[i : i + step]) for i in range(0, len(data), step))
    return scanner, out + scanner.close()


def facts(scanner: MessagesScan) -> tuple[Any, ...]:
    return scanner.content, scanner.finished, scanner.done, scanner.usage, scanner.fault, scanner.malformed


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_recorded_streams_say_the_same_to_both_sdks(recorded: Recorded) -> None:
    scanner, out = scan(recorded.body)
    truth, seen = anthropic_message(recorded.body), joined(openai_chunks(out))
    by_type = {kind: [b for b in truth["content"] if b["type"] == kind] for kind in ("text", "thinking", "tool_use")}
    assert seen["content"] == "".join(b["text"] for b in by_type["text"])
    assert seen["reasoning"] == "".join(b["thinking"] for b in by_type["thinking"])
    assert [d["signature"] for d in seen["details"]] == [b["signature"] for b in by_type["thinking"]]
    calls = [(c["id"], c["name"], json.loads(c["arguments"])) for c in seen["calls"]]
    assert calls == [(b["id"], b["name"], b["input"]) for b in by_type["tool_use"]]
    assert seen["finish"] == {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length"}[truth["stop_reason"]]
    counts = truth["usage"]
    given = counts["input_tokens"] + counts["cache_creation_input_tokens"] + counts["cache_read_input_tokens"]
    assert scanner.usage is not None
    assert (scanner.usage.input_tokens, scanner.usage.output_tokens) == (given, counts["output_tokens"])
    last = openai_chunks(out)[-1]
    assert last.usage is not None
    assert (last.choices, last.usage.prompt_tokens) == ([], given)
    assert facts(scanner)[:3] == (True, True, True)


@pytest.mark.parametrize("recorded", load("anthropic/*stream*.json"), ids=lambda r: r.name)
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("crlf", [False, True])
def test_recorded_streams_are_the_same_at_any_split_and_line_end(recorded: Recorded, size: int, crlf: bool) -> None:
    whole, out = scan(recorded.body)
    body = recorded.body.replace(b"\n", b"\r\n") if crlf else recorded.body
    cut, cut_out = scan(body, size)
    assert cut_out == out
    assert facts(cut) == facts(whole)


def test_what_comes_out_is_a_good_stream_to_our_own_scan() -> None:
    _, out = scan(WHOLE)
    check = RelayScan(withhold_usage=False)
    assert check.feed(out) == out
    assert (check.content, check.finished, check.done, check.malformed) == (True, True, True, 0)
    assert check.usage == Usage(input_tokens=3, output_tokens=9)


def test_every_event_is_answered_by_the_read_that_completes_it() -> None:
    scanner, _ = scan(b"")
    scanner = MessagesScan(Call(operation="chat", path="", model="up", stream=True))
    outs = [scanner.feed(e + b"\n\n") for e in WHOLE.split(b"\n\n") if e]
    said = [b"role" in o or b"content" in o or b"finish_reason" in o or b"DONE" in o for o in outs]
    assert said == [True, False, False, True, True, False, True, True]


def test_the_role_alone_is_no_content() -> None:
    scanner, out = scan(start() + PING + event("content_block_start", index=0, content_block=TEXT))
    assert not scanner.content
    assert b'"role":"assistant"' in out


def test_the_usage_chunk_is_for_those_who_asked() -> None:
    scanner, out = scan(WHOLE, wants_usage=False)
    assert b"usage" not in out
    assert scanner.usage == Usage(input_tokens=3, output_tokens=9)


def test_counts_of_a_stream_are_cumulative() -> None:
    opening = start(usage={"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 1})
    later = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 5, "output_tokens": 8})
    scanner, _ = scan(opening + HELLO + later + STOP)
    assert scanner.usage == Usage(input_tokens=11, output_tokens=8, cached_tokens=6)


def test_tools_are_numbered_among_themselves_and_no_input_is_an_empty_object() -> None:
    def tool(name: str, **more: Any) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"id_{name}", "name": name, "input": {}, **more}

    def part(value: str) -> dict[str, Any]:
        return {"type": "input_json_delta", "partial_json": value}

    body = start() + HELLO + block(1, tool("a"), part("")) + block(2, tool("b"), part(""), part('{"x":'), part("1}"))
    body += block(3, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, part('{"q":1}'))
    body += block(4, tool("c", input={"y": 2})) + end("tool_use")
    seen = joined(openai_chunks(scan(body)[1]))
    assert [(c["name"], json.loads(c["arguments"])) for c in seen["calls"]] == [("a", {}), ("b", {"x": 1}), ("c", {"y": 2})]
    assert (seen["finish"], seen["content"]) == ("tool_calls", "hello \u00e9\n")


def test_the_tool_that_stands_for_a_schema_streams_as_content() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "routerd_json_answer", "input": {}}
    parts = [{"type": "input_json_delta", "partial_json": p} for p in ("", '{"a": "', 'b"}')]
    seen = joined(openai_chunks(scan(start() + block(0, tool, *parts) + end("tool_use"))[1]))
    assert (json.loads(seen["content"]), seen["calls"], seen["finish"]) == ({"a": "b"}, [], "stop")
    assert joined(openai_chunks(scan(start() + block(0, tool) + end("tool_use"))[1]))["content"] == "{}"


def test_thinking_comes_twice_as_text_and_whole_with_its_signature() -> None:
    thought = [{"type": "thinking_delta", "thinking": t} for t in ("h", "m\u00e9")]
    signed = {"type": "signature_delta", "signature": "sig"}
    body = start() + block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thought, signed)
    body += block(1, {"type": "redacted_thinking", "data": "xx"}) + block(2, TEXT, text("a")) + end()
    seen = joined(openai_chunks(scan(body)[1]))
    assert (seen["reasoning"], seen["content"]) == ("hm\u00e9", "a")
    assert [(d["type"], d.get("text"), d.get("signature"), d.get("data"), d["index"]) for d in seen["details"]] == [
        ("reasoning.text", "hm\u00e9", "sig", None, 0),
        ("reasoning.encrypted", None, None, "xx", 1),
    ]


def test_a_refusal_is_a_content_filter_with_its_reason() -> None:
    _, out = scan(start() + HELLO + end("refusal", stop_details={"type": "refusal", "explanation": "no"}))
    last = openai_chunks(out)[-2].choices[0]
    assert (last.finish_reason, last.delta.refusal) == ("content_filter", "no")


def test_an_error_before_the_finish_is_the_streams_fault_and_nothing_follows() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    scanner, out = scan(start() + HELLO + error + end())
    assert scanner.fault is not None
    assert scanner.fault.error == {"type": "overloaded_error", "message": "Overloaded"}
    assert (scanner.finished, scanner.done, b"DONE" in out) == (False, False, False)
    assert scanner.feed(WHOLE) == b""


def test_an_error_after_the_finish_is_nothing() -> None:
    error = event("error", error={"type": "api_error", "message": "late"})
    scanner, out = scan(start() + HELLO + end().removesuffix(STOP) + error)
    assert (scanner.fault, scanner.finished, scanner.done) == (None, True, False)
    assert b'"usage"' in out  # the relay adds [DONE] behind it


def test_a_cut_stream_is_not_finished() -> None:
    scanner, out = scan(start() + HELLO)
    assert (scanner.content, scanner.finished, scanner.done, scanner.fault) == (True, False, False, None)
    assert b"usage" not in out


def test_a_last_event_without_its_blank_line_counts() -> None:
    scanner, out = scan(WHOLE.rstrip(b"\n"))
    assert scanner.done
    assert out.endswith(b"data: [DONE]\n\n")


def test_no_stop_reason_at_the_end_is_a_stop() -> None:
    assert joined(openai_chunks(scan(start() + HELLO + end(None))[1]))["finish"] == "stop"


def test_what_follows_the_end_is_dropped() -> None:
    assert scan(WHOLE + WHOLE)[1] == scan(WHOLE)[1]


def test_unknown_events_deltas_and_shapes_are_skipped_and_not_malformed() -> None:
    odd = event("message_thought", x=1) + event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}})
    odd += b": comment\n\nid: 4\n\n" + event("content_block_delta", index=0, delta=None)
    for delta in (7, {"type": "text_delta", "text": 7}):
        odd += event("content_block_delta", index=0, delta=delta)
    scanner, out = scan(start() + odd + HELLO + odd + end())
    assert (out, scanner.malformed) == (scan(WHOLE)[1], 0)


def test_malformed_events_are_left_out_until_the_third_in_a_row() -> None:
    bad = b"event: content_block_delta\ndata: {oops\n\n"
    scanner, out = scan(start() + bad + bad + HELLO + bad + end())
    assert (scanner.malformed, scanner.fault) == (3, None)
    assert out == scan(WHOLE)[1]
    scanner, out = scan(start() + HELLO + bad * 3 + end())
    assert scanner.fault is not None
    assert "malformed" in scanner.fault.message


def test_half_an_emoji_passes_as_a_replacement() -> None:
    body = start() + block(0, TEXT, text("a"), text("b")).replace(b'"b"', b'"b\\ud83d"') + end()
    assert joined(openai_chunks(scan(body)[1]))["content"] == "ab\N{REPLACEMENT CHARACTER}"


def test_an_event_too_large_is_a_fault() -> None:
    scanner, _ = scan(start() + b"data: " + b"x" * (MAX_EVENT_BYTES + 1), 1024 * 1024)
    assert scanner.fault is not None


PIECES = [start(), PING, HELLO, end(), STOP, b"event: error\ndata: {}\n\n", b"data: {\n\n", b"\r", b"\n", b'"', DONE]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=12), max_size=8), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_any_bytes_cut_anyhow_give_the_same_and_raise_nothing(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    whole, out = scan(data)
    cut, cut_out = scan(data, size)
    assert (cut_out, facts(cut)) == (out, facts(whole))


def test_every_pair_of_splits_of_a_short_stream() -> None:
    data = start() + block(0, TEXT, text("\u00e9")) + end()
    expected = scan(data)[1]
    for a, b in itertools.combinations(range(0, len(data), 13), 2):
        scanner = MessagesScan(Call(**ASKED, wants_usage=True))
        assert scanner.feed(data[:a]) + scanner.feed(data[a:b]) + scanner.feed(data[b:]) + scanner.close() == expected
