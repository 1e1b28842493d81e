"""The simulator speaks the dialect that the rest of wire reads, and counts what it says."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.errors import ErrorKind
from routerd.graph import Simulator
from routerd.wire.faults.classify import classify
from routerd.wire.openai.answer import decode_unary
from routerd.wire.openai.relay_scan import RelayScan
from routerd.wire.simulator import reply, tokens_of
from routerd.wire.sse import SseParser

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIMULATOR = Simulator(first_token_s=0.5, tokens_per_s=10.0)
HELLO = {"model": "echo", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello there"}]}


def play(path: str, body: Any, simulator: Simulator = SIMULATOR, seed: int = 1) -> tuple[int, dict[bytes, bytes], bytes, float]:
    """Status, headers, whole body, whole delay."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, headers, pieces = reply(path, raw, simulator, random.Random(seed), 1_700_000_000)
    played = list(pieces)
    return status, dict(headers), b"".join(piece for _, piece in played), sum(delay_s for delay_s, _ in played)


def chat(**changes: Any) -> dict[str, Any]:
    status, _, body, _ = play("chat/completions", {**HELLO, **changes})
    assert status == 200
    result: dict[str, Any] = json.loads(body)
    return result


def chunks(body: bytes) -> list[dict[str, Any]]:
    events = SseParser().feed(body)
    assert events[-1].data == b"[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


def test_chat_echoes_the_last_user_text_and_counts_tokens() -> None:
    answer = chat()
    assert answer["choices"][0]["message"]["content"] == "hello there"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    assert (answer["model"], answer["created"], answer["object"]) == ("echo", 1_700_000_000, "chat.completion")


def test_the_last_user_message_counts_not_the_last_message() -> None:
    messages = [
        *HELLO["messages"],
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "two"}]},
    ]
    assert chat(messages=[*messages, {"role": "tool", "content": "result"}])["choices"][0]["message"]["content"] == "two"


def test_a_fixed_reply_is_said_whatever_was_asked() -> None:
    _, _, body, _ = play("chat/completions", HELLO, Simulator(reply="I am fine."))
    assert json.loads(body)["choices"][0]["message"]["content"] == "I am fine."


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_and_says_so(key: str) -> None:
    answer = chat(**{key: 1})
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 1
    assert chat(**{key: 2})["choices"][0]["finish_reason"] == "stop"


def test_a_unary_answer_takes_as_long_as_its_tokens() -> None:
    assert play("chat/completions", HELLO)[3] == pytest.approx(0.5 + 2 * 0.1)


def test_a_stream_says_the_same_token_by_token() -> None:
    status, headers, body, delay_s = play("chat/completions", {**HELLO, "stream": True})
    assert (status, headers[b"content-type"]) == (200, b"text/event-stream")
    found = chunks(body)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in found] == ["", "hello", " there", None]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in found)
    assert delay_s == pytest.approx(0.5 + 2 * 0.1)


def test_a_streams_usage_comes_last_and_only_when_asked_for() -> None:
    body = play("chat/completions", {**HELLO, "stream": True, "stream_options": {"include_usage": True}})[2]
    *others, last = chunks(body)
    assert all(chunk["usage"] is None for chunk in others)
    assert (last["choices"], last["usage"]) == ([], {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6})


def test_the_relay_reads_a_simulated_stream_as_a_whole_one() -> None:
    body = play("chat/completions", {**HELLO, "stream": True, "stream_options": {"include_usage": True}})[2]
    scan = RelayScan(withhold_usage=True)
    assert b'"choices":[]' not in scan.feed(body) + scan.close()
    assert (scan.finished, scan.done, scan.fault) == (True, True, None)
    assert scan.usage is not None
    assert scan.usage.total_tokens == 6


def test_completions_speak_in_text() -> None:
    answer = json.loads(play("completions", {"model": "m", "prompt": "say it"})[2])
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "say it")
    found = chunks(play("completions", {"model": "m", "prompt": ["say", "it"], "stream": True})[2])
    assert "".join(chunk["choices"][0]["text"] for chunk in found) == "say\nit"


