"""Streams of named events: what they say, whatever the pieces they come in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.wire.openai.event_scan import EventScan


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


CREATED = event("response.created", response={"id": "r"})
DELTA = event("response.output_text.delta", delta="hé")
COMPLETED = event("response.completed", response={"usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}})
STREAM = CREATED + DELTA + COMPLETED


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_any_split_gives_the_same_events_and_facts(size: int) -> None:
    scan = EventScan()
    out = b"".join(scan.feed(STREAM[i : i + size]) for i in range(0, len(STREAM), size)) + scan.close()
    assert out == STREAM
    assert (scan.content, scan.finished, scan.fault) == (True, True, None)
    assert scan.usage is not None
    assert (scan.usage.input_tokens, scan.usage.output_tokens) == (3, 4)


def test_announcements_are_no_content() -> None:
    scan = EventScan()
    assert scan.feed(CREATED) == CREATED
    assert not scan.content
    scan.feed(DELTA)
    assert (scan.content, scan.finished) == (True, False)


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (event("response.failed", response={"error": {"code": "server_error", "message": "no"}}), "no"),
        (event("error", message="busy", code="overloaded"), "busy"),
        (b'data: {"error": {"message": "flat"}}\n\n', "flat"),
    ],
)
def test_an_error_event_is_a_fault_and_nothing_follows_it(failing: bytes, message: str) -> None:
    scan = EventScan()
    assert scan.feed(failing + DELTA) == b""
    assert scan.fault is not None
    assert scan.fault.error["message"] == message


def test_a_malformed_event_is_left_out_and_three_in_a_row_are_a_fault() -> None:
    scan = EventScan()
    assert scan.feed(b"data: {oops\n\n" + DELTA) == DELTA
    assert (scan.malformed, scan.fault) == (1, None)
    scan.feed(b"data: {\n\n" * 3)
    assert scan.fault is not None


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_foreign_bytes_never_raise(pieces: list[bytes]) -> None:
    scan = EventScan()
    for piece in pieces:
        scan.feed(piece)
    scan.close()
