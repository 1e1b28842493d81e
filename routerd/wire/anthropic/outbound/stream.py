"""A Messages stream as OpenAI chunks, each event translated when it is whole.

A `text_delta` is the path of every token: its JSON string is copied raw between two prepared halves of a chunk, neither unescaped
nor encoded again. Everything else is rare and built in the plain way.
Rules: unknown events and deltas are skipped; padding behind the JSON is blank and harmless; tool calls are numbered from 0 among
themselves; a tool whose input never came is `{}`; thinking is given out as it comes, and once more with its signature when its
block ends.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.wire.anthropic.outbound.answer import Block, mend, named, refusal_of, thinking_detail
from routerd.wire.anthropic.outbound.tools import JSON_TOOL
from routerd.wire.anthropic.tokens import FINISH_OF_STOP, Counts
from routerd.wire.dialect import Call
from routerd.wire.framing import Events
from routerd.wire.openai.relay_scan import DONE, StreamFault
from routerd.wire.translation.compose import numbered
from routerd.wire.translation.scan import Said, TranslatedScan

__all__ = ["Event", "MessagesScan", "read_event"]

_EMPTY = msgspec.Raw(b"")
_BLANK = b'""'


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: msgspec.Raw = _EMPTY
    partial_json: msgspec.Raw = _EMPTY
    thinking: msgspec.Raw = _EMPTY
    signature: str | None = None
    citation: Any = None
    stop_reason: Any = None
    stop_details: Any = None


class Event(msgspec.Struct):
    """One event of any type."""

    type: str = ""
    delta: _Delta | None = None
    content_block: Block | None = None
    message: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.encode
_decode_str = msgspec.json.Decoder(str).decode


def read_event(payload: bytes) -> Event | None:
    """Return an event, None where it is no JSON; one of an unknown shape has no type (or is an error, if it holds one)."""
    try:
        return _decode(payload)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        mended, value = mend(payload)
    except ValueError:
        return None
    try:
        return _decode(mended)  # it was half a surrogate pair
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        error = value.get("error") if isinstance(value, dict) else None
        return Event(type="error", error=error) if error else Event()


class MessagesScan(TranslatedScan):
    """The state of one stream; see `wire.dialect.Scan` for the facts."""

    __slots__ = (
        "_block", "_citations", "_details", "_has_tools", "_head", "_input_came", "_taken", "_text_head", "_thought", "_tools",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        super().__init__(call, Events())
        self._taken: Counts | None = None  # all usage so far
        self._block = Block()  # the one that is open
        self._thought: list[msgspec.Raw] = []
        self._details = 0  # entries of reasoning_details so far
        self._citations = 0  # so far
        self._tools = 0  # tool calls so far
        self._input_came = False
        self._has_tools = False
        self._name_chunks(f"chatcmpl-{call.answer_id}", call.model)

    def _take(self, payload: bytes, out: Said) -> None:
        event = read_event(payload)
        if event is None:
            self._unreadable()
            return
        self._malformed_run = 0
        try:
            if event.type == "content_block_delta":
                if event.delta is not None:
                    self._delta(event.delta, out)
            elif (handler := _HANDLERS.get(event.type)) is not None:
                handler(self, event, out)
        except (UnicodeError, RecursionError):
            self.fault = StreamFault("the upstream sent text that is not Unicode")

    def _at_end(self, out: Said) -> None:
        out.append(self._usage_chunk())  # the end mark is not theirs, and is said by whoever sees the end

    # ── events ──

    def _delta(self, delta: _Delta, out: Said) -> None:
        kind = delta.type
        if kind == "text_delta":
            raw = bytes(delta.text)
            if raw[:1] == b'"' and raw != _BLANK:
                self.content = True
                out.append(self._text_head + raw + _TEXT_END)
        elif kind == "input_json_delta":
            raw = bytes(delta.partial_json)
            if raw[:1] == b'"' and raw != _BLANK and self._block.type == "tool_use":
                self._input_came = True
                out.append(self._arguments(raw))
        elif kind == "thinking_delta":
            raw = bytes(delta.thinking)
            if raw[:1] == b'"' and raw != _BLANK:
                self.content = True
                self._thought.append(msgspec.Raw(raw))
                out.append(self._head + b'{"reasoning_content":' + raw + _CHUNK_END)
        elif kind == "signature_delta":
            self._block.signature = delta.signature
        elif kind == "citations_delta" and delta.citation:
            out.append(self._chunk({"citations": [numbered(delta.citation, self._citations)]}))
            self._citations += 1

    def _message_start(self, event: Event, out: Said) -> None:
        message = event.message if isinstance(event.message, dict) else {}
        if isinstance(message.get("model"), str):
            self.model = message["model"]
        given = message.get("id")
        self._name_chunks(
            given if isinstance(given, str) and given else f"chatcmpl-{self._call.answer_id}", self.model or self._call.model
        )
        self._take_usage(message.get("usage"))
        out.append(self._head + b'{"role":"assistant","content":""' + _CHUNK_END)

    def _block_start(self, event: Event, out: Said) -> None:
        block = self._block = event.content_block or Block()
        self._input_came = False
        self._thought = []
        if block.type == "tool_use":
            self._has_tools = self._has_tools or block.name != JSON_TOOL
            self.content = True
            if block.name != JSON_TOOL:
                call = {"index": self._tools, "id": named(block.id), "type": "function"}
                out.append(self._chunk({"tool_calls": [{**call, "function": {"name": named(block.name), "arguments": ""}}]}))
        elif block.type == "text" and block.text:
            self.content = True
            out.append(self._chunk({"content": block.text}))
        elif block.type == "thinking" and block.thinking:
            self.content = True
            self._thought.append(msgspec.Raw(_encode(block.thinking)))
            out.append(self._chunk({"reasoning_content": block.thinking}))

    def _block_stop(self, event: Event, out: Said) -> None:
        del event
        block, self._block = self._block, Block()
        if block.type == "tool_use":
            if not self._input_came:
                self._block = block
                out.append(self._arguments(_encode(bytes(block.input).decode("utf-8", "replace").strip() or "{}")))
                self._block = Block()
            self._tools += block.name != JSON_TOOL
        elif block.type in ("thinking", "redacted_thinking"):
            block.thinking = "".join(_decode_str(raw) for raw in self._thought)
            self._thought = []
            if block.signature or block.data:
                out.append(self._chunk({"reasoning_details": [thinking_detail(block, self._details)]}))
                self._details += 1

    def _message_delta(self, event: Event, out: Said) -> None:
        self._take_usage(event.usage)
        delta = event.delta
        if delta is None or not isinstance(delta.stop_reason, str) or self.finished:
            return
        refusal = refusal_of(delta.stop_reason, delta.stop_details)
        self._finish(delta.stop_reason, {"refusal": refusal} if refusal else {}, out)

    def _message_stop(self, event: Event, out: Said) -> None:
        del event
        if not self.finished:
            self._finish("tool_use" if self._has_tools else "end_turn", {}, out)
        if usage := self._usage_chunk():
            out.append(usage)
        out.append(DONE)
        self.done = True

    def _error(self, event: Event, out: Said) -> None:
        del out
        self._failed(event.error or {"type": "api_error", "message": ""})

    # ── chunks ──

    def _name_chunks(self, answer_id: str, model: str) -> None:
        call = self._call
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": call.created_unix_s,
            "model": call.asked_model or model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":[{"index":0,"delta":'
        self._text_head = self._head + b'{"content":'

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._head + _encode(delta) + b',"finish_reason":' + _encode(finish) + b"}]}\n\n"

    def _arguments(self, raw: bytes) -> bytes:
        if self._block.name == JSON_TOOL:
            return self._text_head + raw + _TEXT_END
        start = b'{"tool_calls":[{"index":%d,"function":{"arguments":' % self._tools
        return self._head + start + raw + b"}}]" + _CHUNK_END

    def _finish(self, stop_reason: str, delta: dict[str, Any], out: Said) -> None:
        finish = FINISH_OF_STOP.get(stop_reason, "stop")
        if finish == "tool_calls" and not self._has_tools:
            finish = "stop"  # only the tool that stands for response_format
        self.content = self.finished = True
        out.append(self._chunk(delta, finish))

    def _take_usage(self, value: Any) -> None:
        if isinstance(value, dict):
            if self._taken is None:
                self._taken = Counts()
            self._taken.take(value)
            self._usage = self._taken.usage()

    def _usage_chunk(self) -> bytes:
        if not self._call.wants_usage or self._taken is None or not self.finished:
            return b""
        start = self._head[: self._head.index(b',"choices":[{"index":0,"delta":')]
        return start + b',"choices":[],"usage":' + _encode(self._taken.openai()) + b"}\n\n"


_CHUNK_END = b'},"finish_reason":null}]}\n\n'
_TEXT_END = _CHUNK_END

_HANDLERS = {
    "message_start": MessagesScan._message_start,
    "content_block_start": MessagesScan._block_start,
    "content_block_stop": MessagesScan._block_stop,
    "message_delta": MessagesScan._message_delta,
    "message_stop": MessagesScan._message_stop,
    "error": MessagesScan._error,
}
