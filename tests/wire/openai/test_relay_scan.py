"""What is seen in a forwarded stream, and what is left out of it."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.graph import Provider
from routerd.wire.dialect import Call
from routerd.wire.openai.dialect import OpenAIDialect
from routerd.wire.openai.relay_scan import MAX_EVENT_BYTES, RelayScan
from tests.wire.transcripts import Recorded, load

STREAMS = [r for r in load("*/*.json") if r.status == 200 and b"data:" in r.body and not r.native]


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice], **more}).encode() + b"\n\n"


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk(finish="stop")
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = ROLE + HELLO + b": keep-alive\n\n" + STOP + USAGE + DONE


def scan(data: bytes, size: int | None = None, *, withhold: bool = False, choices: int = 1) -> tuple[RelayScan, bytes]:
    scanner = RelayScan(withhold_usage=withhold, choices=choices)
    step = size or max(1, len(data))
    out = b"".join(scanner.feed(data[i : i + step]) for i in range(0, len(data), step))
    return scanner, out + scanner.close()


@pytest.mark.parametrize("size", [None, 1, 7])
def test_a_good_stream_passes_byte_for_byte(size: int | None) -> None:
    scanner, out = scan(STREAM, size)
    assert out == STREAM
    assert (scanner.content, scanner.finished, scanner.done, scanner.fault) == (True, True, True, None)
    assert scanner.usage is not None
    assert (scanner.usage.input_tokens, scanner.usage.output_tokens) == (3, 2)
    assert scanner.model == "m"


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_every_recorded_stream_passes_and_is_understood_at_any_split(recorded: Recorded) -> None:
    scanner, out = scan(recorded.body)
    for size in (1, 7):
        other, same = scan(recorded.body, size)
        assert same == out
        assert (other.content, other.finished, other.done, other.usage, other.fault) == (
            scanner.content, scanner.finished, scanner.done, scanner.usage, scanner.fault,
        )  # fmt: skip
    chunks = [json.loads(one) for one in re.findall(rb"^data: ?(\{.*\})", recorded.body, re.MULTILINE)]
    failed = any(one.get("error") for one in chunks)
    assert (scanner.fault is not None, scanner.finished, scanner.malformed) == (failed, not failed, 0)
    assert scanner.content
    assert failed or out.strip() == recorded.body.strip()
    totals = [one["usage"]["total_tokens"] for one in chunks if one.get("usage")]
    assert (scanner.usage.total_tokens if scanner.usage is not None else None) == (totals[-1] if totals else None)


@pytest.mark.parametrize("size", [None, 1])
def test_a_usage_chunk_that_only_we_asked_for_is_withheld(size: int | None) -> None:
    scanner, out = scan(STREAM, size, withhold=True)
    assert out == STREAM.replace(USAGE, b"")
    assert scanner.usage is not None


def test_usage_beside_choices_is_not_withheld_and_the_last_one_wins() -> None:
    both = chunk(finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 1})
    scanner, out = scan(HELLO + both + USAGE + DONE, withhold=True)
    assert out == HELLO + both + DONE
    assert scanner.usage is not None
    assert scanner.usage.input_tokens == 3


@pytest.mark.parametrize(
    "opening", [ROLE, b": OPENROUTER PROCESSING\n\n", b"\n\n", b"event: ping\n\n", chunk({"role": "assistant", "content": None})]
)
def test_what_says_nothing_is_no_content(opening: bytes) -> None:
    assert not scan(opening)[0].content


@pytest.mark.parametrize(
    "event",
    [
        HELLO,
        STOP,
        chunk({"reasoning_content": "hm"}),
        chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
        b'data: {"choices":[{"text":"x"}]}\n\n',
    ],
)
def test_text_reasoning_tools_and_a_finish_are_content(event: bytes) -> None:
    assert scan(event)[0].content


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("size", [None, 1, 3])
def test_every_line_end_is_understood(end: bytes, size: int | None) -> None:
    data = STREAM.replace(b"\n", end)
    scanner, out = scan(data, size)
    # A lone CR at the very end could be half of a CRLF; the close settles it.
    assert out.rstrip(b"\r\n") == data.rstrip(b"\r\n")
    assert (scanner.done, scanner.finished) == (True, True)


def test_a_last_event_without_a_blank_line_counts() -> None:
    scanner, out = scan(HELLO + STOP.rstrip())
    assert scanner.finished
    assert out == HELLO + STOP


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"boom","code":502},"choices":[]}\n\n',
        b'event: error\ndata: {"error":{"message":"boom"}}\n\n',
        b'data: {"error":"boom"}\n\n',
        b"event: error\ndata: boom\n\n",
        b'event: error\ndata: {"type":"overloaded_error","message":"boom"}\n\n',
        b'data: {"error":{"message":"boom"},"choices":"x"}\n\n',
        b'data: {"error":"boom","choices":[1]}\n\n',
        b'event: error\ndata: {"message":"boom","choices":{}}\n\n',
    ],
)
@pytest.mark.parametrize("before", [b"", HELLO])
def test_an_error_event_is_a_fault_and_is_not_forwarded(before: bytes, event: bytes) -> None:
    scanner, out = scan(before + event + HELLO)
    assert scanner.fault is not None
    assert "boom" in json.dumps(scanner.fault.error)
    assert out == before


def test_an_error_after_the_finish_is_no_failure() -> None:
    scanner, out = scan(HELLO + STOP + b'data: {"error":{"message":"late"},"choices":[]}\n\n' + DONE)
    assert scanner.fault is None
    assert out == HELLO + STOP + DONE


@pytest.mark.parametrize("odd", [b'{"choices":"x"}', b'{"choices":[1],"error":null}', b'{"choices":[{"index":"0"}],"error":{}}'])
def test_an_object_of_another_shape_is_the_clients_affair(odd: bytes) -> None:
    event = b"data: " + odd + b"\n\n"
    scanner, out = scan(event)
    assert (scanner.content, scanner.fault, out) == (True, None, event)


def test_the_word_error_in_a_text_is_no_error() -> None:
    scanner, _ = scan(chunk({"content": '"error": {"message": 1}'}) + STOP + DONE)
    assert scanner.fault is None


def test_a_null_error_is_no_error() -> None:
    assert scan(chunk({"content": "x"}, error=None))[0].fault is None


def test_malformed_events_are_left_out_and_counted() -> None:
    scanner, out = scan(HELLO + b"data: {not json\n\n" + HELLO + DONE)
    assert out == HELLO + HELLO + DONE
    assert (scanner.malformed, scanner.fault) == (1, None)


def test_three_malformed_events_in_a_row_are_a_fault() -> None:
    scanner, out = scan(HELLO + b"data: {\n\n" * 3 + HELLO)
    assert scanner.fault is not None
    assert out == HELLO


def test_good_events_between_malformed_ones_start_the_count_again() -> None:
    assert scan((b"data: {\n\n" * 2 + HELLO) * 4)[0].fault is None
    assert scan((b"data: {\n\n" * 2 + b'data: {"choices":"x"}\n\n') * 4)[0].fault is None


def test_what_follows_done_is_dropped() -> None:
    assert scan(HELLO + DONE + HELLO)[1] == HELLO + DONE


def test_an_endless_event_is_a_fault() -> None:
    scanner = RelayScan(withhold_usage=False)
    for _ in range(MAX_EVENT_BYTES // (1 << 20) + 2):
        scanner.feed(b"data: " + b"x" * (1 << 20))
    assert scanner.fault is not None


def choice(index: int, text: str, finish: str | None = None) -> bytes:
    body = {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def test_a_stream_of_several_choices_is_finished_when_each_of_them_is() -> None:
    half = choice(0, "a") + choice(1, "b") + choice(0, "", "stop")
    assert not scan(half)[0].finished
    assert scan(half + choice(1, "", "stop"))[0].finished
    assert scan(half + b'data: {"error":{"message":"boom"}}\n\n')[0].fault is not None


@pytest.mark.parametrize(("n", "finished"), [(b"2", False), (b"1", True), (b"null", True), (b'"2"', True), (b"true", True)])
def test_a_request_says_how_many_choices_its_stream_must_end(n: bytes, finished: bool) -> None:
    dialect = OpenAIDialect(Provider(name="p", dialect="openai", endpoints=()))
    call = Call(operation="chat", path="chat/completions", model="m", stream=True)
    dialect.encode({"model": msgspec.Raw(b'"m"'), "n": msgspec.Raw(n)}, call)
    scanner = dialect.scan(call)
    scanner.feed(choice(0, "a", "stop"))
    assert scanner.finished == finished


@pytest.mark.parametrize("size", [None, 1])
def test_a_choice_that_was_asked_for_and_never_began_has_not_ended(size: int | None) -> None:
    scanner, _ = scan(choice(0, "a") + choice(0, "", "stop"), size, choices=2)
    assert (scanner.finished, scanner.done) == (False, False)
    scanner, _ = scan(choice(0, "a") + choice(0, "", "stop") + choice(1, "b", "stop"), size, choices=2)
    assert scanner.finished
    assert scan(choice(0, "a", "stop") + DONE, size, choices=2)[0].done  # an engine that knows no `n` has said that this is all


def test_a_long_event_in_small_pieces_is_joined_once() -> None:
    text = b'data: {"choices":[{"delta":{"content":"' + b"x" * (2 << 20) + b'"}}]}\n\n'
    scanner = RelayScan(withhold_usage=False)
    view = memoryview(text)
    began_s = time.process_time()
    out = b"".join(scanner.feed(bytes(view[i : i + 512])) for i in range(0, len(text), 512))
    assert out == text
    assert time.process_time() - began_s < 0.5  # joined at every piece it takes 3 s


def test_half_a_surrogate_pair_is_no_reason_to_drop_an_event() -> None:
    odd = b'data: {"choices":[{"delta":{"content":"\\ud83d"},"finish_reason":null}]}\n\n'
    scanner, out = scan(odd * 4)
    assert out == odd * 4
    assert (scanner.malformed, scanner.fault) == (0, None)


def test_a_shape_nobody_knows_is_passed_on() -> None:
    odd = b'data: {"choices":"none"}\n\n'
    assert scan(odd)[1] == odd


@given(st.lists(st.integers(0, len(STREAM)), max_size=15))
@settings(max_examples=100, deadline=None)
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(STREAM)]
    scanner = RelayScan(withhold_usage=True)
    out = b"".join(scanner.feed(STREAM[a:b]) for a, b in itertools.pairwise(marks))
    assert out == STREAM.replace(USAGE, b"")
    assert scanner.usage is not None


PIECES = st.one_of(st.binary(max_size=60), st.sampled_from([HELLO, DONE, b"data: ", b"\r\n\r\n", b"event: error\n"]))


@given(st.lists(PIECES, max_size=12))
@settings(max_examples=300, deadline=None)
def test_foreign_bytes_never_raise(pieces: list[bytes]) -> None:
    scanner = RelayScan(withhold_usage=True)
    for piece in pieces:
        scanner.feed(piece)
    scanner.close()
