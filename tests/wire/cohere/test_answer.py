"""Cohere's answers, whole and streamed, as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.cohere import CohereDialect
from tests.wire.transcripts import Recorded, load
from tests.wire.translated import DONE, JSON, accumulated, call, chunks, completion, facts, run, told

COHERE = CohereDialect()
STREAMS = load("cohere/chat_stream*.json")


def event(kind: str, message: Any = None, **more: Any) -> bytes:
    delta = {"delta": {"message": message}} if message is not None else {}
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **delta, **more})}\n\n".encode()


def text(said: str, **more: Any) -> bytes:
    return event("content-delta", {"content": {"text": said}}, index=0, **more)


def end(reason: str = "COMPLETE", **more: Any) -> bytes:
    return event("message-end", delta={"finish_reason": reason, **more})


START = event("message-start", {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}, id="i1")


def answer(content: Any = (), finish: str = "COMPLETE", **message: Any) -> bytes:
    said = {"role": "assistant", "content": content, **message}
    return json.dumps({"id": "i1", "message": said, "finish_reason": finish}).encode()


def decoded(body: bytes) -> Any:
    return completion(COHERE.decode(body, call())[0]).choices[0]


def streamed(*events: bytes, **more: Any) -> Any:
    return accumulated(run(COHERE.scan(call(stream=True, **more)), b"".join((START, *events)))).choices[0]


# ── what was recorded ──


def test_a_recorded_answer() -> None:
    [recorded] = load("cohere/chat_basic.json")
    theirs = json.loads(recorded.body)
    body, found = COHERE.decode(recorded.body, call())
    ours = completion(body)
    assert ours.choices[0].message.content == theirs["message"]["content"][0]["text"]
    assert (ours.id, ours.model, found.finish_reason) == (f"chatcmpl-{theirs['id']}", "public-m", "stop")
    assert found.usage == Usage(input_tokens=69, output_tokens=89)


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_a_recorded_stream_is_the_same_at_any_split(recorded: Recorded) -> None:
    scan = COHERE.scan(call(stream=True, wants_usage=True))
    out = run(scan, recorded.body)
    for size in (1, 2, 7, 100):
        other = COHERE.scan(call(stream=True, wants_usage=True))
        assert run(other, recorded.body, size) == out
        assert facts(other) == facts(scan)
    assert out.endswith(DONE)
    message = accumulated(out).choices[0].message
    if "tool" in recorded.name:
        assert message.content == "I will search for the current time and weather in Tokyo."
        assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()] == [  # type: ignore[union-attr]
            ("get_time_dg5wwc00d8v5", "get_time", {"location": "Tokyo"}),
            ("get_weather_bc8241gkqss5", "get_weather", {"location": "Tokyo"}),
        ]
        assert scan.usage == Usage(input_tokens=968, output_tokens=83)
    else:
        assert message.content == "Sure! Here's counting from 1 to 3:\n\n1, 2, 3."
        assert scan.usage == Usage(input_tokens=502, output_tokens=24, cached_tokens=448)


# ── whole and streamed ──


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("COMPLETE", "stop"), ("STOP_SEQUENCE", "stop"), ("MAX_TOKENS", "length"), ("TOOL_CALL", "tool_calls"),
     ("ERROR_LIMIT", "length"), ("ERROR_TOXIC", "content_filter"), ("NEW", "stop")],
)  # fmt: skip
def test_finish_reasons(reason: str, finish: str) -> None:
    assert decoded(answer([{"type": "text", "text": "a"}], reason)).finish_reason == finish
    out = run(COHERE.scan(call(stream=True)), START + text("a") + end(reason))
    assert told(out)["finish_reason"] == finish


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT"])
def test_an_answer_that_failed_is_an_error(reason: str) -> None:
    found = COHERE.decode(answer([], reason), call())[1].error
    assert found is not None
    assert found.message.startswith("the generation")
    scan = COHERE.scan(call(stream=True))
    run(scan, START + text("a") + end(reason, error="the model crashed"))
    assert scan.fault is not None
    assert (scan.fault.error, scan.finished) == ("the model crashed", False)


def test_thoughts_plans_and_citations() -> None:
    cited = [{"start": 0, "end": 3, "text": "yes", "sources": [{"type": "document", "id": "doc:1"}]}]
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]
    whole = decoded(answer(blocks, citations=cited)).message.model_dump()
    assert (whole["content"], whole["reasoning_content"], whole["citations"]) == ("yes", "hm", cited)
    stream = run(
        COHERE.scan(call(stream=True)),
        START
        + event("content-start", {"content": {"type": "thinking", "thinking": ""}}, index=0)
        + event("content-delta", {"content": {"thinking": "hm"}}, index=0)
        + event("content-end", index=0)
        + event("content-start", {"content": {"type": "text", "text": ""}}, index=1)
        + text("yes")
        + event("citation-start", {"citations": cited[0]}, index=0)
        + event("citation-end", index=0)
        + event("debug", prompt="x")
        + end(),
    )
    deltas = [chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in chunks(stream)]
    opening = {"content": "", "role": "assistant"}
    numbered = [{"index": 0, **cited[0]}]
    assert deltas == [opening, {"reasoning_content": "hm"}, {"content": "yes"}, {"citations": numbered}, {}]
    two = event("citation-start", {"citations": cited[0]}, index=0) + event("citation-start", {"citations": cited[0]}, index=1)
    assert len(streamed(text("yes"), two, end()).message.model_extra["citations"]) == 2


def test_a_call_without_arguments_has_an_empty_object() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    opened = event("tool-call-start", {"tool_calls": called}, index=0)
    for events in ([opened, event("tool-call-end", index=0)], [opened]):
        [one] = streamed(*events, end("TOOL_CALL")).message.tool_calls
        assert (one.id, one.function.name, one.function.arguments) == ("c", "f", "{}")
    [one] = decoded(answer(None, "TOOL_CALL", tool_calls=[called])).message.tool_calls
    assert one.function.arguments == "{}"


def test_log_probabilities_are_those_of_pieces_of_text() -> None:
    entry = {"text": "né", "token_ids": [1, 2], "logprobs": [-0.5, -0.25]}
    body = {**json.loads(answer([{"type": "text", "text": "né"}])), "logprobs": [entry]}
    [whole] = decoded(json.dumps(body).encode()).logprobs.content
    assert (whole.token, whole.logprob, whole.bytes) == ("né", -0.75, [110, 0xC3, 0xA9])
    assert streamed(text("né", logprobs=entry), end()).logprobs.content == [whole]


def test_what_was_paid_for_stands_in_where_tokens_are_not_told() -> None:
    scan = COHERE.scan(call(stream=True))
    run(scan, START + text("a") + end(usage={"billed_units": {"input_tokens": 3.0, "output_tokens": 1}}))
    assert scan.usage == Usage(input_tokens=3, output_tokens=1)


def test_embeddings() -> None:
    body = {"id": "x", "embeddings": {"float": [[0.5, 1]]}, "meta": {"billed_units": {"input_tokens": 2}}}
    out, found = COHERE.decode(json.dumps(body).encode(), call(operation="embedding"))
    assert json.loads(out)["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, 1]}]
    assert found.usage == Usage(input_tokens=2)
    assert COHERE.decode(b'{"message":"no"}', call(operation="embedding"))[1].error is not None
    with pytest.raises(ProtocolFault):
        COHERE.decode(b"{}", call(operation="embedding"))
    ranked = b'{"id":"x","results":[{"index":0,"relevance_score":0.5}],"meta":{}}'
    assert COHERE.decode(ranked, call(operation="rerank"))[0] == ranked


# ── what may go wrong ──


@pytest.mark.parametrize("body", [b'{"id":"x","message":"internal error"}', b'{"error":{"message":"internal error"}}'])
def test_an_error_inside_a_200_is_a_fault_whole_and_in_a_stream(body: bytes) -> None:
    found = COHERE.decode(body, call())[1].error
    assert found is not None
    assert found.message == "internal error"
    scan = COHERE.scan(call(stream=True))
    run(scan, START + text("a") + b"data: " + body + b"\n\n" + text("b") + end())
    assert scan.fault is not None
    assert (scan.finished, scan.done) == (False, False)


@pytest.mark.parametrize("body", [b"", b"  ", b"<html>", b"[]", b"7", b"{}", b'{"message":7}', b"[" * 100_000])
def test_what_is_no_answer_is_a_protocol_fault(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        COHERE.decode(body, call())


def test_an_event_is_out_as_soon_as_it_is_in_and_a_cut_stream_is_not_finished() -> None:
    scan = COHERE.scan(call(stream=True))
    assert [c.choices[0].delta.content for c in chunks(scan.feed(START))] == [""]
    assert not scan.content
    assert [c.choices[0].delta.content for c in chunks(scan.feed(text("a")))] == ["a"]
    assert scan.close() == b""
    assert (scan.content, scan.finished, scan.done) == (True, False, False)


def test_malformed_events_are_left_out_and_three_in_a_row_are_a_fault() -> None:
    scan = COHERE.scan(call(stream=True))
    bad = b"data: {oops\n\n"
    scan.feed(START + bad + bad + text("a") + bad + bad)
    assert (scan.malformed, scan.fault) == (4, None)
    scan.feed(bad)
    assert scan.fault is not None


PIECES = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda v: b"data: " + json.dumps(v).encode() + b"\n\n"),
    st.sampled_from([b"\r", b"\n", b"data: ", START, text("a"), end()]),
    st.builds(
        event,
        st.sampled_from(["content-start", "content-delta", "tool-plan-delta", "tool-call-start", "tool-call-end"]),
        st.fixed_dictionaries({}, optional={"content": JSON, "tool_plan": JSON, "citations": JSON, "tool_calls": JSON})
        | st.builds(lambda n, a: {"tool_calls": {"id": n, "function": {"name": n, "arguments": a}}}, JSON, JSON),
        logprobs=JSON,
    ),
    st.builds(lambda reason, usage: end(reason, usage=usage), JSON, JSON),
)


@given(st.lists(PIECES, max_size=8), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_the_same_at_any_split_and_never_an_exception(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    scan, other = COHERE.scan(call(stream=True, wants_usage=True)), COHERE.scan(call(stream=True, wants_usage=True))
    out = run(scan, data)
    assert run(other, data, size) == out
    assert facts(other) == facts(scan)
    for one in out.split(b"\n\n")[:-1]:
        assert one == DONE.strip() or isinstance(json.loads(one[6:].decode("utf-8", "replace")), dict)


ANSWERS = st.builds(answer, JSON, finish=JSON, tool_calls=JSON, citations=JSON)


@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()) | ANSWERS)
@settings(max_examples=200, deadline=None)
def test_any_body_is_an_answer_or_a_protocol_fault(body: bytes) -> None:
    try:
        out, found = COHERE.decode(body, call())
    except ProtocolFault:
        return
    if found.error is None:
        completion(out)
