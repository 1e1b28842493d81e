"""Ollama's JSON lines as OpenAI chunks: one line in, its chunks out, nothing held.

The line with `"done": true` ends the stream and carries the counts. A line `{"error": ...}` is the upstream's failure, though the
status was 200.
"""

from __future__ import annotations

from typing import Any

from routerd.wire.dialect import Call
from routerd.wire.framing import Lines
from routerd.wire.ollama.answer import Message, call_of, created_of, decode_strictly, finish_of, logprobs_of, read_line, usage_of
from routerd.wire.translation.compose import Chunks
from routerd.wire.translation.read import REFUSED
from routerd.wire.translation.scan import Said, TranslatedScan

__all__ = ["OllamaScan"]

_QUOTE = ord('"')


class OllamaScan(TranslatedScan):
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = ("_calls",)

    def __init__(self, call: Call) -> None:
        super().__init__(call, Lines())
        self._calls = 0

    def _take(self, payload: bytes, out: Said) -> None:
        try:
            line = decode_strictly(payload)
        except REFUSED:
            patient = read_line(payload)
            if patient is None:
                self._unreadable()
                return
            line = patient
        self._malformed_run = 0
        if line.error:
            self._failed(line.error)
            return
        chunks = self._chunks
        if chunks is None:
            self.model = line.model if isinstance(line.model, str) else None
            chunks = self._open(self._call.answer_id, created_of(line.created_at) or self._call.created_unix_s)
            out.append(chunks.role(0))
        message = line.message or line.said
        if message is not None:
            self._said(message, line.logprobs, chunks, out)
        if line.done:
            self.content = self.finished = True
            self._usage = usage_of(line)
            out.append(chunks.finish(0, finish_of(line.done_reason, self._calls > 0)))
            self._end(out)

    def _said(self, message: Message, logprobs: Any, chunks: Chunks, out: Said) -> None:
        view = memoryview(message.thinking)
        if len(view) > 2 and view[0] == _QUOTE:
            self.content = True
            out.append(chunks.reasoning(0, message.thinking))
        view = memoryview(message.content)
        if len(view) > 2 and view[0] == _QUOTE:
            self.content = True
            if logprobs is None:
                out += (chunks.text0, message.content, chunks.end)
            else:
                out.append(chunks.text(0, message.content, logprobs_of(logprobs)))
        for called in message.tool_calls or ():
            self.content = True
            out.append(chunks.tool_call(0, self._calls, call_of(called, self._call, self._calls)))
            self._calls += 1
