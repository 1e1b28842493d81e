"""Event streams: recorded ones and any bytes give the same events however they are cut."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.openai.usage import read_usage
from routerd.wire.sse import Event, SseParser, encode
from tests.wire.transcripts import Recorded, load

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
STREAMS = [r for r in load("*/*.json") if r.status == 200 and b"data:" in r.body]


def parse(pieces: list[bytes], limit: int = 1 << 20) -> tuple[list[Event], bool]:
    """All events, and whether a fault ended them."""
    parser = SseParser(limit)
    events: list[Event] = []
    try:
        for piece in pieces:
            events += parser.feed(piece)
        events += parser.close()
        parser.close()  # a fault may be owed
    except ProtocolFault:
        return events, True
    return events, False


def whole(body: bytes) -> list[Event]:
    return parse([body])[0]


def cut(body: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    pieces = []
    at = 0
    while at < len(body):
        size = rng.choice((1, 2, 3, 7, 50, 400))
        pieces.append(body[at : at + size])
        at += size
    return pieces


def read(events: list[Event]) -> tuple[str, Usage | None, bool, int]:
    """Text, last usage, whether [DONE] came, number of errors."""
    text, usage, errors = "", None, 0
    for event in events:
        if event.data == b"[DONE]":
            continue
        chunk: dict[str, Any] = json.loads(event.data)
        errors += bool(chunk.get("error"))
        usage = read_usage(chunk.get("usage")) or usage
        for choice in chunk.get("choices", ()):
            content = choice.get("delta", {}).get("content")
            text += content if isinstance(content, str) else ""
    return text, usage, any(event.data == b"[DONE]" for event in events), errors


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_a_recorded_stream_gives_the_same_events_however_it_is_cut(recorded: Recorded) -> None:
    events = whole(recorded.body)
    # Read it by hand: blocks between blank lines, each with one data line.
    blocks = [block for block in re.split(r"(?:\r?\n){2,}", recorded.body.decode()) if "data:" in block]
    assert [event.data.decode() for event in events] == [re.search(r"^data: ?(.*)$", b, re.M)[1].strip("\r") for b in blocks]  # type: ignore[index]
    assert parse([bytes([byte]) for byte in recorded.body])[0] == events
    for seed in range(5):
        assert parse(cut(recorded.body, seed))[0] == events


@pytest.mark.parametrize("recorded", STREAMS, ids=lambda r: r.name)
def test_line_ends_do_not_matter(recorded: Recorded) -> None:
    events = whole(recorded.body)
    lf = recorded.body.replace(b"\r\n", b"\n")
    for end in (b"\r\n", b"\r"):
        other = lf.replace(b"\n", end)
        assert whole(other) == events
        assert parse(cut(other, 1))[0] == events
        assert parse([bytes([byte]) for byte in other])[0] == events


@pytest.mark.parametrize(
    ("name", "usage", "done", "errors"),
    [
        ("openai/chat_stream_usage", (20, 2, 0), True, 0),
        ("groq/chat_stream", (20, 4, 0), True, 0),
        ("huggingface/chat_stream_no_done", (51, 2, 0), False, 0),
        ("xai/chat_stream", (165, 131, 129), True, 0),
        ("openrouter/chat_stream_processing_comments", (13, 1003, 0), True, 0),
        ("openrouter/stream_midstream_error_docs", None, False, 1),
        ("groq/stream_midstream_error_text", None, False, 1),
        ("vllm/chat_stream", None, True, 0),
    ],
)
def test_usage_end_and_errors_of_recorded_streams(name: str, usage: tuple[int, int, int] | None, done: bool, errors: int) -> None:
    [recorded] = load(f"{name}.json")
    _, found, ended, failed = read(whole(recorded.body))
    counts = None if found is None else (found.input_tokens, found.output_tokens, found.reasoning_tokens)
    assert (counts, ended, failed) == (usage, done, errors)


def test_an_error_event_keeps_its_name() -> None:
    [recorded] = load("groq/stream_midstream_error_text.json")
    assert [e.name for e in whole(recorded.body) if e.name] == ["error"]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data\n\n", [("", b"")]),
        (b"data:\ndata:\n\n", [("", b"\n")]),
        (b"event: ping\n\ndata: a\n\n", [("", b"a")]),
        (b"event: e\ndata: a\n\ndata: b\n\n", [("e", b"a"), ("", b"b")]),
        (b": comment\ndata: a\n: more\n\n", [("", b"a")]),
        (b": only\n\n: comments\n\n", []),
        (b"id: 1\nretry: 5\nfoo: x\nbar\ndata: a\n\n", [("", b"a")]),
        (b"\n\n\r\n\rdata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbf\n\ndata: a\n\n", [("", b"a")]),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a", [("", b"a")]),
        (b"data: a\n", [("", b"a")]),
        (b"data: a\r", [("", b"a")]),
        (b"data: a\r\n\rdata: b\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: \xc3\xa9\xff\n\n", [("", b"\xc3\xa9\xff")]),
        (b"Data: a\n data: b\n\n", []),
        (b"", []),
    ],
)
def test_the_rules_of_the_format(stream: bytes, events: list[tuple[str, bytes]]) -> None:
    expected = [Event(*event) for event in events]
    assert whole(stream) == expected
    assert parse([bytes([byte]) for byte in stream])[0] == expected


def test_an_event_is_given_out_as_soon_as_its_blank_line_begins() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [Event("", b"a")]
    assert parser.feed(b"\ndata: b\r\n\r\n") == [Event("", b"b")]


def test_an_event_over_the_limit_is_a_fault_behind_the_events_before_it() -> None:
    stream = b"data: a\n\ndata: " + b"x" * 100 + b"\n\ndata: c\n\n"
    assert parse([stream], 50) == ([Event("", b"a")], True)
    parser = SseParser(50)
    assert parser.feed(stream) == [Event("", b"a")]
    with pytest.raises(ProtocolFault, match="50 bytes"):
        parser.feed(b"data: d\n\n")
    with pytest.raises(ProtocolFault, match="50 bytes"):
        parser.close()


def test_an_event_of_many_small_lines_is_bounded_too() -> None:
    assert parse([b"data: xxxx\n"] * 100, 50) == ([], True)


def test_comments_without_end_are_no_event_and_no_fault() -> None:
    assert parse([b": keep-alive\n"] * 1000, 50) == ([], False)


def test_a_large_event_byte_by_byte_costs_linear_time() -> None:
    body = b"data: " + b"x" * 300_000 + b"\n\n"
    assert len(parse([body[i : i + 1] for i in range(len(body))])[0][0].data) == 300_000


PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:",
        b"event: e",
        b":c",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        b"\xef\xbb\xbf",
        b"\xc3",
        b"data: " + b"y" * 30,
    ]
)


@FUZZ
@given(
    st.lists(PIECES | st.binary(max_size=6), max_size=20).map(b"".join),
    st.lists(st.integers(0, 200), max_size=8),
    st.sampled_from([20, 999]),
)
@example(b"data: a\r\n\r\ndata: b", [8, 9, 10], 999)
def test_any_bytes_in_any_split_give_the_same_events_and_the_same_fault(body: bytes, marks: list[int], limit: int) -> None:
    expected = parse([body], limit)
    borders = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
    assert parse([body[a:b] for a, b in zip(borders, borders[1:], strict=False)], limit) == expected  # noqa: RUF007
    assert parse([bytes([byte]) for byte in body], limit) == expected


@FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "error", "message_stop"]), st.binary(max_size=30).filter(lambda b: b"\r" not in b)),
        max_size=5,
    )
)
def test_what_is_encoded_parses_to_itself(pairs: list[tuple[str, bytes]]) -> None:
    events = [Event(*pair) for pair in pairs]
    assert whole(b"".join(encode(event) for event in events)) == events