def test_embeddings_depend_on_the_text_alone_and_have_length_one() -> None:
    one = json.loads(play("embeddings", {"model": "m", "input": ["a", "b", "a"], "dimensions": 16})[2])
    vectors = [entry["embedding"] for entry in one["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert [len(vector) for vector in vectors] == [16, 16, 16]
    assert all(math.isclose(sum(v * v for v in vector), 1.0, rel_tol=1e-6) for vector in vectors)
    assert one["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_embeddings_in_base64_are_the_same_numbers() -> None:
    plain = json.loads(play("embeddings", {"model": "m", "input": "a", "dimensions": 4})[2])["data"][0]["embedding"]
    packed = json.loads(play("embeddings", {"model": "m", "input": "a", "dimensions": 4, "encoding_format": "base64"})[2])
    numbers = struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(numbers) == pytest.approx(plain)


@pytest.mark.parametrize(("value", "count"), [("a", 1), ([1, 2, 3], 1), ([[1], [2, 3]], 2), (["a"], 1)])
def test_each_form_of_input_is_embedded(value: Any, count: int) -> None:
    assert len(json.loads(play("embeddings", {"model": "m", "input": value})[2])["data"]) == count


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", b"nope", None),
        ("chat/completions", b"[]", None),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": ["x"]}, "messages"),
        ("chat/completions", {**HELLO, "max_tokens": 0}, "max_tokens"),
        ("chat/completions", {**HELLO, "max_tokens": "5"}, "max_tokens"),
        ("completions", {"prompt": 7}, "prompt"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": [1, "a"]}, "input"),
        ("embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
    ],
)
def test_a_bad_request_is_refused_as_openai_would(path: str, body: Any, param: str | None) -> None:
    status, headers, answer, _ = play(path, body)
    assert status == 400
    assert json.loads(answer)["error"]["param"] == param
    assert classify(status, list(headers.items()), answer).kind is ErrorKind.BAD_REQUEST


def test_fail_ratio_is_the_share_of_failures() -> None:
    assert {play("chat/completions", HELLO, Simulator(fail_ratio=1.0), seed)[0] for seed in range(20)} == {503}
    assert {play("chat/completions", HELLO, Simulator(fail_ratio=0.0), seed)[0] for seed in range(20)} == {200}
    rng = random.Random(7)
    failed = sum(reply("embeddings", b'{"input":"a"}', Simulator(fail_ratio=0.3), rng)[0] == 503 for _ in range(1000))
    assert 240 < failed < 360


def test_a_failure_is_one_that_fails_over() -> None:
    status, headers, body, _ = play("chat/completions", HELLO, Simulator(fail_ratio=1.0))
    assert classify(status, list(headers.items()), body).kind is ErrorKind.SERVER_ERROR


def test_the_length_is_told_and_an_unknown_path_is_404() -> None:
    _, headers, body, _ = play("chat/completions", HELLO)
    assert headers[b"content-length"] == str(len(body)).encode()
    assert play("images/generations", HELLO)[0] == 404


def test_an_echo_nobody_bounded_is_bounded() -> None:
    answer = chat(messages=[{"role": "user", "content": "word " * 10_000}])
    assert answer["usage"]["completion_tokens"] == 4096
    assert answer["choices"][0]["finish_reason"] == "length"


@FUZZ
@given(st.text(max_size=200))
def test_tokens_join_to_their_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda i: (
        st.lists(i, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]), i | st.just("user"))
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["messages", "prompt", "input", "stream", "stream_options", "max_tokens", "dimensions", "model"])


@FUZZ
@given(
    st.sampled_from(["chat/completions", "completions", "embeddings"]),
    st.binary(max_size=50) | st.dictionaries(KEYS, JSON, max_size=5),
)
def test_any_body_gets_an_answer_or_a_400(path: str, body: Any) -> None:
    status, headers, answer, delay_s = play(path, body)
    assert status in (200, 400)
    assert delay_s >= 0.0
    if status == 200 and headers[b"content-type"] == b"application/json":
        assert decode_unary(answer, "embedding" if path == "embeddings" else "chat").usage is not None
