"""The template dialect: requests filled from a template, answers of every format as OpenAI's, whatever the split."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import BadRequest, ProtocolFault
from routerd.graph import Endpoint, Provider, Template, TemplateFields, TemplateStream
from routerd.wire import Call, Dialect, make_dialect, parse_request
from routerd.wire.template.pointer import find, parse_pointer
from routerd.wire.template.read import finish_of

MESSAGES = [{"role": "user", "content": "hi"}]
RESPONSE = TemplateFields(text="/answer/0/text", finish="/done", input_tokens="/usage/in", output_tokens="/usage/out")
SSE = TemplateStream(format="sse", text="/choices/0/delta/content", finish="/choices/0/finish_reason")


def dialect(
    request: dict[str, Any] | None = None,
    response: TemplateFields | None = RESPONSE,
    stream: TemplateStream | None = SSE,
    path: str = "",
) -> Dialect:
    made = Template(request=request or {"query": "{prompt}"}, path=path, response=response, stream=stream)
    endpoint = Endpoint(name="t", provider="t", url="http://t/api")
    return make_dialect(Provider(name="t", dialect="template", endpoints=(endpoint,), template=made))


def call(**more: Any) -> Call:
    plain: dict[str, Any] = {"operation": "chat", "path": "chat/completions", "model": "theirs", "asked_model": "ours"}
    return Call(**{**plain, "answer_id": "id1", "created_unix_s": 7, **more})


def filled(request: dict[str, Any], body: dict[str, Any] | None = None, **more: Any) -> Any:
    parsed = parse_request(json.dumps({"model": "m", "messages": MESSAGES, **(body or {})}).encode(), "chat", "chat/completions")
    return json.loads(dialect(request).encode(parsed.body, call(**more)).body)


# ── requests ──


def test_a_placeholder_that_is_the_whole_text_keeps_its_type() -> None:
    request = {"m": "{messages}", "s": "{stream}", "t": "{params.temperature}", "x": "{params.stop}", "n": 5, "model": "{model}"}
    sent = filled(request, {"temperature": 0.5, "stop": ["a"]}, stream=True)
    assert sent == {"m": MESSAGES, "s": True, "t": 0.5, "x": ["a"], "n": 5, "model": "theirs"}


def test_a_key_whose_value_is_not_there_is_left_out() -> None:
    request = {"t": "{params.temperature}", "system": "{system}", "in": {"a": ["{params.a}", 1]}, "text": "t={params.t}."}
    assert filled(request, {"temperature": None}) == {"in": {"a": [1]}, "text": "t=."}


def test_values_are_put_into_a_longer_text_as_text() -> None:
    request = {"a": "{model}: {last_user}", "b": "{params.temperature}", "c": "n={params.n} {{x}} {params.stop}", "d": '{"k": 1}'}
    sent = filled(request, {"temperature": 1, "n": 1, "stop": "end"})
    assert sent == {"a": "theirs: hi", "b": 1, "c": "n=1 {x}} end", "d": '{"k": 1}'}


def test_a_conversation_becomes_one_text() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bye"},
    ]
    sent = filled({"q": "{prompt}", "s": "{system}", "l": "{last_user}"}, {"messages": messages})
    assert sent["q"] == "System: be brief\n\nUser: hello \nthere\n\nAssistant: hi\n\nUser: bye"
    assert (sent["s"], sent["l"]) == ("be brief", "bye")
    assert filled({"q": "{prompt}"})["q"] == "hi"  # one message stands for itself


def test_what_a_text_cannot_carry_is_refused_with_its_place() -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://i"}}]}]
    with pytest.raises(BadRequest) as caught:
        filled({"q": "{prompt}"}, {"messages": image})
    assert caught.value.param == "messages[0].content[0]"
    assert filled({"m": "{messages}"}, {"messages": image})["m"] == image


@pytest.mark.parametrize(
    "body", [{"tools": [{"type": "function", "function": {"name": "f"}}]}, {"n": 2}, {"response_format": {"type": "json_object"}}]
)
def test_what_the_template_has_no_place_for_and_cannot_be_left_out_is_refused(body: dict[str, Any]) -> None:
    (param,) = body
    with pytest.raises(BadRequest) as caught:
        filled({"q": "{prompt}"}, body)
    assert caught.value.param == param
    assert filled({"q": "{prompt}", "p": f"{{params.{param}}}"}, body)["p"] == body[param]


def test_what_can_be_left_out_is_named() -> None:
    raw = json.dumps({"model": "m", "messages": MESSAGES, "temperature": 1, "top_p": 1, "n": 1, "stream": True}).encode()
    parsed = parse_request(raw, "chat", "chat/completions")
    encoded = dialect({"q": "{prompt}", "t": "{params.temperature}"}).encode(parsed.body, call(stream=True))
    assert encoded.dropped == ("top_p",)


def test_the_model_stands_quoted_in_the_path() -> None:
    parsed = parse_request(json.dumps({"model": "m", "messages": MESSAGES}).encode(), "chat", "chat/completions")
    assert dialect(path="run/{model}").encode(parsed.body, call(model="a/b c")).path == "run/a%2Fb%20c"


def test_the_providers_own_fields_come_last() -> None:
    assert filled({"q": "{prompt}", "o": {"a": 1}}, extra={"o": {"b": 2}}) == {"q": "hi", "o": {"a": 1, "b": 2}}


# ── whole answers ──


def test_a_whole_answer_becomes_openais() -> None:
    body = {"answer": [{"text": "hello"}], "done": "max_tokens", "usage": {"in": 3, "out": 4}}
    out, known = dialect().decode(json.dumps(body).encode(), call())
    answer = json.loads(out)
    assert answer["model"] == "ours"
    assert answer["id"] == "chatcmpl-id1"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    assert answer["choices"][0]["finish_reason"] == known.finish_reason == "length"
    assert answer["usage"]["total_tokens"] == 7
    assert known.usage is not None
    assert not known.usage.estimated


def test_usage_that_nobody_told_is_estimated() -> None:
    speaker = dialect(response=TemplateFields(text="/a"))
    parsed = parse_request(json.dumps({"model": "m", "messages": MESSAGES}).encode(), "chat", "chat/completions")
    one = call()
    speaker.encode(parsed.body, one)
    _, known = speaker.decode(b'{"a": "12345"}', one)
    assert known.usage is not None
    assert known.usage.estimated
    assert known.usage.output_tokens == 2
    assert known.usage.input_tokens == -(-len(bytes(parsed.body["messages"])) // 4)


@pytest.mark.parametrize("body", [b"", b"  ", b"no json", b"{}", b'{"answer": []}', b'{"answer": [{"text": 5}]}', b"[1]"])
def test_an_answer_without_its_text_is_none(body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        dialect().decode(body, call())


def test_an_error_inside_a_good_status_is_one() -> None:
    _, known = dialect().decode(b'{"error": "rate limit", "answer": [{"text": "x"}]}', call())
    assert known.error is not None
    assert known.error.message == "rate limit"


def test_a_service_that_only_streams_is_collected() -> None:
    speaker = dialect(response=None, stream=TemplateStream(format="vercel"))
    body = b'0:"he"\n0:"llo"\nd:{"finishReason":"stop","usage":{"promptTokens":1,"completionTokens":2}}\n'
    out, known = speaker.decode(body, call())
    assert json.loads(out)["choices"][0]["message"]["content"] == "hello"
    assert known.usage is not None
    assert known.usage.total_tokens == 3


# ── streams ──


def chunks(out: bytes) -> list[Any]:
    """Return the events as OpenAI's clients see them; the end mark is the last one."""
    assert out == b"" or out.endswith(b"\n\n")
    datas = [event.removeprefix(b"data: ") for event in out.split(b"\n\n") if event]
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in datas]


