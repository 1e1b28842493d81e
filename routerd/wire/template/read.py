"""What a described service answers, cut into pieces by its format. Bytes in, pieces out; any split gives the same pieces.

sse: events with JSON data. ndjson: a JSON document a line. vercel: the AI SDK's data stream, lines like `0:"text"` (ai-sdk.dev,
"Stream Protocols": 0 text, g reasoning, 3 error, e the end of a step, d the end of the message). raw: text as it is.
whole: one JSON document, for a service that does not stream.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any, Protocol

from routerd.errors import ProtocolFault
from routerd.wire.foreign import read_json
from routerd.wire.sse import MAX_EVENT_BYTES, SseParser
from routerd.wire.template.pointer import find, parse_pointer

__all__ = ["Fields", "Piece", "Reader", "finish_of", "make_reader"]

MAX_COUNT = 10**12
_FINISHES = {
    "length": "length", "max_tokens": "length", "max_length": "length", "model_length": "length",
    "content_filter": "content_filter", "content-filter": "content_filter", "safety": "content_filter",
}  # fmt: skip
_UNFINISHED = frozenset({"", "null", "none", "false", "unknown"})


@dataclass(slots=True)
class Piece:
    """What one event said. `done`: nothing follows."""

    text: str = ""
    thought: str = ""
    finish: str | None = None
    error: Any = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    done: bool = False


class Reader(Protocol):
    """The state of one answer. None stands for an event that could not be read."""

    def feed(self, data: bytes) -> list[Piece | None]:
        """Take what arrived. Raises ProtocolFault for an event that is too large."""

    def close(self) -> list[Piece | None]:
        """The bytes have ended."""


class Fields:
    """Where the values stand in a JSON document."""

    __slots__ = ("_error", "_finish", "_input", "_output", "_text")

    def __init__(self, pointers: Any) -> None:
        self._text = parse_pointer(pointers.text)
        self._finish = parse_pointer(pointers.finish)
        self._error = parse_pointer(pointers.error)
        self._input = parse_pointer(pointers.input_tokens)
        self._output = parse_pointer(pointers.output_tokens)

    def read(self, payload: bytes) -> Piece | None:
        """Return what a document says; None where it is no JSON."""
        try:
            value = read_json(payload)
        except ValueError:
            return None
        text = find(value, self._text)
        return Piece(
            text=text if isinstance(text, str) else "",
            finish=finish_of(find(value, self._finish)),
            error=find(value, self._error) or None,
            input_tokens=_count(find(value, self._input)),
            output_tokens=_count(find(value, self._output)),
        )


def finish_of(value: Any) -> str | None:
    """Return OpenAI's finish_reason for a service's own word, or for a plain true."""
    if isinstance(value, str):
        return None if value.lower() in _UNFINISHED else _FINISHES.get(value.lower(), "stop")
    return "stop" if isinstance(value, (bool, int, float)) and value else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


class _Lines:
    """Whole lines out of bytes."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        lines = data.split(b"\n")
        last = lines.pop()
        if lines:
            lines[0] = bytes(self._tail) + lines[0]
            self._tail = bytearray()
        self._tail += last
        if len(self._tail) > MAX_EVENT_BYTES:
            self._tail = bytearray()
            raise ProtocolFault(f"the upstream sent a line longer than {MAX_EVENT_BYTES} bytes")
        return [line.strip() for line in lines]

    def close(self) -> list[bytes]:
        tail, self._tail = bytes(self._tail).strip(), bytearray()
        return [tail]


class _Sse:
    def __init__(self, fields: Fields, done: bytes) -> None:
        self._parser = SseParser()
        self._fields = fields
        self._done = done

    def feed(self, data: bytes) -> list[Piece | None]:
        return [self._piece(event.data) for event in self._parser.feed(data)]

    def close(self) -> list[Piece | None]:
        return [self._piece(event.data) for event in self._parser.close()]

    def _piece(self, data: bytes) -> Piece | None:
        return Piece(done=True) if data.strip() == self._done else self._fields.read(data)


class _Ndjson:
    def __init__(self, fields: Fields, done: bytes) -> None:
        self._lines = _Lines()
        self._fields = fields
        self._done = done

    def feed(self, data: bytes) -> list[Piece | None]:
        return [self._piece(line) for line in self._lines.feed(data) if line]

    def close(self) -> list[Piece | None]:
        return [self._piece(line) for line in self._lines.close() if line]

    def _piece(self, line: bytes) -> Piece | None:
        return Piece(done=True) if line == self._done else self._fields.read(line)


class _Vercel:
    def __init__(self) -> None:
        self._lines = _Lines()

    def feed(self, data: bytes) -> list[Piece | None]:
        return [_vercel_piece(line) for line in self._lines.feed(data) if line]

    def close(self) -> list[Piece | None]:
        return [_vercel_piece(line) for line in self._lines.close() if line]


def _vercel_piece(line: bytes) -> Piece | None:
    kind, colon, payload = line.partition(b":")
    if not colon or len(kind) != 1:
        return None
    if kind not in b"0g3de":
        return Piece()
    try:
        value = read_json(payload)
    except ValueError:
        return None
    if kind in b"0g":
        if not isinstance(value, str):
            return None
        return Piece(text=value) if kind == b"0" else Piece(thought=value)
    if kind == b"3":
        return Piece(error=value or "the upstream reported an error")
    if not isinstance(value, dict):
        return None
    reason, usage = value.get("finishReason"), value.get("usage")
    if reason == "error":
        return Piece(error="the upstream's stream ended with an error")
    counts = usage if isinstance(usage, dict) else {}
    ends = kind == b"d"  # after `e` another step may follow
    return Piece(
        finish=(finish_of(reason) or "stop") if ends else None,
        input_tokens=_count(counts.get("promptTokens")) if ends else None,
        output_tokens=_count(counts.get("completionTokens")) if ends else None,
        done=ends,
    )


class _Raw:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> list[Piece | None]:
        return [Piece(text=self._decoder.decode(data))]

    def close(self) -> list[Piece | None]:
        return [Piece(text=self._decoder.decode(b"", True))]


class _Whole:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._body = bytearray()

    def feed(self, data: bytes) -> list[Piece | None]:
        self._body += data
        if len(self._body) > MAX_EVENT_BYTES:
            raise ProtocolFault(f"the upstream sent an answer larger than {MAX_EVENT_BYTES} bytes")
        return []

    def close(self) -> list[Piece | None]:
        if not self._body.strip():
            return []
        piece = self._fields.read(bytes(self._body))
        if piece is not None and not piece.error:
            piece.finish, piece.done = piece.finish or "stop", True
        return [piece]


def make_reader(form: str, fields: Fields, done: str) -> Reader:
    """Return the reader of one answer in a format."""
    match form:
        case "sse":
            return _Sse(fields, done.encode())
        case "ndjson":
            return _Ndjson(fields, done.encode())
        case "vercel":
            return _Vercel()
        case "raw":
            return _Raw()
        case _:
            return _Whole(fields)
