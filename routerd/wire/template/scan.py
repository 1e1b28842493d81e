"""The pieces of a described service as OpenAI events.

A good end is a finish, the done mark, or, for a service that has neither (`end: eof`), the end of the bytes after some content.
Usage that the service does not report is estimated, a token for every four bytes (English in current tokenizers), and says so.
"""

from __future__ import annotations

from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.framing import Framing
from routerd.wire.template.read import Piece, Read
from routerd.wire.translation.compose import Chunks
from routerd.wire.translation.pivot import dump
from routerd.wire.translation.scan import Said, TranslatedScan

__all__ = ["Counted", "TemplateScan"]

BYTES_PER_TOKEN = 4


class Counted:
    """The counts of one answer: reported ones, else estimates."""

    __slots__ = ("_call", "_input_tokens", "_output_tokens", "_size_bytes")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._size_bytes = 0

    def add(self, piece: Piece) -> None:
        """Take what a piece says of the counts; the last ones win."""
        self._size_bytes += len(piece.text.encode("utf-8", "replace")) + len(piece.thought.encode("utf-8", "replace"))
        if piece.input_tokens is not None:
            self._input_tokens = piece.input_tokens
        if piece.output_tokens is not None:
            self._output_tokens = piece.output_tokens

    def usage(self) -> Usage:
        """Return the usage so far."""
        given, made = self._input_tokens, self._output_tokens
        return Usage(
            input_tokens=given if given is not None else -(-self._call.input_bytes // BYTES_PER_TOKEN),
            output_tokens=made if made is not None else -(-self._size_bytes // BYTES_PER_TOKEN),
            estimated=given is None or made is None,
        )


class TemplateScan(TranslatedScan):
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = ("_counted", "_eof_ends", "_read")

    def __init__(self, call: Call, framing: Framing, read: Read, *, eof_ends: bool) -> None:
        super().__init__(call, framing)
        self._read = read
        self._eof_ends = eof_ends
        self._counted = Counted(call)

    def _take(self, payload: bytes, out: Said) -> None:
        piece = self._read(payload)
        if piece is None:
            self._unreadable()
            return
        self._malformed_run = 0
        if piece.error:
            self._failed(piece.error)
            if self.fault is not None:
                return
        self._counted.add(piece)
        self._counts = self._counted
        if not self.finished:
            self._say(piece, out)
        if piece.done:
            self._end(out)

    def _usage_of(self, counts: Counted) -> Usage:
        return counts.usage()

    def _say(self, piece: Piece, out: Said) -> None:
        if piece.thought:
            out.append(self._chunks_of(out).reasoning(0, dump(piece.thought)))
            self.content = True
        if piece.text:
            out.append(self._chunks_of(out).text(0, dump(piece.text)))
            self.content = True
        if piece.finish:
            self._finish(piece.finish, out)

    def _chunks_of(self, out: Said) -> Chunks:
        """Begin the message, once."""
        if self._chunks is None:
            out.append(self._open(self._call.answer_id, self._call.created_unix_s).role(0))
        assert self._chunks is not None
        return self._chunks

    def _finish(self, reason: str, out: Said) -> None:
        out.append(self._chunks_of(out).finish(0, reason))
        self.content = self.finished = True

    def _at_end(self, out: Said) -> None:
        if self.finished or (self._eof_ends and self.content):
            self._end(out)

    def _end(self, out: Said) -> None:
        if not self.finished:
            self._finish("stop", out)
        super()._end(out)
