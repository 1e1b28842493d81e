"""What a described service answers: how its format is cut into pieces, and what a piece says.

sse: events with JSON data. ndjson: a JSON document a line. vercel: the AI SDK's data stream, lines like `0:"text"` (ai-sdk.dev,
"Stream Protocols": 0 text, g reasoning, 3 error, e the end of a step, d the end of the message). raw: text as it is.
whole: one JSON document, for a service that does not stream.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from routerd.wire.foreign import read_json
from routerd.wire.framing import Events, Framing, Lines, Whole
from routerd.wire.template.pointer import find, parse_pointer

__all__ = ["Fields", "Piece", "Read", "finish_of", "make_reader"]

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


Read = Callable[[bytes], Piece | None]


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


class _Text:
    """Text as it comes: a character that was cut waits for its end."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what arrived."""
        return [self._decoder.decode(data).encode()]

    def close(self) -> Sequence[bytes]:
        """The bytes have ended."""
        return [self._decoder.decode(b"", True).encode()]


def make_reader(form: str, fields: Fields, done: str) -> tuple[Framing, Read]:
    """Return what cuts one answer in a format into pieces, and what reads these; None from it: no such piece."""
    mark = done.encode()

    def marked(payload: bytes) -> Piece | None:
        return Piece(done=True) if payload.strip() == mark else fields.read(payload)

    match form:
        case "sse":
            return Events(), marked
        case "ndjson":
            return Lines(), marked
        case "vercel":
            return Lines(), lambda line: _vercel_piece(line.strip())
        case "raw":
            return _Text(), lambda text: Piece(text=text.decode())
        case _:
            return Whole(), lambda body: _whole_piece(fields, body)


def _whole_piece(fields: Fields, body: bytes) -> Piece | None:
    piece = fields.read(body)
    if piece is not None and not piece.error:
        piece.finish, piece.done = piece.finish or "stop", True
    return piece
