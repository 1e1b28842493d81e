"""What is charged: what the engine said, or an estimate that says that it is one."""

from __future__ import annotations

import json

from routerd.messages import Usage
from routerd.server.used import guessed, used_by_answer, used_by_stream
from routerd.wire.forwarded import ForwardedText

SAID = Usage(input_tokens=7, output_tokens=2, cached_tokens=1)


def text(content: str, said: Usage | None = None) -> ForwardedText:
    return ForwardedText(b"data: " + json.dumps({"choices": [{"delta": {"content": content}}]}).encode() + b"\n\n", said)


def test_what_the_engine_said_of_a_whole_answer_stands() -> None:
    assert used_by_answer(SAID, 400, b"{}") is SAID
    assert used_by_stream(SAID, 400, text("x" * 100, SAID), True) is SAID


def test_four_bytes_are_a_token_where_the_engine_said_nothing() -> None:
    body = json.dumps({"choices": [{"message": {"content": "123456789"}}]}).encode()
    assert used_by_answer(None, 401, body) == Usage(input_tokens=101, output_tokens=3, estimated=True)
    assert used_by_stream(None, 401, text("12345678"), False) == Usage(input_tokens=101, output_tokens=2, estimated=True)
    assert guessed(0, 0) == Usage(input_tokens=1, estimated=True)


def test_of_a_cut_stream_only_what_came_after_the_last_usage_is_estimated() -> None:
    assert used_by_stream(SAID, 400, text("12345", SAID), False) == Usage(
        input_tokens=7, output_tokens=4, cached_tokens=1, estimated=True
    )
    assert used_by_stream(SAID, 400, text("", SAID), False) is SAID


def test_nobody_counts_where_nobody_asks() -> None:
    assert used_by_stream(None, 400, None, False) is None
    assert used_by_stream(SAID, 400, None, False) is SAID
