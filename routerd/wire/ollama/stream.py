"""Ollama's JSON lines as OpenAI chunks: one line in, its chunks out, nothing held.

The line with `"done": true` ends the stream and carries the counts. Lines may be split at any byte; a line `{"error": ...}` is
the upstream's failure, though the status was 200. Three malformed lines in a row are a fault.
"""

from __future__ import annotations

import msgspec

from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.ollama.answer import Line, call_of, created_of, finish_of, logprobs_of, read_line, usage_of
from routerd.wire.openai.relay_scan import DONE, MAX_MALFORMED_RUN, StreamFault
from routerd.wire.sse import MAX_EVENT_BYTES
from routerd.wire.translation.compose import Chunks

__all__ = ["OllamaScan"]

_QUOTE = ord('"')


class OllamaScan:
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = (
        "_call", "_calls", "_chunks", "_malformed_run", "_tail", "content", "done", "fault", "finished", "malformed", "model",
        "usage",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        self.content = False
        self.finished = False
        self.done = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self.fault: StreamFault | None = None
        self.malformed = 0
        self._malformed_run = 0
        self._call = call
        self._calls = 0
        self._chunks: Chunks | None = None
        self._tail = bytearray()  # a line whose end has not come

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the chunks that it makes."""
        if self.done or self.fault is not None:
            return b""
        if not self._tail and data.find(b"\n") == len(data) - 1:  # the usual read of a stream in progress is one line
            return self._line(data) if data else b""
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._tail:
            lines[0] = bytes(self._tail) + lines[0]
            self._tail = bytearray()
        out = []
        for line in lines:
            if not self.done and self.fault is None:
                out.append(self._line(line))
        self._tail += last
        if len(self._tail) > MAX_EVENT_BYTES and self.fault is None:
            self._tail = bytearray()
            self.fault = StreamFault(f"the upstream sent a line longer than {MAX_EVENT_BYTES} bytes")
        return b"".join(out)

    def close(self) -> bytes:
        """The bytes have ended: take a last line without an end."""
        tail, self._tail = bytes(self._tail), bytearray()
        if self.done or self.fault is not None:
            return b""
        return self._line(tail)

    def _line(self, payload: bytes) -> bytes:
        line = read_line(payload)
        if line is None:
            return self._not_an_answer(payload)
        self._malformed_run = 0
        if line.error:
            self.fault = StreamFault("the upstream reported an error inside its stream", line.error)
            return b""
        out: list[bytes | msgspec.Raw] = []
        chunks = self._chunks
        if chunks is None:
            chunks = self._open(line)
            out.append(chunks.role(0))
        if line.message is not None:
            self._said(line, chunks, out)
        if line.done:
            self._end(line, chunks, out)
        return b"".join(out)

    def _not_an_answer(self, payload: bytes) -> bytes:
        if not payload.strip():
            return b""
        self.malformed += 1
        self._malformed_run += 1
        if self._malformed_run >= MAX_MALFORMED_RUN:
            self.fault = StreamFault(f"the upstream sent {MAX_MALFORMED_RUN} malformed lines in a row")
        return b""

    def _open(self, line: Line) -> Chunks:
        self.model = line.model
        call = self._call
        created = created_of(line.created_at) or call.created_unix_s
        self._chunks = Chunks(call, answer_id=call.answer_id, created_unix_s=created)
        return self._chunks

    def _said(self, line: Line, chunks: Chunks, out: list[bytes | msgspec.Raw]) -> None:
        message = line.message
        assert message is not None
        view = memoryview(message.thinking)
        if len(view) > 2 and view[0] == _QUOTE:
            self.content = True
            out.append(chunks.reasoning(0, message.thinking))
        view = memoryview(message.content)
        if len(view) > 2 and view[0] == _QUOTE:
            self.content = True
            if line.logprobs is None:
                out += (chunks.text0, message.content, chunks.end)
            else:
                out.append(chunks.text(0, message.content, logprobs_of(line.logprobs)))
        for called in message.tool_calls or ():
            self.content = True
            out.append(chunks.tool_call(0, self._calls, call_of(called, self._call, self._calls)))
            self._calls += 1

    def _end(self, line: Line, chunks: Chunks, out: list[bytes | msgspec.Raw]) -> None:
        self.content = self.finished = self.done = True
        self.usage = usage_of(line)
        out.append(chunks.finish(0, finish_of(line.done_reason, self._calls > 0)))
        if self._call.wants_usage:
            out.append(chunks.usage(self.usage or Usage()))
        out.append(DONE)