def streamed(speaker: Dialect, body: bytes, size: int = 10**6, **more: Any) -> tuple[Any, bytes]:
    scan = speaker.scan(call(stream=True, **more))
    out = b"".join(scan.feed(body[i : i + size]) for i in range(0, len(body), size))
    return scan, out + scan.close()


STREAMS: dict[str, tuple[TemplateStream | None, bytes]] = {
    "sse": (SSE, (
        b': hello\r\n\r\ndata: {"choices":[{"delta":{"content":"na\xc3\xafve "}}]}\r\n\r\n'
        b'data: {"choices":[{"delta":{"content":"text"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )),
    "sse-eof": (
        TemplateStream(format="sse", text="/t", eof_ends=True), b'data: {"t":"na\xc3\xafve "}\n\ndata: {"t":"text"}\n\n'
    ),
    "sse-done": (
        TemplateStream(format="sse", text="/t", done="END"), b'data: {"t":"na\xc3\xafve "}\n\ndata: {"t":"text"}\n\ndata: END\n\n'
    ),
    "ndjson": (
        TemplateStream(format="ndjson", text="/t", finish="/f"), b'{"t":"na\xc3\xafve "}\r\n\n{"t":"text","f":true}'
    ),
    "vercel": (
        TemplateStream(format="vercel"),
        b'f:{"messageId":"m"}\n0:"na\xc3\xafve "\n2:[{"x":1}]\n0:"text"\ne:{"finishReason":"stop"}\nd:{"finishReason":"stop"}\n',
    ),
    "raw": (TemplateStream(format="raw", eof_ends=True), b"na\xc3\xafve text"),
    "whole": (None, b'{"answer":[{"text":"na\xc3\xafve text"}],"done":true}'),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 10**6])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_every_format_becomes_openais_whatever_the_split(name: str, size: int) -> None:
    stream, body = STREAMS[name]
    scan, out = streamed(dialect(stream=stream), body, size, wants_usage=True)
    first, *middle, usage, done = chunks(out)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in middle) == "naïve text"
    assert [one["choices"][0]["finish_reason"] for one in middle][-1] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert done == "[DONE]"
    assert (scan.content, scan.finished, scan.done, scan.fault) == (True, True, True, None)
    assert scan.usage.estimated


