"""Cohere's events as OpenAI chunks: one event in, its chunk out, nothing held.

`message-end` carries the finish and the usage and ends the stream; the `[DONE]` behind it says nothing new. Tool calls are
numbered from 0 in the order in which they start; one whose arguments never came has `{}`. A message without a type is an error.
Source: docs.cohere.com/docs/streaming; recordings.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.wire.cohere.answer import Content, ToolCall, Usages, failure_of, finish_of, logprobs_of, usage_of
from routerd.wire.dialect import Call
from routerd.wire.framing import Events
from routerd.wire.translation.compose import Chunks, made_id, numbered
from routerd.wire.translation.read import REFUSED, read_patiently
from routerd.wire.translation.scan import Said, TranslatedScan

__all__ = ["CohereScan"]

_QUOTE = ord('"')
_NOTHING = msgspec.Raw(b"")


class _Message(msgspec.Struct, gc=False):
    """What one event adds. The start has lists in the places of what it announces."""

    content: Content | list[Any] | None = None
    tool_plan: msgspec.Raw = _NOTHING
    tool_calls: ToolCall | list[Any] | None = None
    citations: Any = None


class _Delta(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: Any = None
    usage: Usages | None = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    id: Any = None
    delta: _Delta | None = None
    logprobs: Any = None
    message: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class CohereScan(TranslatedScan):
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = ("_arguments_came", "_calls", "_citations", "_id")

    def __init__(self, call: Call) -> None:
        super().__init__(call, Events())
        self._id = ""
        self._calls = 0
        self._citations = 0
        self._arguments_came = False

    def _take(self, payload: bytes, out: Said) -> None:
        event = self._read(payload)
        if event is None:
            return
        failure = event.error or (event.message if event.type in (None, "error") else None)
        if failure:
            self._failed(failure)
            return
        delta = event.delta
        chunks = self._chunks
        if chunks is None:
            self._id = event.id if isinstance(event.id, str) and event.id else self._call.answer_id
            chunks = self._open(self._id, self._call.created_unix_s)
            out.append(chunks.role(0))
        if event.type == "message-end":
            self._ended(delta or _Delta(), chunks, out)
        elif event.type == "tool-call-end":
            self._close_call(chunks, out)
        elif delta is not None and delta.message is not None:
            self._said(delta.message, event.logprobs, chunks, out)

    def _read(self, payload: bytes) -> _Event | None:
        try:
            event: _Event | None = _decode(payload)
        except REFUSED:
            event = read_patiently(payload, _decode, lambda error: _Event(error=error))
            if event is None:
                if payload.strip() != b"[DONE]":
                    self._unreadable()
                return None
        self._malformed_run = 0
        return event

    def _said(self, message: _Message, logprobs: Any, chunks: Chunks, out: Said) -> None:
        content = message.content
        if isinstance(content, Content):
            if _says(content.thinking):
                self.content = True
                out.append(chunks.reasoning(0, content.thinking))
            if _says(content.text):
                self.content = True
                if logprobs is None:
                    out += (chunks.text0, content.text, chunks.end)
                else:
                    out.append(chunks.text(0, content.text, logprobs_of(logprobs)))
        if _says(message.tool_plan):
            self.content = True
            out += (chunks.text0, message.tool_plan, chunks.end)
        if isinstance(message.tool_calls, ToolCall):
            self._called(message.tool_calls, chunks, out)
        if message.citations:
            for citation in message.citations if isinstance(message.citations, list) else [message.citations]:
                out.append(chunks.delta(0, {"citations": [numbered(citation, self._citations)]}))
                self._citations += 1

    def _called(self, called: ToolCall, chunks: Chunks, out: Said) -> None:
        function = called.function
        if called.id or (function is not None and function.name):
            self._close_call(chunks, out)
            self.content = True
            name = function.name if function is not None and isinstance(function.name, str) else ""
            call_id = called.id if isinstance(called.id, str) and called.id else made_id(self._id, self._calls)
            opening = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
            out.append(chunks.tool_call(0, self._calls, opening))
            self._calls += 1
            self._arguments_came = False
        if function is not None and _says(function.arguments) and self._calls:
            self._arguments_came = True
            out.append(chunks.tool_call(0, self._calls - 1, {"function": {"arguments": function.arguments}}))

    def _close_call(self, chunks: Chunks, out: Said) -> None:
        if self._calls and not self._arguments_came:
            self._arguments_came = True
            out.append(chunks.tool_call(0, self._calls - 1, {"function": {"arguments": "{}"}}))

    def _ended(self, delta: _Delta, chunks: Chunks, out: Said) -> None:
        failure = failure_of(delta.finish_reason, delta.error)
        if failure:
            self._failed(failure)
            return
        self._close_call(chunks, out)
        self._usage = usage_of(delta.usage)
        self.content = self.finished = True
        out.append(chunks.finish(0, finish_of(delta.finish_reason, self._calls > 0)))
        self._end(out)


def _says(raw: msgspec.Raw) -> bool:
    """Tell a JSON string that is not empty from everything else."""
    view = memoryview(raw)
    return len(view) > 2 and view[0] == _QUOTE
