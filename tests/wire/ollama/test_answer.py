"""Ollama's answers, whole and streamed, as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ErrorKind, ProtocolFault
from routerd.messages import Usage
from routerd.wire.ollama import OllamaDialect
from routerd.wire.ollama.answer import created_of
from tests.wire.transcripts import Recorded, load
from tests.wire.translated import DONE, JSON, accumulated, call, chunks, completion, encoded, facts, run, told

OLLAMA = OllamaDialect()
RECORDED = load("ollama/chat_*.json")
UNARY = [r for r in RECORDED if "stream" not in r.name]
STREAMS = [r for r in RECORDED if "stream" in r.name]


def line(content: Any = "", done: bool = False, message: dict[str, Any] | None = None, **more: Any) -> bytes:
    said = {"role": "assistant", "content": content, **(message or {})}
    value = {"model": "llama3", "created_at": "2024-05-24T20:26:46.294874123Z", "message": said, "done": done, **more}
    return json.dumps(value).encode() + b"\n"


END = line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=2)
CALL = {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}


def decoded(body: bytes) -> Any:
    return completion(OLLAMA.decode(body, call())[0]).choices[0]


# ── what was recorded ──


def test_there_are_recordings() -> None:
    assert (len(UNARY), len(STREAMS)) == (3, 1)


@pytest.mark.parametrize("recorded", UNARY, ids=lambda r: r.name)
def test_every_recorded_answer(recorded: Recorded) -> None:
    body, found = OLLAMA.decode(recorded.body, call())
    theirs = json.loads(recorded.body)
    ours = completion(body)
    message = ours.choices[0].message
    asked = [one["function"] for one in theirs["message"].get("tool_calls", ())]
    assert (message.content or "") == theirs["message"]["content"]
    assert (message.model_extra or {}).get("reasoning_content") == theirs["message"].get("thinking")
    assert [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()] == [  # type: ignore[union-attr]
        (function["name"], function["arguments"]) for function in asked
    ]
    assert ours.choices[0].finish_reason == found.finish_reason == ("tool_calls" if asked else "stop")
    assert found.usage == Usage(input_tokens=theirs["prompt_eval_count"], output_tokens=theirs["eval_count"])
    assert (found.response_model, ours.model, ours.id) == (theirs["model"], "public-m", "chatcmpl-r1")
    assert ours.created == (created_of(theirs["created_at"]) or 1_700_000_000)


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_every_recorded_stream_is_the_same_at_any_split(recorded: Recorded) -> None:
    scan = OLLAMA.scan(call(stream=True, wants_usage=True))
    out = run(scan, recorded.body)
    for size in (1, 2, 7, 100):
        other = OLLAMA.scan(call(stream=True, wants_usage=True))
        assert run(other, recorded.body, size) == out
        assert facts(other) == facts(scan)
    lines = [json.loads(one) for one in recorded.body.splitlines()]
    assert told(out)["content"] == "".join(one["message"]["content"] for one in lines)
    assert told(out)["finish_reason"] == "stop"
    assert scan.usage == Usage(input_tokens=lines[-1]["prompt_eval_count"], output_tokens=lines[-1]["eval_count"])
    [usage] = [chunk.usage for chunk in chunks(out) if chunk.usage is not None]
    assert usage.total_tokens == scan.usage.total_tokens
    assert {chunk.created for chunk in chunks(out)} == {1716582406}
    assert out.endswith(DONE)
    whole = accumulated(out)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
        told(out)["content"],
        told(out)["finish_reason"],
    )
    assert len(whole.choices[0].message.tool_calls or ()) == len(told(out)["tool_calls"])


# ── whole answers ──


@pytest.mark.parametrize(
    ("reason", "said", "finish"),
    [("stop", {}, "stop"), ("stop", CALL, "tool_calls"), ("length", CALL, "length"), ("load", {}, "stop"), (None, {}, "stop")],
)
def test_finish_reasons_whole_and_streamed(reason: str | None, said: dict[str, Any], finish: str) -> None:
    assert decoded(line(done=True, message=said, done_reason=reason)).finish_reason == finish
    end = line(done=True, done_reason=reason)
    assert told(run(OLLAMA.scan(call(stream=True)), line(message=said) + end))["finish_reason"] == finish


def test_counts_may_be_absent() -> None:
    assert OLLAMA.decode(line("a", True, eval_count=5), call())[1].usage == Usage(output_tokens=5)
    assert OLLAMA.decode(line("a", True), call())[1].usage is None
    out = run(OLLAMA.scan(call(stream=True, wants_usage=True)), line("a", True))
    assert chunks(out)[-1].usage is not None


def test_a_call_goes_back_as_it_came() -> None:
    message = json.loads(OLLAMA.decode(line(message=CALL, done=True), call())[0])["choices"][0]["message"]
    assert message["content"] is None
    history = [
        {"role": "user", "content": "x"},
        message,
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "7"},
    ]
    [_, asked, result] = encoded(OLLAMA, {"messages": history})[0]["messages"]
    assert asked["tool_calls"] == [{**CALL["tool_calls"][0], "id": "call_r1_0"}]
    assert result == {"role": "tool", "content": "7", "tool_name": "f", "tool_call_id": "call_r1_0"}


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("2024-05-24T20:01:31.01558Z", 1716580891),
        ("2024-05-24T20:01:31.123456789Z", 1716580891),
        ("2024-05-24T20:01:31Z", 1716580891),
        ("2024-05-24T13:01:31.123456789-07:00", 1716580891),
        ("2024-05-24T13:01:31-07:00", 1716580891),
        ("1970-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00Z", 0),
        ("2024-05-24T20:01:31", 0),
        ("yesterday", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_times(text: str | None, unix_s: int) -> None:
    assert created_of(text) == unix_s


def test_log_probabilities() -> None:
    entries = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -2}]}, {"token": "é"}]
    content = decoded(line("aé", True, logprobs=entries)).logprobs.content
    assert [(e.token, e.logprob, e.bytes, len(e.top_logprobs)) for e in content] == [
        ("a", -0.5, [97], 1),
        ("é", 0, [0xC3, 0xA9], 0),
    ]
    out = chunks(run(OLLAMA.scan(call(stream=True)), line("aé", logprobs=entries) + END))
    assert out[1].choices[0].logprobs is not None
    assert out[1].choices[0].logprobs.content == content


def test_a_completion_has_text() -> None:
    body, _ = OLLAMA.decode(line("once", True), call(operation="completion"))
    assert json.loads(body)["choices"][0]["text"] == "once"
    out = run(OLLAMA.scan(call(operation="completion", stream=True)), line("once", message={"thinking": "hm"}) + END)
    assert [json.loads(e[6:])["choices"][0]["text"] for e in out.split(b"\n\n")[:-2]] == ["once", ""]


@pytest.mark.parametrize(
    "body", [b"", b" \n", b"<html>", b"[]", b"7", b"{}", b'{"message":null}', b'{"message":7}', line("a") + END]
)
def test_what_is_no_answer_is_a_protocol_fault(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        OLLAMA.decode(body, call())


def test_an_error_inside_a_200_is_a_fault() -> None:
    found = OLLAMA.decode(b'{"error":"model \'x\' not found"}', call())[1].error
    assert found is not None
    assert found.kind is ErrorKind.MODEL_MISSING


# ── streams ──


def test_a_line_is_out_as_soon_as_it_is_in() -> None:
    scan = OLLAMA.scan(call(stream=True))
    assert [c.choices[0].delta.content for c in chunks(scan.feed(line("a")))] == ["", "a"]
    assert [c.choices[0].delta.content for c in chunks(scan.feed(line("b")))] == ["b"]
    assert scan.close() == b""
    assert not scan.finished  # cut


def test_thoughts_then_text_then_calls_then_the_end() -> None:
    two = {"tool_calls": [*CALL["tool_calls"], {"id": "own", "function": {"name": "g", "arguments": None}}]}
    data = line(message={"thinking": "hm"}) + line("yes") + line(message=CALL) + line(message=two) + END
    message = told(run(OLLAMA.scan(call(stream=True)), data))
    assert (message["reasoning_content"], message["content"], message["finish_reason"]) == ("hm", "yes", "tool_calls")
    assert [(c["id"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("call_r1_0", '{"a":1}'), ("call_r1_1", '{"a":1}'), ("own", "{}"),
    ]  # fmt: skip


def test_what_follows_the_end_is_dropped() -> None:
    scan = OLLAMA.scan(call(stream=True))
    out = run(scan, line("a") + END + line("b"))
    assert out.endswith(DONE)
    assert out.count(DONE) == 1
    assert scan.feed(line("c")) == b""


@pytest.mark.parametrize("error", ["an error was encountered while running the model", {"message": "x", "code": 500}])
def test_an_error_line_is_the_streams_fault(error: Any) -> None:
    for size in (None, 1):
        scan = OLLAMA.scan(call(stream=True))
        out = run(scan, line("a") + json.dumps({"error": error}).encode() + b"\n" + line("b"), size)
        assert [c.choices[0].delta.content for c in chunks(out)] == ["", "a"]
        assert scan.fault is not None
        assert scan.fault.error == error
        assert scan.feed(END) == b""


def test_malformed_lines_are_left_out_and_three_in_a_row_are_a_fault() -> None:
    scan = OLLAMA.scan(call(stream=True))
    scan.feed(b"{oops\n\n7\n" + line("a") + b"{\n[]\n")
    assert (scan.malformed, scan.fault) == (4, None)
    scan.feed(b"x\n")
    assert scan.fault is not None


def test_bytes_that_are_no_utf8_are_replaced_in_a_whole_answer_and_pass_in_a_stream() -> None:
    value = line("a~b").replace(b"~", b"\xff")
    assert decoded(value).message.content == "a\ufffdb"
    assert b'"a\xffb"' in run(OLLAMA.scan(call(stream=True)), value)


def test_line_ends_and_a_last_line_without_one() -> None:
    for data in (line("a").replace(b"\n", b"\r\n") + END, line("a") + END.rstrip()):
        for size in (None, 1):
            scan = OLLAMA.scan(call(stream=True))
            out = run(scan, data, size)
            assert told(out)["content"] == "a"
            assert scan.done


def test_a_line_without_end_is_a_fault() -> None:
    scan = OLLAMA.scan(call(stream=True))
    for _ in range(17):
        scan.feed(b"x" * 1024 * 1024)
    assert scan.fault is not None


PIECES = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda v: json.dumps(v).encode() + b"\n"),
    st.builds(
        line,
        JSON,
        st.booleans(),
        st.dictionaries(st.sampled_from(["content", "thinking", "tool_calls"]), JSON, max_size=2),
        logprobs=JSON,
        eval_count=JSON,
    ),
    st.sampled_from([CALL, {"thinking": "x"}]).map(lambda m: line(message=m)),
)


@given(st.lists(PIECES, max_size=8), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_the_same_at_any_split_and_never_an_exception(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    scan, other = OLLAMA.scan(call(stream=True, wants_usage=True)), OLLAMA.scan(call(stream=True, wants_usage=True))
    out = run(scan, data)
    assert run(other, data, size) == out
    assert facts(other) == facts(scan)
    for event in out.split(b"\n\n")[:-1]:
        assert event == DONE.strip() or isinstance(json.loads(event[6:].decode("utf-8", "replace")), dict)


@given(
    st.binary(max_size=60)
    | JSON.map(lambda v: json.dumps(v).encode())
    | st.builds(line, JSON, message=st.just({}), logprobs=JSON)
)
@settings(max_examples=200, deadline=None)
def test_any_body_is_an_answer_or_a_protocol_fault(body: bytes) -> None:
    try:
        out, found = OLLAMA.decode(body, call())
    except ProtocolFault:
        return
    if found.error is None:
        completion(out)