@pytest.mark.parametrize("name", ["sse", "sse-done", "ndjson", "vercel"])
def test_a_stream_without_its_end_is_cut(name: str) -> None:
    stream, body = STREAMS[name]
    cut = body[: body.index(b"text") + len(b'text"')]
    scan, out = streamed(dialect(stream=stream), cut)
    assert not scan.finished
    assert not scan.done
    assert b"[DONE]" not in out


def test_a_stream_with_no_content_is_no_answer_even_where_its_end_is_the_end() -> None:
    for stream in (TemplateStream(format="raw", eof_ends=True), TemplateStream(format="sse", text="/t", eof_ends=True)):
        scan, out = streamed(dialect(stream=stream), b"")
        assert (out, scan.content, scan.finished) == (b"", False, False)


@pytest.mark.parametrize(
    ("stream", "body"),
    [
        (SSE, b'data: {"error":{"message":"busy"}}\n\n'),
        (TemplateStream(format="ndjson", text="/t"), b'{"error":"busy"}\n'),
        (TemplateStream(format="ndjson", text="/t", error="/fault/why"), b'{"fault":{"why":"busy"}}\n'),
        (TemplateStream(format="vercel"), b'3:"busy"\n'),
        (None, b'{"error":"busy"}'),
    ],
)
def test_an_error_in_a_stream_is_a_fault_and_nothing_follows_it(stream: TemplateStream | None, body: bytes) -> None:
    scan, out = streamed(dialect(stream=stream), body)
    assert out == b""
    assert scan.fault is not None
    assert "busy" in json.dumps(scan.fault.error)
    assert scan.feed(body) == b""


def test_an_error_behind_the_finish_is_none() -> None:
    body = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"length"}]}\n\ndata: {"error":"late"}\n\ndata: [DONE]\n\n'
    scan, out = streamed(dialect(), body)
    assert scan.fault is None
    assert chunks(out)[-1] == "[DONE]"


def test_malformed_events_are_left_out_and_three_in_a_row_are_a_fault() -> None:
    good = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    scan, _ = streamed(dialect(), b"data: {\n\ndata: {\n\n" + good + b"data: {\n\n")
    assert (scan.malformed, scan.fault) == (3, None)
    scan, _ = streamed(dialect(), b"data: {\n\n" * 3 + good)
    assert scan.fault is not None


def test_thoughts_are_reasoning() -> None:
    _, out = streamed(dialect(stream=TemplateStream(format="vercel")), b'g:"hm"\n0:"yes"\nd:{"finishReason":"stop"}\n')
    assert [one["choices"][0]["delta"] for one in chunks(out)[1:3]] == [{"reasoning_content": "hm"}, {"content": "yes"}]


# ── pointers and words ──


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", {"a": [{"b/c": 1}, {"~": 2}]}),
        ("/a/0/b~1c", 1),
        ("/a/1/~0", 2),
        ("/a/2", None),
        ("/a/-1", None),
        ("/x/y", None),
        (None, None),
    ],
)
def test_pointers_are_those_of_rfc_6901(pointer: str | None, found: Any) -> None:
    assert find({"a": [{"b/c": 1}, {"~": 2}]}, parse_pointer(pointer)) == found


@pytest.mark.parametrize(
    ("value", "reason"),
    [(True, "stop"), (1, "stop"), ("stop", "stop"), ("MAX_TOKENS", "length"), ("eos", "stop"), (None, None), (False, None),
     ("", None), (0, None), ({}, None), ("content-filter", "content_filter")],
)  # fmt: skip
def test_a_services_word_for_the_end_becomes_openais(value: Any, reason: str | None) -> None:
    assert finish_of(value) == reason


# ── anything at all ──


@given(body=st.binary(max_size=300), name=st.sampled_from(list(STREAMS)), size=st.integers(1, 40))
def test_foreign_bytes_raise_nothing_and_every_split_gives_the_same(body: bytes, name: str, size: int) -> None:
    stream, _ = STREAMS[name]
    whole_scan, whole = streamed(dialect(stream=stream), body)
    scan, parts = streamed(dialect(stream=stream), body, size)
    if name != "raw":  # raw text is cut where it was cut
        assert parts == whole
    facts = ("content", "finished", "done", "malformed", "usage")
    assert [getattr(scan, fact) for fact in facts] == [getattr(whole_scan, fact) for fact in facts]


@given(body=st.binary(max_size=200) | st.text(max_size=60).map(lambda t: json.dumps({"answer": [{"text": t}]}).encode()))
def test_a_foreign_body_is_an_answer_or_a_protocol_fault(body: bytes) -> None:
    try:
        out, known = dialect().decode(body, call())
    except ProtocolFault:
        return
    assert known.error is not None or json.loads(out)["choices"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(messages=JSON, temperature=JSON)
def test_a_clients_body_is_filled_in_or_a_bad_request(messages: Any, temperature: Any) -> None:
    try:
        raw = json.dumps({"model": "m", "messages": messages, "temperature": temperature}).encode()
        parsed = parse_request(raw, "chat", "chat/completions")
        request = {"q": "{prompt}", "m": "{messages}", "s": "{system}", "l": "{last_user}", "t": "x{params.temperature}"}
        encoded = dialect(request).encode(parsed.body, call())
    except BadRequest:
        return
    assert json.loads(encoded.body)["m"] == messages
