"""Answers that deviate from OpenAI's form: what is mended, and that everything else keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from routerd.graph import Endpoint, Provider, Quirks
from routerd.wire import Call, make_dialect
from tests.wire.transcripts import load

MISTRAL = Quirks(split_content=True, finish_reasons={"model_length": "length"})


def dialect(quirks: Quirks = MISTRAL) -> Any:
    endpoint = Endpoint(name="p", provider="p", url="http://p/v1")
    return make_dialect(Provider(name="p", dialect="openai", endpoints=(endpoint,), quirks=quirks))


def call(*, stream: bool = True, operation: str = "chat") -> Call:
    return Call(operation=operation, path="chat/completions", model="m", stream=stream, wants_usage=True)


def through(pieces: list[bytes], quirks: Quirks = MISTRAL) -> tuple[bytes, Any]:
    scan = dialect(quirks).scan(call())
    return b"".join([scan.feed(piece) for piece in pieces] + [scan.close()]), scan


def chunk(content: Any, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def deltas(out: bytes) -> list[dict[str, Any]]:
    found = [json.loads(line[6:]) for line in out.splitlines() if line.startswith(b"data: {")]
    return [choice["delta"] for one in found for choice in one["choices"]]


THINKS = [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}], "closed": True}]
SAYS = [{"type": "text", "text": "hi"}, {"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "!"}]


def test_thoughts_and_texts_of_a_stream_stand_where_openai_has_them() -> None:
    out, scan = through([chunk(THINKS), chunk(SAYS), chunk("", "stop"), b"data: [DONE]\n\n"])
    assert deltas(out) == [{"content": None, "reasoning_content": "hm"}, {"content": "hi!"}, {"content": ""}]
    assert scan.done
    assert scan.fault is None


def test_a_whole_answer_is_mended_too() -> None:
    message = {"role": "assistant", "content": [*THINKS, *SAYS], "tool_calls": None}
    answer = {"id": "a", "choices": [{"index": 0, "message": message, "finish_reason": "model_length"}], "usage": None}
    body, decoded = dialect().decode(json.dumps(answer).encode(), call(stream=False))
    choice = json.loads(body)["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "hi!", "reasoning_content": "hm", "tool_calls": None}
    assert choice["finish_reason"] == decoded.finish_reason == "length"


def test_a_word_that_openai_lacks_is_said_in_openais() -> None:
    out, scan = through([chunk("hi", "model_length")])
    assert json.loads(out[6:])["choices"][0]["finish_reason"] == "length"
    assert scan.finished


def test_what_deviates_in_nothing_keeps_its_bytes() -> None:
    text = b'data: {"choices" : [ {"index":0,"delta":{"content":"model_length \\"content\\":["}} ]}\n\n: ping\n\n'
    assert through([text])[0] == text
    plain = b'{"choices": [ {"message": {"content": "x"}} ]}'
    assert dialect().decode(plain, call(stream=False))[0] is plain


def test_without_the_quirk_a_list_goes_through_as_it_came() -> None:
    assert through([chunk(THINKS)], Quirks())[0] == chunk(THINKS)


def test_other_operations_are_left_alone() -> None:
    body = b'{"choices": [{"text": "x", "finish_reason": "model_length"}]}'
    assert dialect().decode(body, call(stream=False, operation="completion"))[0] is body


def test_half_a_surrogate_pair_survives() -> None:
    event = rb'data: {"choices":[{"index":0,"delta":{"content":[{"type":"text","text":"\ud83d"}]}}]}' + b"\n\n"
    assert deltas(through([event])[0])[0]["content"] == "\ud83d"


def test_odd_parts_do_no_harm() -> None:
    for odd in ([None, 1, [], {}], [{"type": "text", "text": 5}], [{"type": "thinking", "thinking": {"a": 1}}], ["plain"]):
        out, scan = through([chunk(odd)])
        assert deltas(out) == [{"content": None}]
        assert scan.fault is None


def test_mistrals_recorded_thoughts_reach_the_client() -> None:
    (recorded,) = load("mistral/chat_stream_thinking*")
    body = recorded.body
    out, scan = through([body])
    said = deltas(out)
    assert all(isinstance(delta.get("content"), str | None) for delta in said)
    assert "".join(delta.get("reasoning_content") or "" for delta in said).startswith("The user is asking for")
    assert "144" in "".join(delta.get("content") or "" for delta in said)
    assert scan.done
    assert scan.usage is not None
    assert through([body[i : i + 1] for i in range(len(body))])[0] == out


EVENTS = [chunk(THINKS), chunk(SAYS), chunk("a"), chunk([], "model_length"), b": c\r\n\r\n", b"data: {oops\n\n", b"\n"]


@given(st.lists(st.sampled_from(EVENTS), max_size=6), st.data())
def test_wherever_a_stream_is_cut_the_client_gets_the_same(events: list[bytes], data: st.DataObject) -> None:
    body = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert through(pieces)[0] == through([body])[0]
