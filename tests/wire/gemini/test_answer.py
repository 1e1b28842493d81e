"""Gemini's answers, whole and streamed, as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ErrorKind, ProtocolFault
from routerd.messages import Usage
from routerd.wire.gemini import GeminiDialect
from tests.wire.transcripts import Recorded, load
from tests.wire.translated import DONE, JSON, accumulated, call, chunks, completion, encoded, facts, run, told

GEMINI = GeminiDialect()
RECORDED = [r for r in load("gemini/*.json") if r.status == 200]
UNARY = [r for r in RECORDED if not r.body.startswith(b"data:")]
FILTERED = ["SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "IMAGE_SAFETY", "LANGUAGE", "RECITATION"]
STOPPED = ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "OTHER", "A_NEW_ONE"]
STREAMS = [r for r in RECORDED if r.body.startswith(b"data:")]


def answer(parts: Any = None, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, **({} if parts is None else {"content": {"parts": parts, "role": "model"}})}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "g", "responseId": "id1", **more}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"


def decoded(value: Any, **more: Any) -> Any:
    body, found = GEMINI.decode(json.dumps(value).encode(), call(**more))
    assert found.error is None
    return completion(body).choices[0]


def streamed(*values: Any, **more: Any) -> dict[str, Any]:
    return told(run(GEMINI.scan(call(stream=True, **more)), b"".join(map(event, values))))


# ── what was recorded ──


def test_there_are_recordings() -> None:
    assert (len(UNARY), len(STREAMS)) == (6, 3)


@pytest.mark.parametrize("recorded", UNARY, ids=lambda r: r.name)
def test_every_recorded_answer(recorded: Recorded) -> None:
    body, found = GEMINI.decode(recorded.body, call())
    theirs = json.loads(recorded.body)
    ours = completion(body)
    parts = theirs["candidates"][0]["content"]["parts"]
    message = ours.choices[0].message
    assert (message.content or "") == "".join(part.get("text", "") for part in parts)
    asked = [part["functionCall"] for part in parts if "functionCall" in part]
    assert [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()] == [  # type: ignore[union-attr]
        (function["name"], function["args"]) for function in asked
    ]
    assert (message.content is None) == bool(asked)
    assert ours.choices[0].finish_reason == found.finish_reason == ("tool_calls" if asked else "stop")
    assert found.usage is not None
    assert ours.usage is not None
    assert found.usage.total_tokens == ours.usage.total_tokens == theirs["usageMetadata"]["totalTokenCount"]
    assert found.response_model == theirs["modelVersion"]
    assert (ours.model, ours.id, ours.created) == ("public-m", "chatcmpl-" + theirs["responseId"], 1_700_000_000)


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_every_recorded_stream_is_the_same_at_any_split(recorded: Recorded) -> None:
    scan = GEMINI.scan(call(stream=True, wants_usage=True))
    out = run(scan, recorded.body)
    for size in (1, 2, 7, 100):
        other = GEMINI.scan(call(stream=True, wants_usage=True))
        assert run(other, recorded.body, size) == out
        assert facts(other) == facts(scan)
    assert facts(scan)[:3] == (True, True, True)
    assert out.endswith(DONE)
    whole = accumulated(out)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
        told(out)["content"],
        told(out)["finish_reason"],
    )
    assert len(whole.choices[0].message.tool_calls or ()) == len(told(out)["tool_calls"])
    last = json.loads(recorded.body.rpartition(b"data: ")[2])
    assert scan.usage is not None
    assert scan.usage.total_tokens == last["usageMetadata"]["totalTokenCount"]
    [usage] = [chunk.usage for chunk in chunks(out) if chunk.usage is not None]
    assert usage.total_tokens == scan.usage.total_tokens
    called = b"functionCall" in recorded.body
    message = told(out)
    assert message["finish_reason"] == ("tool_calls" if called else "stop")
    assert message["content"] == ("" if called else "Olá!")
    assert len(message["tool_calls"]) == called
    assert message["reasoning_content"].startswith("**Determining") is ("thinking" in recorded.name)


def test_a_recorded_call_goes_back_as_it_came() -> None:
    for name in ("gen_function_call", "gen_parallel_calls", "gen_stream_function_call"):
        [recorded] = load(f"gemini/{name}.json")
        if recorded.body.startswith(b"data:"):
            message = told(run(GEMINI.scan(call(stream=True)), recorded.body))
            theirs = json.loads(recorded.body[6:])
        else:
            message = json.loads(GEMINI.decode(recorded.body, call())[0])["choices"][0]["message"]
            theirs = json.loads(recorded.body)
        calls = message["tool_calls"]
        history: list[dict[str, Any]] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": one["id"], "content": "7"} for one in calls),
        ]
        sent = encoded(GEMINI, {"messages": history})[0]["contents"]
        back = sent[1]["parts"]
        assert len({part["functionCall"].pop("id") for part in back}) == len(calls)
        assert back == theirs["candidates"][0]["content"]["parts"]
        assert [part["functionResponse"]["name"] for part in sent[2]["parts"]] == [one["function"]["name"] for one in calls]


# ── whole answers ──


@pytest.mark.parametrize(
    ("reason", "called", "finish"),
    [
        ("STOP", False, "stop"),
        ("STOP", True, "tool_calls"),
        ("MAX_TOKENS", True, "length"),
        *((word, False, "content_filter") for word in FILTERED),
        *((word, False, "stop") for word in STOPPED),
    ],
)  # fmt: skip
def test_finish_reasons_whole_and_streamed(reason: str, called: bool, finish: str) -> None:
    parts = [{"functionCall": {"name": "f"}}] if called else [{"text": "a"}]
    assert decoded(answer(parts, reason)).finish_reason == finish
    assert streamed(answer(parts, None), answer(None, reason))["finish_reason"] == finish


@pytest.mark.parametrize("content", [{}, {"content": {}}, {"content": {"role": "model"}}, {"content": {"parts": []}}])
def test_an_answer_without_parts_is_empty(content: dict[str, Any]) -> None:
    choice = decoded({"candidates": [{**content, "finishReason": "MAX_TOKENS"}], "usageMetadata": {"promptTokenCount": 4}})
    assert (choice.message.content, choice.finish_reason) == ("", "length")


def test_a_refused_prompt_is_an_empty_answer_with_content_filter() -> None:
    value = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}
    body, found = GEMINI.decode(json.dumps(value).encode(), call())
    assert (found.finish_reason, found.usage) == ("content_filter", Usage(input_tokens=4))
    assert completion(body).choices[0].message.content == ""
    scan = GEMINI.scan(call(stream=True))
    assert told(run(scan, event(value)))["finish_reason"] == "content_filter"
    assert facts(scan)[:3] == (True, True, True)


def test_a_block_in_the_middle_of_a_stream_ends_it_with_content_filter() -> None:
    scan = GEMINI.scan(call(stream=True))
    out = run(scan, event(answer([{"text": "a"}], None)) + event({"promptFeedback": {"blockReason": "OTHER"}}))
    assert (told(out)["content"], told(out)["finish_reason"]) == ("a", "content_filter")
    assert scan.done


def test_thoughts_images_and_signatures() -> None:
    parts = [
        {"text": "hm", "thought": True},
        {"text": "yes"},
        {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
        {"text": "", "thoughtSignature": "c2ln"},
    ]
    message = decoded(answer(parts)).message.model_dump()
    assert (message["content"], message["reasoning_content"]) == ("yes", "hm")
    assert message["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    assert message["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    out = run(GEMINI.scan(call(stream=True)), event(answer(parts)))
    assert (told(out)["content"], told(out)["reasoning_content"]) == ("yes", "hm")
    extras = [(c.choices[0].delta.model_extra or {}) for c in chunks(out)]
    assert {"extra_content": message["extra_content"]} in extras
    assert {"images": [{"index": 0, **message["images"][0]}]} in extras
    image = event(answer([parts[2]], None))
    whole = accumulated(run(GEMINI.scan(call(stream=True)), image + image + event(answer([{"text": "x"}]))))
    assert len(whole.choices[0].message.model_extra["images"]) == 2


def test_what_a_search_found_stands_beside_the_text() -> None:
    found = {"webSearchQueries": ["x"], "groundingChunks": [{"web": {"uri": "https://x.example"}}]}
    value = answer([{"text": "yes", "thoughtSignature": "c2ln"}])
    value["candidates"][0]["groundingMetadata"] = found
    expected = {"google": {"thought_signature": "c2ln", "grounding_metadata": found}}
    assert decoded(value).message.model_dump()["extra_content"] == expected
    extras = [c.choices[0].delta.model_extra for c in chunks(run(GEMINI.scan(call(stream=True)), event(value)))]
    assert {"extra_content": {"google": {"grounding_metadata": found}}} in extras
    whole = accumulated(run(GEMINI.scan(call(stream=True)), event(value) + event(value)))
    assert whole.choices[0].message.model_extra["extra_content"]["google"]["grounding_metadata"] == found


def test_several_candidates_are_several_choices() -> None:
    def one(index: int, text: str, **more: Any) -> dict[str, Any]:
        return {"index": index, "content": {"parts": [{"text": text}]}, **more}

    value = {"candidates": [one(0, "a", finishReason="STOP"), one(1, "b", finishReason="MAX_TOKENS")]}
    body, _ = GEMINI.decode(json.dumps(value).encode(), call())
    assert [(c.index, c.message.content, c.finish_reason) for c in completion(body).choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    scan = GEMINI.scan(call(stream=True))
    scan.feed(event({"candidates": [one(0, "a")]}))
    scan.feed(event({"candidates": [one(1, "b")]}))
    out = scan.feed(event({"candidates": [one(1, "c", finishReason="STOP")]}))
    assert [(c.choices[0].index, c.choices[0].delta.content) for c in chunks(out)] == [(1, "c")]
    assert not scan.finished
    scan.feed(event({"candidates": [{"index": 0, "finishReason": "MAX_TOKENS"}]}))
    assert scan.finished
    ends = chunks(scan.close())
    assert [(c.choices[0].index, c.choices[0].finish_reason) for c in ends] == [(0, "length"), (1, "stop")]


def test_log_probabilities() -> None:
    token = {"token": "é", "logProbability": -0.5, "tokenId": 7}
    result = {"chosenCandidates": [token], "topCandidates": [{"candidates": [token, {"token": "b", "logProbability": -2}]}]}
    value = answer([{"text": "é"}])
    value["candidates"][0]["logprobsResult"] = result
    [entry] = decoded(value).logprobs.content
    assert (entry.token, entry.logprob, entry.bytes, len(entry.top_logprobs)) == ("é", -0.5, [0xC3, 0xA9], 2)
    [_, text, _] = chunks(run(GEMINI.scan(call(stream=True)), event(value)))
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.content == [entry]


def test_usage_adds_thoughts_and_what_tools_put_into_the_prompt() -> None:
    counts = {
        "promptTokenCount": 10, "candidatesTokenCount": 3, "thoughtsTokenCount": 5, "toolUsePromptTokenCount": 2,
        "cachedContentTokenCount": 4, "totalTokenCount": 20,
    }  # fmt: skip
    usage = GEMINI.decode(json.dumps(answer([{"text": "a"}], usageMetadata=counts)).encode(), call())[1].usage
    assert usage == Usage(input_tokens=12, output_tokens=8, cached_tokens=4, reasoning_tokens=5)
    assert usage.total_tokens == 20


def test_a_completion_has_text() -> None:
    body, _ = GEMINI.decode(json.dumps(answer([{"text": "once"}])).encode(), call(operation="completion"))
    value = json.loads(body)
    assert (value["object"], value["id"]) == ("text_completion", "cmpl-id1")
    assert value["choices"] == [{"index": 0, "text": "once", "logprobs": None, "finish_reason": "stop"}]
    out = run(
        GEMINI.scan(call(operation="completion", stream=True)), event(answer([{"text": "hm", "thought": True}, {"text": "once"}]))
    )
    events = [json.loads(e[6:]) for e in out.split(b"\n\n")[:-2]]
    assert [(e["choices"][0]["text"], e["choices"][0]["finish_reason"]) for e in events] == [("once", None), ("", "stop")]


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"<html>", b"[]", b"7", b"{}", b'{"candidates":[]}', b'{"candidates":7}', b"[" * 100_000]
)
def test_what_is_no_answer_is_a_protocol_fault(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        GEMINI.decode(body, call())


ERROR = {"error": {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize("value", [ERROR, [ERROR]])
def test_an_error_inside_a_200_is_a_fault(value: Any) -> None:
    found = GEMINI.decode(json.dumps(value).encode(), call())[1].error
    assert found is not None
    assert (found.kind, found.status) == (ErrorKind.SERVER_ERROR, 503)


# ── streams ──


def test_an_event_is_out_as_soon_as_it_is_in() -> None:
    scan = GEMINI.scan(call(stream=True))
    assert [c.choices[0].delta.content for c in chunks(scan.feed(event(answer([{"text": "a"}], None))))] == ["", "a"]
    assert [c.choices[0].delta.content for c in chunks(scan.feed(event(answer([{"text": "b"}], None))))] == ["b"]
    assert scan.close() == b""
    assert not scan.finished  # cut


def test_calls_are_counted_over_the_stream() -> None:
    calls = [{"functionCall": {"name": name, "args": {"n": 1}, "id": call_id}} for name, call_id in (("f", "x1"), ("g", None))]
    found = streamed(answer([calls[0]], None), answer([calls[1]]))["tool_calls"]
    assert [(c["id"], c["function"]["arguments"]) for c in found] == [("x1", '{"n":1}'), ("call_id1_0_1", '{"n":1}')]


@pytest.mark.parametrize("value", [ERROR, [ERROR]])
def test_an_error_event_is_the_streams_fault_but_not_after_its_finish(value: Any) -> None:
    scan = GEMINI.scan(call(stream=True))
    out = scan.feed(event(answer([{"text": "a"}], None)) + event(value) + event(answer([{"text": "b"}])))
    assert [c.choices[0].delta.content for c in chunks(out)] == ["", "a"]
    assert scan.fault is not None
    assert scan.fault.error == ERROR["error"]
    assert scan.feed(event(answer([{"text": "c"}]))) == scan.close() == b""
    scan = GEMINI.scan(call(stream=True))
    scan.feed(event(answer([{"text": "a"}])) + event(value))
    assert scan.close().endswith(DONE)
    assert scan.fault is None


def test_malformed_events_are_left_out_and_three_in_a_row_are_a_fault() -> None:
    scan = GEMINI.scan(call(stream=True))
    bad = b"data: {oops\r\n\r\n"
    scan.feed(bad + bad + event(answer([{"text": "a"}], None)) + bad + bad)
    assert (scan.malformed, scan.fault) == (4, None)
    scan.feed(bad)
    assert scan.fault is not None


def test_half_a_surrogate_pair_is_mended_not_malformed() -> None:
    scan = GEMINI.scan(call(stream=True))
    out = run(scan, b'data: {"candidates":[{"content":{"parts":[{"text":"a\\ud83d"}]},"finishReason":"STOP"}]}\r\n\r\n')
    assert told(out)["content"] == "a\ufffd"
    body, _ = GEMINI.decode(b'{"candidates":[{"content":{"parts":[{"text":"a\\ud83d"}]}}]}', call())
    assert completion(body).choices[0].message.content == "a\ufffd"


def test_bytes_that_are_no_utf8_are_replaced_in_a_whole_answer_and_pass_in_a_stream() -> None:
    value = json.dumps(answer([{"text": "a~b"}])).encode().replace(b"~", b"\xff")
    assert completion(GEMINI.decode(value, call())[0]).choices[0].message.content == "a\ufffdb"
    assert b'"a\xffb"' in run(GEMINI.scan(call(stream=True)), b"data: " + value + b"\r\n\r\n")


def test_line_ends_comments_and_a_missing_last_blank_line() -> None:
    one = json.dumps(answer([{"text": "a"}])).encode()
    for data in (b": ping\n\ndata: " + one, b"\xef\xbb\xbfdata:" + one + b"\n\n", b"event: x\rdata: " + one + b"\r\r"):
        for size in (None, 1):
            assert told(run(GEMINI.scan(call(stream=True)), data, size))["content"] == "a"


PIECES = st.one_of(
    st.binary(max_size=40),
    JSON.map(event),
    st.sampled_from([b"\r", b"\n", b"data: ", b"data: {", b": x\r\n"]),
    st.builds(
        lambda parts, finish: event(answer(parts, finish)),
        JSON | st.lists(st.dictionaries(st.sampled_from(["text", "thought", "functionCall", "inlineData"]), JSON), max_size=2),
        st.sampled_from([None, "STOP", "SAFETY"]),
    ),
)


@given(st.lists(PIECES, max_size=8), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_the_same_at_any_split_and_never_an_exception(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    scan, other = GEMINI.scan(call(stream=True)), GEMINI.scan(call(stream=True))
    out = run(scan, data)
    assert run(other, data, size) == out
    assert facts(other) == facts(scan)
    for line in out.split(b"\n\n")[:-1]:
        assert line == DONE.strip() or isinstance(json.loads(line[6:].decode("utf-8", "replace")), dict)


@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()) | JSON.map(lambda v: json.dumps(answer(v)).encode()))
@settings(max_examples=200, deadline=None)
def test_any_body_is_an_answer_or_a_protocol_fault(body: bytes) -> None:
    try:
        out, found = GEMINI.decode(body, call())
    except ProtocolFault:
        return
    if found.error is None:
        completion(out)
