"""OpenAI's answers and streams as a Messages client wants them.

A stream is said in blocks: text, thinking and tool_use, each closed before the next is opened. The finish is held until the usage
is known, since both are one event (`message_delta`); everything else is answered by the read that completes it. JSON strings are
copied raw into prepared halves of an event.
Thinking gets a signature that notes the field it came in (`inbound` reads it): the API's types have no thinking without one.
A tool call that continues after another one has begun cannot be said in blocks; the stream is `broken`, as leaving its
arguments out would be worse.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.wire.anthropic.inbound.errors import error_event, type_of_event
from routerd.wire.anthropic.inbound.request import DETAILS_MARK, FIELD_MARK
from routerd.wire.anthropic.outbound.answer import mend
from routerd.wire.anthropic.tokens import STOP_OF_FINISH
from routerd.wire.framing import Events
from routerd.wire.openai.mended import parts_of
from routerd.wire.openai.usage import read_usage

__all__ = ["MessagesEncoder", "answer_to_messages"]

_EMPTY = msgspec.Raw(b"")
_BLANK = b'""'


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: msgspec.Raw = _EMPTY


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: msgspec.Raw = _EMPTY
    refusal: msgspec.Raw = _EMPTY
    reasoning_content: msgspec.Raw = _EMPTY
    reasoning: msgspec.Raw = _EMPTY
    reasoning_details: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    type: Any = None
    id: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_any = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def _read(body: bytes) -> _Chunk:
    """Parse an answer or a chunk. Raises ValueError where it is no JSON, ValidationError where it is of another shape."""
    try:
        return _decode(body)
    except _UNREADABLE:
        return _decode(mend(body)[0])


def _event(name: bytes, body: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + body + b"\n\n"


def _usage_of(value: Any) -> dict[str, int]:
    """Return Anthropic's counts: what a cache read or wrote is not among `input_tokens`."""
    usage = read_usage(value)
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    details = value.get("prompt_tokens_details")
    written = details.get("cache_write_tokens") if isinstance(details, dict) else None
    read, written = usage.cached_tokens, written if type(written) is int and written > 0 else 0
    return {
        "input_tokens": max(0, usage.input_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens,
    }


def _stop_of(finish: Any, called: bool) -> str:
    """Return the stop reason. Engines that say `stop` behind a tool call (Ollama, Gemini) mean tool_use."""
    reason = STOP_OF_FINISH.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"
    return "tool_use" if called and reason == "end_turn" else reason


def _id_of(value: Any) -> str:
    name = value if isinstance(value, str) and value else "routerd"
    return name if name.startswith("msg_") else f"msg_{name}"


def _pieces(raw: msgspec.Raw) -> list[tuple[str, bytes]]:
    """Return `content` as (kind, JSON string): a string, or Mistral's array of parts."""
    data = bytes(raw)
    if data[:1] == b'"':
        return [("text", data)] if data != _BLANK else []
    if data[:1] != b"[":
        return []
    return [(kind, _encode(text)) for kind, text in parts_of(_decode_any(data))]


def _arguments(function: _Function) -> bytes:
    """Return the arguments as a JSON string, empty where there are none. Some engines send an object."""
    data = bytes(function.arguments)
    if data[:1] == b"{":
        return _encode(data.decode("utf-8", "replace"))
    return data if data[:1] == b'"' and data != _BLANK else b""


class MessagesEncoder:
    """The state of one stream. `feed` takes OpenAI events at any split; at its end, or `broken`, it returns nothing more."""

    __slots__ = (
        "_call",
        "_call_id",
        "_details",
        "_field",
        "_frames",
        "_heads",
        "_id",
        "_index",
        "_model",
        "_open",
        "_seen",
        "_stop",
        "_usage",
        "broken",
        "ended",
    )

    def __init__(self, asked_model: str) -> None:
        self.ended = False
        self.broken = ""  # why the stream cannot be said any further
        self._model = asked_model
        self._frames = Events()
        self._id: str | None = None  # set: message_start was sent
        self._open = ""  # the kind of the block that is open
        self._index = -1  # and its number
        self._heads = b""  # of its deltas
        self._call: int | None = None  # the OpenAI index of the tool call that is open
        self._call_id: str | None = None
        self._seen: set[int | None] = set()  # of all so far
        self._field = ""  # where thinking came in
        self._details: list[Any] = []
        self._stop: Any = None
        self._usage: Any = None

    def feed(self, data: bytes) -> bytes:
        """Return Anthropic's events for what arrived."""
        if self.ended:
            return b""
        try:
            return self._payloads(self._frames.feed(data))
        except ProtocolFault as exc:
            return self._fail(exc.message)

    def close(self) -> bytes:
        """The events have ended: say the end if there was a finish. Without one nothing is said: the stream is cut."""
        if self.ended:
            return b""
        try:
            out = self._payloads(self._frames.close())
        except ProtocolFault as exc:
            return self._fail(exc.message)
        return out + self.finish() if self._stop is not None else out

    def finish(self) -> bytes:
        """Say the end of the message."""
        if self.ended:
            return b""
        self.ended = True
        out = [self._start()] if self._id is None else []
        self._close_block(out)
        delta = {"stop_reason": _stop_of(self._stop, bool(self._seen)), "stop_sequence": None}
        body = {"type": "message_delta", "delta": delta, "usage": _usage_of(self._usage)}
        out += [_event(b"message_delta", _encode(body)), _event(b"message_stop", b'{"type":"message_stop"}')]
        return b"".join(out)

    def _fail(self, message: str) -> bytes:
        self.ended = True
        self.broken = message
        return b""

    def _payloads(self, payloads: Sequence[bytes]) -> bytes:
        out: list[bytes] = []
        for payload in payloads:
            if payload == b"[DONE]":
                out.append(self.finish())
                break
            try:
                chunk = _read(payload)
                if chunk.error:
                    out.append(self._error(chunk.error))
                    break
                self._chunk(chunk, out)
            except _Interleaved:
                self._fail("the upstream mixed the arguments of several tool calls")
                break
            except (ValueError, *_UNREADABLE):
                continue  # a shape that says nothing here
        return b"".join(out)

    def _error(self, error: Any) -> bytes:
        self.ended = True
        return error_event(*type_of_event(error))

    def _chunk(self, chunk: _Chunk, out: list[bytes]) -> None:
        if self._id is None:
            self._id = _id_of(chunk.id)
            out.append(self._start())
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            if choice.index not in (0, None):
                continue
            if choice.delta is not None:
                self._delta(choice.delta, out)
            if choice.finish_reason:  # some engines write "" until the end
                self._stop = choice.finish_reason

    def _delta(self, delta: _Delta, out: list[bytes]) -> None:
        for field, raw in (("reasoning_content", bytes(delta.reasoning_content)), ("reasoning", bytes(delta.reasoning))):
            if raw[:1] == b'"' and raw != _BLANK:
                self._field = field
                self._say("thinking", raw, out)
                break  # who sends both sends one text twice
        if isinstance(delta.reasoning_details, list) and delta.reasoning_details:
            self._take_details(delta.reasoning_details, out)
        for kind, raw in _pieces(delta.content):
            if kind == "thinking":
                self._field = "content"  # Mistral's parts: nothing to give back
            self._say(kind, raw, out)
        for kind, raw in _pieces(delta.refusal):
            self._say(kind, raw, out)
            self._stop = "content_filter"
        for call in delta.tool_calls or ():
            self._tool(call, out)

    def _say(self, kind: str, raw: bytes, out: list[bytes]) -> None:
        if self._open != kind:
            self._open_block(kind, _OPENINGS[kind], out)
        out.append(self._heads + raw + b"}}\n\n")

    def _tool(self, call: _Call, out: list[bytes]) -> None:
        function = call.function or _Function()
        index = call.index
        if index is None:  # Gemini's OpenAI form: whole calls without a number
            index = len(self._seen) if call.id or function.name else self._call
        another = bool(call.id and function.name) and call.id != self._call_id  # some number all of them 0
        if self._open != "tool_use" or index != self._call or another:
            if index in self._seen and not another:
                raise _Interleaved
            self._seen.add(index)
            self._call = index
            self._call_id = call.id
            name = call.id or f"toolu_{self._index + 1}"
            opening = {"type": "tool_use", "id": name, "name": function.name or "", "input": {}}
            self._open_block("tool_use", _encode(opening), out)
        if raw := _arguments(function):
            out.append(self._heads + raw + b"}}\n\n")

    def _take_details(self, details: list[Any], out: list[bytes]) -> None:
        """Collect the pieces of reasoning_details, those of one index as one."""
        if self._open != "thinking" and not self._details:
            self._open_block("thinking", _OPENINGS["thinking"], out)
        for piece in details:
            last = self._details[-1] if self._details else None
            if not isinstance(piece, dict) or last is None or piece.get("index") != last.get("index"):
                self._details.append(dict(piece) if isinstance(piece, dict) else {})
                continue
            for key, value in piece.items():
                joins = key in ("text", "summary", "data") and isinstance(value, str) and isinstance(last.get(key), str)
                last[key] = last[key] + value if joins else value if value is not None else last.get(key)

    def _start(self) -> bytes:
        message: dict[str, Any] = {
            "id": self._id or _id_of(None),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return _event(b"message_start", _encode({"type": "message_start", "message": message}))

    def _open_block(self, kind: str, opening: bytes, out: list[bytes]) -> None:
        self._close_block(out)
        self._open = kind
        self._index += 1
        index = b"%d" % self._index
        out.append(
            _event(
                b"content_block_start", b'{"type":"content_block_start","index":' + index + b',"content_block":' + opening + b"}"
            )
        )
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":' + index
        self._heads = head + _DELTAS[kind]

    def _close_block(self, out: list[bytes]) -> None:
        if not self._open:
            return
        index = b"%d" % self._index
        if self._open == "thinking":
            signed = {"type": "signature_delta", "signature": _signature(self._field, self._details)}
            delta = b'{"type":"content_block_delta","index":' + index + b',"delta":' + _encode(signed) + b"}"
            out.append(_event(b"content_block_delta", delta))
            self._details = []
        out.append(_event(b"content_block_stop", b'{"type":"content_block_stop","index":' + index + b"}"))
        self._open = ""


class _Interleaved(Exception):
    """Internal: a tool call goes on whose block is closed."""


_OPENINGS = {"text": b'{"type":"text","text":""}', "thinking": b'{"type":"thinking","thinking":"","signature":""}'}
_DELTAS = {
    "text": b',"delta":{"type":"text_delta","text":',
    "thinking": b',"delta":{"type":"thinking_delta","thinking":',
    "tool_use": b',"delta":{"type":"input_json_delta","partial_json":',
}


def _signature(field: str, details: list[Any]) -> str:
    if details:
        return DETAILS_MARK + base64.b64encode(_encode(details)).decode()
    return FIELD_MARK + (field or "reasoning_content")


def answer_to_messages(openai_body: bytes, asked_model: str) -> bytes:
    """Return a chat completion as a Messages answer; one that is a message already, as it is. Raises ProtocolFault."""
    try:
        chunk = _read(openai_body)
    except (ValueError, *_UNREADABLE):
        raise ProtocolFault("the upstream's answer cannot be told to a Messages client") from None
    if chunk.type == "message":
        return openai_body
    choice: _Choice = chunk.choices[0] if chunk.choices else _Choice()
    message: _Delta = choice.message or _Delta()
    try:
        blocks = _blocks(message)
        refused = _pieces(message.refusal)
        body = {
            "id": _id_of(chunk.id),
            "type": "message",
            "role": "assistant",
            "model": asked_model,
            "content": blocks,
            "stop_reason": "refusal" if refused else _stop_of(choice.finish_reason, bool(message.tool_calls)),
            "stop_sequence": None,
            "usage": _usage_of(chunk.usage),
        }
        return _encode(body)
    except _UNREADABLE:
        raise ProtocolFault("the upstream's answer cannot be told to a Messages client") from None


def _blocks(message: _Delta) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    details = message.reasoning_details if isinstance(message.reasoning_details, list) else []
    for field, raw in (("reasoning_content", bytes(message.reasoning_content)), ("reasoning", bytes(message.reasoning))):
        if raw[:1] == b'"' and raw != _BLANK:
            blocks.append({"type": "thinking", "thinking": msgspec.Raw(raw), "signature": _signature(field, details)})
            break
    else:
        if details:
            blocks.append({"type": "thinking", "thinking": "", "signature": _signature("", details)})
    for kind, raw in _pieces(message.content) + _pieces(message.refusal):
        if kind == "thinking":
            blocks.append({"type": kind, kind: msgspec.Raw(raw), "signature": _signature("content", [])})
        else:
            blocks.append({"type": kind, kind: msgspec.Raw(raw)})
    for i, call in enumerate(message.tool_calls or ()):
        function = call.function or _Function()
        block = {"type": "tool_use", "id": call.id or f"toolu_{i}", "name": function.name or "", "input": _input(function)}
        blocks.append(block)
    return blocks


def _input(function: _Function) -> Any:
    """Return the arguments as an object. A model's broken JSON is told under a name of its own rather than lost."""
    raw = _arguments(function)
    text: str = _decode_any(raw) if raw else ""
    try:
        if text.strip():
            _decode_object(text)
    except _UNREADABLE:
        return {"invalid_json": text}
    return msgspec.Raw(text.strip().encode() or b"{}")
