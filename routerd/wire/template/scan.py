"""The pieces of a described service as OpenAI events.

A good end is a finish, the done mark, or, for a service that has neither (`end: eof`), the end of the bytes after some content.
Usage that the service does not report is estimated, a token for every four bytes (English in current tokenizers), and says so.
"""

from __future__ import annotations

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.openai.relay_scan import DONE, MAX_MALFORMED_RUN, StreamFault
from routerd.wire.template.read import Piece, Reader
from routerd.wire.translation.compose import Chunks
from routerd.wire.translation.pivot import dump

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


class TemplateScan:
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = (
        "_call", "_chunks", "_counted", "_eof_ends", "_malformed_run", "_reader", "content", "done", "fault", "finished",
        "malformed", "model", "usage",
    )  # fmt: skip

    def __init__(self, call: Call, reader: Reader, *, eof_ends: bool) -> None:
        self.content = False
        self.finished = False
        self.done = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self.fault: StreamFault | None = None
        self.malformed = 0
        self._malformed_run = 0
        self._call = call
        self._reader = reader
        self._eof_ends = eof_ends
        self._counted = Counted(call)
        self._chunks: Chunks | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the chunks that it makes."""
        if self.done or self.fault is not None:
            return b""
        try:
            pieces = self._reader.feed(data)
        except ProtocolFault as exc:
            self.fault = StreamFault(exc.message)
            return b""
        return self._take(pieces)

    def close(self) -> bytes:
        """The bytes have ended."""
        if self.done or self.fault is not None:
            return b""
        try:
            out = self._take(self._reader.close())
        except ProtocolFault as exc:
            self.fault = StreamFault(exc.message)
            return b""
        if not self.done and self.fault is None and (self.finished or (self._eof_ends and self.content)):
            out += self._end()
        return out

    def _take(self, pieces: list[Piece | None]) -> bytes:
        out: list[bytes] = []
        for piece in pieces:
            if self.done or self.fault is not None:
                break
            if piece is None:
                self._malformed()
            else:
                self._malformed_run = 0
                self._piece(piece, out)
        return b"".join(out)

    def _malformed(self) -> None:
        self.malformed += 1
        self._malformed_run += 1
        if self._malformed_run >= MAX_MALFORMED_RUN:
            self.fault = StreamFault(f"the upstream sent {MAX_MALFORMED_RUN} malformed events in a row")

    def _piece(self, piece: Piece, out: list[bytes]) -> None:
        if piece.error and not self.finished:
            self.fault = StreamFault("the upstream reported an error inside its stream", piece.error)
            return
        self._counted.add(piece)
        self.usage = self._counted.usage()
        if piece.thought and not self.finished:
            out.append(self._open() + self._opened.reasoning(0, dump(piece.thought)))
            self.content = True
        if piece.text and not self.finished:
            out.append(self._open() + self._opened.text(0, dump(piece.text)))
            self.content = True
        if piece.finish and not self.finished:
            out.append(self._finish(piece.finish))
        if piece.done:
            out.append(self._end())

    @property
    def _opened(self) -> Chunks:
        assert self._chunks is not None
        return self._chunks

    def _open(self) -> bytes:
        """Begin the message, once."""
        if self._chunks is not None:
            return b""
        call = self._call
        self._chunks = Chunks(call, answer_id=call.answer_id, created_unix_s=call.created_unix_s)
        return self._chunks.role(0)

    def _finish(self, reason: str) -> bytes:
        out = self._open() + self._opened.finish(0, reason)
        self.content = self.finished = True
        return out

    def _end(self) -> bytes:
        out = b"" if self.finished else self._finish("stop")
        self.usage = self._counted.usage()
        if self._call.wants_usage:
            out += self._opened.usage(self.usage)
        self.done = True
        return out + DONE
