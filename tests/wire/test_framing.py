"""A stream cut into pieces: the same at any split, and bounded."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import ProtocolFault
from routerd.wire.framing import Elements, Events, Framing, Lines, Whole
from routerd.wire.sse import MAX_EVENT_BYTES, SseParser


def cut(framing: Framing, data: bytes, size: int | None = None) -> list[bytes]:
    step = size or max(1, len(data))
    found = [piece for i in range(0, len(data), step) for piece in framing.feed(data[i : i + step])]
    return [*found, *framing.close()]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'data: {"a":1}\n\n', [b'{"a":1}']),
        (b'data: {"a":1}\r\n\r\n', [b'{"a":1}']),
        (b'event: x\ndata: {"a":1}\n\n', [b'{"a":1}']),
        (b'event: x\r\ndata: {"a":1}\r\n\r\n', [b'{"a":1}']),
        (b'data:{"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
        (b'data: {"a":1}\rdata: x\n\n', [b'{"a":1}\nx']),
        (b'data: {"a":\ndata: 1}\n\n', [b'{"a":\n1}']),
        (b": ping\n\nid: 7\nretry: 1\ndata: {\n\n", [b"{"]),
        (b'\xef\xbb\xbfdata: {"a":1}\n\n', [b'{"a":1}']),
        (b"event: x\n\nevent: y", []),
        (b"event: x", []),
        (b'data: {"a":1}', [b'{"a":1}']),
        (b"", []),
    ],
)
def test_events_are_those_of_the_specification(data: bytes, found: list[bytes]) -> None:
    for size in (None, 1, 3):
        assert cut(Events(), data, size) == found


SSE = st.lists(
    st.sampled_from([b"data: {", b"data: ", b"data:", b"}", b"event: x", b"\n", b"\n\n", b"\r\n\r\n", b"\r", b": c", b'{"a":1}']),
    max_size=12,
).map(b"".join)


@given(SSE | st.binary(max_size=40), st.integers(1, 9))
def test_events_are_the_full_parsers_at_any_split(data: bytes, size: int) -> None:
    parser = SseParser()
    whole = [event.data for event in (*parser.feed(data), *parser.close())]
    assert [one for one in whole if one.strip()] == cut(Events(), data)
    assert cut(Events(), data, size) == cut(Events(), data)


@given(st.lists(st.sampled_from([b"{", b"{}", b"\n", b"\r\n", b"\r", b" ", b"x"]), max_size=12).map(b"".join), st.integers(1, 5))
def test_lines_are_the_same_at_any_split_and_never_blank(data: bytes, size: int) -> None:
    lines = [line.strip() for line in cut(Lines(), data)]
    assert lines == [line.strip() for line in data.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    assert [line.strip() for line in cut(Lines(), data, size)] == lines


VALUES = st.text(max_size=4) | st.lists(st.text(max_size=3))
OBJECTS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5)


@given(OBJECTS, st.integers(1, 9), st.sampled_from([None, 2]), st.booleans())
def test_the_elements_of_an_array_and_of_a_row_of_objects(values: list[object], size: int, indent: int, array: bool) -> None:
    text = json.dumps(values, indent=indent) if array else "\r\n".join(json.dumps(value, indent=indent) for value in values)
    for step in (None, size):
        assert [json.loads(piece) for piece in cut(Elements(), text.encode(), step)] == values


@given(st.binary(max_size=30).map(lambda b: b"[{" + b) | st.text('[]{}"\\,a', max_size=30).map(str.encode), st.integers(1, 9))
def test_elements_of_anything_are_the_same_at_any_split(data: bytes, size: int) -> None:
    assert cut(Elements(), data, size) == cut(Elements(), data)


@pytest.mark.parametrize("make", [Events, Lines, Elements, Whole])
@pytest.mark.parametrize("start", [b"{", b"data: {\r\n"])
def test_a_piece_without_end_is_a_fault(make: Callable[[], Framing], start: bytes) -> None:
    framing = make()
    pieces = [start, *[b"x" * 2**20] * (MAX_EVENT_BYTES // 2**20 + 1)]
    with pytest.raises(ProtocolFault, match="larger than"):
        list(map(framing.feed, pieces))
