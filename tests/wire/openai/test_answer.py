"""What counts as an answer, and what routing reads of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.errors import ErrorKind, ProtocolFault, UpstreamError
from routerd.messages import Usage
from routerd.wire.openai.answer import decode_unary
from tests.wire.transcripts import Recorded, load

UNARY = [r for r in load("*/*.json") if r.status == 200 and b"data:" not in r.body and not r.native]


def chat(body: Any) -> bytes:
    return json.dumps(body).encode()


GOOD = {"model": "m", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}


@pytest.mark.parametrize("recorded", UNARY, ids=lambda r: r.name)
def test_every_recorded_answer_decodes_with_usage_and_model(recorded: Recorded) -> None:
    operation = "embedding" if "embeddings" in recorded.name else "chat"
    answer = decode_unary(recorded.body, operation)
    value = json.loads(recorded.body)
    assert answer.error is None
    assert answer.response_model == value["model"]
    assert answer.usage is not None
    assert answer.usage.input_tokens == value["usage"]["prompt_tokens"]
    assert answer.usage.total_tokens == value["usage"]["total_tokens"]  # xAI's reasoning is outside of completion_tokens
    if operation == "chat":
        assert answer.finish_reason == value["choices"][0]["finish_reason"]


def test_there_are_recordings() -> None:
    assert len(UNARY) >= 25


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "empty"),
        (b" \r\n\n ", "empty"),
        (b"OK", "not JSON"),
        (b"<html></html>", "not JSON"),
        (b'{"choices":[', "not JSON"),
        (b'{"choices":[{}],"x":NaN}', "not JSON"),
        (b"[" * 1_000_000, "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"7", "not an object"),
        (b"{}", "no choices"),
        (b'{"choices":[]}', "no choices"),
        (b'{"choices":null}', "no choices"),
        (b'{"choices":{"a":1}}', "another shape"),
        (b'{"choices":["x"]}', "another shape"),
        (b'{"error":null}', "no choices"),
        (b'{"data":[{}]}', "no choices"),
    ],
)
def test_what_is_no_answer_is_a_protocol_fault(body: bytes, text: str) -> None:
    with pytest.raises(ProtocolFault, match=text) as caught:
        decode_unary(body, "chat")
    assert isinstance(caught.value, UpstreamError)
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_an_embedding_needs_data() -> None:
    assert decode_unary(b'{"data":[{"embedding":[0.1]}],"usage":{"total_tokens":4}}', "embedding").usage == Usage(input_tokens=4)
    with pytest.raises(ProtocolFault, match="embeddings"):
        decode_unary(chat(GOOD), "embedding")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ({"error": {"message": "no", "code": 429}}, ErrorKind.RATE_LIMITED, 429),
        ({"error": "Model is overloaded"}, ErrorKind.SERVER_ERROR, None),
        ([{"error": {"code": 503, "message": "x"}}], ErrorKind.SERVER_ERROR, 503),
        ({"error": {"message": "no"}, "choices": "x"}, ErrorKind.SERVER_ERROR, None),
        (
            {**GOOD, "choices": [{"error": {"code": 502, "message": "down"}, "finish_reason": "error"}]},
            ErrorKind.SERVER_ERROR,
            502,
        ),
        ({**GOOD, "choices": [{"finish_reason": "error"}]}, ErrorKind.SERVER_ERROR, None),
    ],
)
def test_an_error_inside_a_200_is_found(body: Any, kind: ErrorKind, status: int | None) -> None:
    error = decode_unary(chat(body), "chat").error
    assert error is not None
    assert (error.kind, error.status) == (kind, status)


@pytest.mark.parametrize(
    "wrap",
    [lambda b: b"\n\n  " + b, lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n"],
    ids=["keep-alive lines", "bom", "newline"],
)
def test_what_surrounds_the_document_is_skipped(wrap: Any) -> None:
    assert decode_unary(wrap(chat(GOOD)), "chat").finish_reason == "stop"


def test_half_a_surrogate_pair_in_the_text_is_still_an_answer() -> None:
    body = b'{"model":"m","choices":[{"message":{"content":"\\ud83d"},"finish_reason":"length"}],"usage":{"prompt_tokens":3}}'
    answer = decode_unary(body, "chat")
    assert (answer.finish_reason, answer.usage) == ("length", Usage(input_tokens=3))


def test_odd_side_values_do_not_spoil_an_answer() -> None:
    answer = decode_unary(chat({**GOOD, "model": 7, "usage": "x", "error": None}), "chat")
    assert (answer.response_model, answer.usage, answer.error) == (None, None, None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=120)
    | st.dictionaries(
        st.sampled_from(["choices", "data", "error", "usage", "model"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5) | st.floats(),
            lambda i: st.lists(i, max_size=3) | st.dictionaries(st.sampled_from(["finish_reason", "error", "code", "x"]), i),
            max_leaves=8,
        ),
    ).map(chat)
)
def test_any_body_is_an_answer_or_a_protocol_fault(body: bytes) -> None:
    for operation in ("chat", "embedding"):
        try:
            decode_unary(body, operation)
        except ProtocolFault:
            continue
