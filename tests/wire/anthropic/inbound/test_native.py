"""A Messages client at an Anthropic target: as it came, but for what the operator configured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import BadRequest, ErrorKind, ProtocolFault
from routerd.graph import Clamp, Params, SystemPrompt
from routerd.messages import Usage
from routerd.wire.anthropic import AnthropicDialect
from routerd.wire.anthropic.inbound.encoder import MessagesEncoder
from routerd.wire.anthropic.inbound.native import (
    NativeMessages,
    NativeScan,
    apply_native_params,
    decode_native,
    encode_native,
    prepare_native,
)
from routerd.wire.anthropic.inbound.request import parse_messages
from routerd.wire.dialect import Call
from tests.wire.transcripts import Recorded, load

HI = '[{"role": "user",  "content": "hi"}]'
STREAMS = load("anthropic/msg_stream*.json")


def native(more: str = "", messages: str = HI) -> dict[str, Any]:
    request = parse_messages(f'{{"model": "asked", "max_tokens": 9, "messages": {messages}{more}}}'.encode())
    assert request.native is not None
    return dict(request.native)


def sent(body: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(encode_native(body, "up", {}))
    return out


def prompted(mode: str, more: str = "", messages: str = HI) -> Any:
    return sent(prepare_native(native(more, messages), SystemPrompt(text="P", mode=mode), Params())).get("system")


def test_nothing_configured_changes_nothing_but_the_model() -> None:
    more = ', "thinking": {"type":  "adaptive"}, "x": [1.0, 12345678901234567890123]'
    body = prepare_native(native(more), None, Params())
    expected = (
        f'{{"model":"up","max_tokens":9,"messages":{HI},"thinking":{{"type":  "adaptive"}},"x":[1.0, 12345678901234567890123]}}'
    )
    assert encode_native(body, "up", {}).decode() == expected


@pytest.mark.parametrize(
    ("mode", "own", "result"),
    [
        ("if_missing", "", "P"),
        ("if_missing", ', "system": null', "P"),
        ("if_missing", ', "system": "own"', "own"),
        ("replace", ', "system": "own"', "P"),
        ("prepend", "", "P"),
        ("prepend", ', "system": "own"', "P\n\nown"),
        ("append", ', "system": "own"', "own\n\nP"),
        ("prepend", ', "system": [{"type":"text","text":"a"}]', [{"type": "text", "text": "P"}, {"type": "text", "text": "a"}]),
        ("append", ', "system": [{"type":"text","text":"a"}]', [{"type": "text", "text": "a"}, {"type": "text", "text": "P"}]),
    ],
)
def test_the_system_prompt_in_its_modes(mode: str, own: str, result: Any) -> None:
    assert prompted(mode, own) == result


def test_a_system_of_another_type_is_refused_where_it_must_be_read() -> None:
    body = native()
    body["system"] = parse_messages(b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":7}').body["messages"]
    with pytest.raises(BadRequest):
        prepare_native({**body, "system": native(', "y": 7')["y"]}, SystemPrompt(text="P", mode="append"), Params())


def test_parameters_under_the_names_of_this_api() -> None:
    params = Params(
        defaults={"temperature": 0.5, "seed": 3},
        force={"stop": "END"},
        clamp={"max_completion_tokens": Clamp(max=5), "min_p": Clamp(max=1)},
        drop=("top_p", "logit_bias"),
    )
    body = sent(prepare_native(native(', "top_p": 0.1, "top_k": 4'), None, params))
    assert {k: v for k, v in body.items() if k not in ("model", "messages")} == {
        "max_tokens": 5,
        "top_k": 4,
        "temperature": 0.5,
        "stop_sequences": ["END"],
    }
    assert sent(apply_native_params({}, Params(drop=("max_tokens",))))["max_tokens"] == 4096


def test_thinking_that_another_engine_gave_out_is_taken_out() -> None:
    def thought(signature: str) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "t", "signature": signature}

    text = {"type": "text", "text": '"routerd.field.x"'}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [thought("routerd.field.reasoning"), thought("EqQB"), text]},
        {"role": "assistant", "content": [thought("routerd.details.W10=")]},
        {"role": "assistant", "content": "a"},
    ]
    body = sent(prepare_native(native(messages=json.dumps(turns)), None, Params()))
    assert body["messages"] == [turns[0], {"role": "assistant", "content": [thought("EqQB"), text]}, turns[3]]


def test_what_the_encoder_signs_is_what_is_taken_out() -> None:
    chunk = b'data: {"choices":[{"delta":{"reasoning":"h"}}]}\n\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    assert b'"signature":"routerd.' in MessagesEncoder("m").feed(chunk)


def scan(data: bytes, size: int | None = None) -> tuple[NativeScan, bytes]:
    scanner = NativeMessages().scan(Call(operation="chat", path="", model="m", stream=True))
    assert isinstance(scanner, NativeScan)
    step = size or max(1, len(data))
    out = b"".join(scanner.feed(data[i : i + step]) for i in range(0, len(data), step))
    return scanner, out + scanner.close()


def facts(scanner: NativeScan) -> tuple[Any, ...]:
    return scanner.content, scanner.finished, scanner.done, scanner.usage, scanner.fault, scanner.malformed, scanner.model


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
@pytest.mark.parametrize("size", [None, 1, 7, 200])
def test_recorded_streams_pass_byte_for_byte_with_the_facts_of_the_translation(recorded: Recorded, size: int | None) -> None:
    scanner, out = scan(recorded.body, size)
    assert out == recorded.body
    other: Any = AnthropicDialect().scan(Call(operation="chat", path="", model="m", stream=True))
    other.feed(recorded.body)
    assert facts(scanner) == (other.content, other.finished, other.done, other.usage, other.fault, other.malformed, other.model)
    assert scanner.done


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = event("message_start", message={"model": "c", "usage": {"input_tokens": 3, "output_tokens": 1}})
OPEN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
TEXT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
FINISH = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = event("message_stop")
BAD = b"event: content_block_delta\ndata: {oops\n\n"


@pytest.mark.parametrize("size", [None, 1])
def test_content_begins_with_what_a_user_would_see(size: int | None) -> None:
    assert not scan(START + event("ping") + OPEN, size)[0].content
    assert scan(START + OPEN + TEXT, size)[0].content
    assert scan(START + event("content_block_start", index=0, content_block={"type": "tool_use", "id": "x", "name": "f"}))[
        0
    ].content


@pytest.mark.parametrize("size", [None, 1])
def test_an_error_event_is_a_fault_and_is_not_forwarded(size: int | None) -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    scanner, out = scan(START + OPEN + TEXT + error + FINISH, size)
    assert out == START + OPEN + TEXT
    assert scanner.fault is not None
    assert scanner.fault.error == {"type": "overloaded_error", "message": "Overloaded"}
    scanner, out = scan(START + OPEN + TEXT + FINISH + error, size)
    assert (out, scanner.fault, scanner.finished, scanner.done) == (START + OPEN + TEXT + FINISH, None, True, False)


@pytest.mark.parametrize("size", [None, 1])
def test_malformed_events_are_left_out_and_unknown_ones_pass(size: int | None) -> None:
    odd = event("message_thought", delta=7) + b": comment\n\n"
    scanner, out = scan(START + BAD + odd + OPEN + TEXT + FINISH + STOP + TEXT, size)
    assert out == START + odd + OPEN + TEXT + FINISH + STOP
    assert (scanner.malformed, scanner.usage) == (1, Usage(input_tokens=3, output_tokens=2))
    assert scan(START + BAD * 3, size)[0].fault is not None


def test_a_cut_stream_is_not_finished() -> None:
    scanner, _ = scan(START + OPEN + TEXT)
    assert (scanner.finished, scanner.done, scanner.fault) == (False, False, None)


@given(
    st.lists(st.sampled_from([START, OPEN, TEXT, FINISH, STOP, BAD, b"\r", b"\n"]) | st.binary(max_size=9), max_size=7),
    st.integers(1, 40),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_cut_anyhow_give_the_same_and_raise_nothing(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    whole, out = scan(data)
    cut, cut_out = scan(data, size)
    assert (cut_out, facts(cut)) == (out, facts(whole))


@pytest.mark.parametrize("name", ["basic", "thinking_tool", "tool_use"])
def test_whole_answers_pass_and_are_looked_at(name: str) -> None:
    (recorded,) = load(f"anthropic/msg_{name}.json")
    body, answer = NativeMessages().decode(recorded.body, Call(operation="chat", path="", model="m"))
    source = json.loads(recorded.body)
    assert body == recorded.body
    assert answer == AnthropicDialect().decode(recorded.body, Call(operation="chat", path="", model="m"))[1]
    assert answer.response_model == source["model"]


def test_errors_and_nonsense_in_a_200() -> None:
    answer = decode_native(b'{"type":"error","error":{"type":"rate_limit_error","message":"x"}}')
    assert answer.error is not None
    assert answer.error.kind is ErrorKind.RATE_LIMITED
    with pytest.raises(ProtocolFault):
        decode_native(b'{"choices":[]}')


def test_the_request_goes_to_the_messages_path_with_the_providers_fields() -> None:
    call = Call(operation="chat", path="chat/completions", model="up", extra={"metadata": {"user_id": "u"}})
    encoded = NativeMessages().encode(prepare_native(native(), None, Params()), call)
    assert (encoded.path, encoded.dropped) == ("v1/messages", ())
    assert json.loads(encoded.body)["metadata"] == {"user_id": "u"}
