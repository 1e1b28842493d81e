"""A Messages stream as OpenAI chunks, each event translated when it is whole.

A `text_delta` is the path of every token: its JSON string is copied raw between two prepared halves of a chunk, neither unescaped
nor encoded again. Everything else is rare and built in the plain way.
Rules: unknown events and deltas are skipped; padding behind the JSON is blank and harmless; tool calls are numbered from 0 among
themselves; a tool whose input never came is `{}`; `error` before a finish is the stream's fault, after one it is nothing; three
malformed events in a row are a fault; thinking is given out as it comes, and once more with its signature when its block ends.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.anthropic.outbound.answer import Block, mend, refusal_of, thinking_detail
from routerd.wire.anthropic.outbound.tools import JSON_TOOL
from routerd.wire.anthropic.tokens import FINISH_OF_STOP, Counts
from routerd.wire.dialect import Call
from routerd.wire.framing import Frames
from routerd.wire.openai.relay_scan import DONE, MAX_MALFORMED_RUN, StreamFault

__all__ = ["Event", "EventReader", "MessagesScan"]

_EMPTY = msgspec.Raw(b"")
_QUOTE = ord('"')
_BLANK = b'""'
_DELTA_HEAD = b'event: content_block_delta\ndata: {"'
_DELTA_DATA = len(_DELTA_HEAD) - 2


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: msgspec.Raw = _EMPTY
    partial_json: msgspec.Raw = _EMPTY
    thinking: msgspec.Raw = _EMPTY
    signature: str = ""
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


class EventReader:
    """Reads payloads; counts what is no event and knows when it is too much. What scans build on."""

    __slots__ = ("_malformed_run", "malformed")

    def __init__(self) -> None:
        self.malformed = 0
        self._malformed_run = 0

    def read(self, payload: bytes) -> Event | None:
        """Return the event, or None for one to be left out. Raises ProtocolFault at the third malformed one in a row."""
        try:
            event = _decode(payload)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self._unread(payload)
        self._malformed_run = 0
        return event

    def _unread(self, payload: bytes) -> Event | None:
        """The fast way refused it: half a surrogate pair, a shape we do not know (a newer event), or no JSON."""
        try:
            mended, value = mend(payload)
        except ValueError:
            self.malformed += 1
            self._malformed_run += 1
            if self._malformed_run >= MAX_MALFORMED_RUN:
                raise ProtocolFault(f"the upstream sent {MAX_MALFORMED_RUN} malformed events in a row") from None
            return None
        self._malformed_run = 0
        try:
            return _decode(mended)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            error = value.get("error") if isinstance(value, dict) else None
            return Event(type="error", error=error) if error else None


class MessagesScan(EventReader):
    """The state of one stream; see `wire.dialect.Scan` for the facts."""

    __slots__ = (
        "_block",
        "_call",
        "_counts",
        "_details",
        "_frames",
        "_has_tools",
        "_head",
        "_input_came",
        "_text_head",
        "_thought",
        "_tools",
        "content",
        "done",
        "fault",
        "finished",
        "model",
        "usage",
    )

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.content = False
        self.finished = False
        self.done = False
        self.usage: Usage | None = None
        self.fault: StreamFault | None = None
        self.model: str | None = None
        self._call = call
        self._counts: Counts | None = None
        self._frames = Frames()
        self._block = Block()  # the one that is open
        self._thought: list[msgspec.Raw] = []
        self._details = 0  # entries of reasoning_details so far
        self._tools = 0  # tool calls so far
        self._input_came = False
        self._has_tools = False
        self._name_chunks(f"chatcmpl-{call.answer_id}", call.model)

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the chunks that may be forwarded now."""
        if self.done or self.fault is not None:
            return b""
        if (
            self.content
            and self._frames.between_events
            and data.startswith(_DELTA_HEAD)
            and data.find(b"\n", _DELTA_DATA) == len(data) - 2
            and data.endswith(b"\n\n")
        ):
            return self._events((data[_DELTA_DATA:],))  # the usual read: one delta, whole
        try:
            payloads = self._frames.cut(data)
        except ProtocolFault as exc:
            self.fault = StreamFault(exc.message)
            return b""
        return self._events(payloads)

    def close(self) -> bytes:
        """The upstream's bytes have ended; return what was still held."""
        if self.done or self.fault is not None:
            return b""
        try:
            out = self._events(self._frames.close())
        except ProtocolFault as exc:
            self.fault = StreamFault(exc.message)
            return b""
        return out if self.done or self.fault is not None else out + self._usage_chunk()

    def _events(self, payloads: list[bytes] | tuple[bytes, ...]) -> bytes:
        out: list[bytes] = []
        for payload in payloads:
            try:
                event = self.read(payload)
                if event is None:
                    continue
                if event.type == "content_block_delta":
                    self._delta(event.delta, out)
                else:
                    handler = _HANDLERS.get(event.type)
                    if handler is not None:
                        handler(self, event, out)
            except ProtocolFault as exc:
                self.fault = StreamFault(exc.message)
            except (UnicodeError, RecursionError):
                self.fault = StreamFault("the upstream sent text that is not Unicode")
            if self.done or self.fault is not None:
                break
        return out[0] if len(out) == 1 else b"".join(out)

    # ── events ──

    def _delta(self, delta: _Delta | None, out: list[bytes]) -> None:
        if delta is None:
            return
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

    def _message_start(self, event: Event, out: list[bytes]) -> None:
        message = event.message if isinstance(event.message, dict) else {}
        if isinstance(message.get("model"), str):
            self.model = message["model"]
        given = message.get("id")
        self._name_chunks(
            given if isinstance(given, str) and given else f"chatcmpl-{self._call.answer_id}", self.model or self._call.model
        )
        self._take_usage(message.get("usage"))
        out.append(self._head + b'{"role":"assistant","content":""' + _CHUNK_END)

    def _block_start(self, event: Event, out: list[bytes]) -> None:
        block = self._block = event.content_block or Block()
        self._input_came = False
        self._thought = []
        if block.type == "tool_use":
            self._has_tools = self._has_tools or block.name != JSON_TOOL
            self.content = True
            if block.name != JSON_TOOL:
                call = {"index": self._tools, "id": block.id, "type": "function"}
                out.append(self._chunk({"tool_calls": [{**call, "function": {"name": block.name, "arguments": ""}}]}))
        elif block.type == "text" and block.text:
            self.content = True
            out.append(self._chunk({"content": block.text}))
        elif block.type == "thinking" and block.thinking:
            self.content = True
            self._thought.append(msgspec.Raw(_encode(block.thinking)))
            out.append(self._chunk({"reasoning_content": block.thinking}))

    def _block_stop(self, event: Event, out: list[bytes]) -> None:
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

    def _message_delta(self, event: Event, out: list[bytes]) -> None:
        self._take_usage(event.usage)
        delta = event.delta
        if delta is None or not isinstance(delta.stop_reason, str) or self.finished:
            return
        refusal = refusal_of(delta.stop_reason, delta.stop_details)
        self._finish(delta.stop_reason, {"refusal": refusal} if refusal else {}, out)

    def _message_stop(self, event: Event, out: list[bytes]) -> None:
        del event
        if not self.finished:
            self._finish("tool_use" if self._has_tools else "end_turn", {}, out)
        if usage := self._usage_chunk():
            out.append(usage)
        out.append(DONE)
        self.done = True

    def _error(self, event: Event, out: list[bytes]) -> None:
        del out
        if not self.finished:
            error = event.error or {"type": "api_error", "message": ""}
            self.fault = StreamFault("the upstream reported an error inside its stream", error)

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

    def _finish(self, stop_reason: str, delta: dict[str, Any], out: list[bytes]) -> None:
        finish = FINISH_OF_STOP.get(stop_reason, "stop")
        if finish == "tool_calls" and not self._has_tools:
            finish = "stop"  # only the tool that stands for response_format
        self.content = self.finished = True
        out.append(self._chunk(delta, finish))

    def _take_usage(self, value: Any) -> None:
        if isinstance(value, dict):
            if self._counts is None:
                self._counts = Counts()
            self._counts.take(value)
            self.usage = self._counts.usage()

    def _usage_chunk(self) -> bytes:
        if not self._call.wants_usage or self._counts is None or not self.finished:
            return b""
        start = self._head[: self._head.index(b',"choices":[{"index":0,"delta":')]
        return start + b',"choices":[],"usage":' + _encode(self._counts.openai()) + b"}\n\n"


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
