"""Ollama's answers: the record that unary bodies and stream lines share, and whole answers as OpenAI's.

Text and arguments stay raw JSON (`Raw`), so that a stream copies them without decoding. `done_reason` says `stop` for calls too:
the finish reason is `tool_calls` where a call was seen. Counts may be absent (a cached prefix), which reads as 0. `created_at`
has nine digits of fraction, which Python's parser refuses. `/api/generate`, which some proxies ask, says `response` for the text.
Source: github.com/ollama/ollama api/types.go.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.faults.classify import classify_value
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.translation.compose import Choice, answer_body, is_object, made_id, text_of, tool_call
from routerd.wire.translation.read import REFUSED, read_patiently

__all__ = [
    "Line", "Message", "call_of", "created_of", "decode_answer", "decode_strictly", "finish_of", "logprobs_of",
    "read_line", "usage_of",
]  # fmt: skip

_NOTHING = msgspec.Raw(b"")
MAX_COUNT = 10**12  # above any context ever served


class _CalledFunction(msgspec.Struct, gc=False):
    name: Any = None
    arguments: msgspec.Raw = _NOTHING


class ToolCall(msgspec.Struct, gc=False):
    """A call; only newer servers give it an id."""

    function: _CalledFunction | None = None
    id: Any = None


class Message(msgspec.Struct, gc=False):
    """What the model said."""

    content: msgspec.Raw = _NOTHING
    thinking: msgspec.Raw = _NOTHING
    tool_calls: list[ToolCall] | None = None


class Line(msgspec.Struct, gc=False):
    """A whole answer, or one line of a stream."""

    message: Message | None = None
    response: msgspec.Raw = _NOTHING
    done: Any = None
    model: Any = None
    created_at: Any = None
    done_reason: Any = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    logprobs: Any = None
    error: Any = None

    @property
    def said(self) -> Message | None:
        """What the model said, under either name."""
        if self.message is None and self.response != _NOTHING:
            return Message(content=self.response)
        return self.message


decode_strictly = msgspec.json.Decoder(Line).decode


def read_line(payload: bytes) -> Line | None:
    """Decode one JSON document, or None where it is no object."""
    try:
        return decode_strictly(payload)
    except REFUSED:
        return read_patiently(payload, decode_strictly, lambda error: Line(error=error))


def decode_answer(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's body and what routing must know. Raises ProtocolFault for what is no answer."""
    if not body.strip():
        raise ProtocolFault("the upstream answered 200 with an empty body")
    line = read_line(body)
    if line is None:
        raise ProtocolFault("the upstream answered 200 with a body that is no answer of Ollama")
    if line.error:
        return body, UnaryAnswer(error=classify_value(line.error))
    message = line.said
    if message is None:
        raise ProtocolFault("the upstream's answer holds no message")
    choice = Choice(logprobs=logprobs_of(line.logprobs))
    for raw, into in ((message.content, choice.texts), (message.thinking, choice.thoughts)):
        if bytes(memoryview(raw)[:1]) == b'"':
            into.append(text_of(raw))
    choice.tool_calls = [call_of(called, call, i) for i, called in enumerate(message.tool_calls or ())]
    choice.thoughts = [text for text in choice.thoughts if text]
    choice.finish_reason = finish_of(line.done_reason, bool(choice.tool_calls))
    usage = usage_of(line)
    created = created_of(line.created_at) or call.created_unix_s
    out = answer_body(call, answer_id=call.answer_id, created_unix_s=created, choices=[choice], usage=usage)
    model = line.model if isinstance(line.model, str) else None
    return out, UnaryAnswer(usage=usage, response_model=model, finish_reason=choice.finish_reason)


def usage_of(line: Line) -> Usage | None:
    """Return the counts of the last line, or None where there are none."""
    if line.prompt_eval_count is None and line.eval_count is None:
        return None
    return Usage(input_tokens=_count(line.prompt_eval_count), output_tokens=_count(line.eval_count))


def _count(value: Any) -> int:
    return int(value) if type(value) in (int, float) and 0 <= value <= MAX_COUNT else 0


def finish_of(reason: Any, called: bool) -> str:
    """Return OpenAI's finish_reason; `load` and `unload` (an empty prompt) are a stop."""
    if reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def call_of(called: ToolCall, call: Call, number: int) -> dict[str, Any]:
    """Return a tool call; one without an id gets one that no other call has."""
    function = called.function or _CalledFunction()
    args = bytes(function.arguments)
    if args[:1] == b'"':  # servers that imitate it write the arguments as OpenAI does
        args = text_of(args).strip().encode("utf-8", "replace")
    call_id = called.id if isinstance(called.id, str) and called.id else made_id(call.answer_id, number)
    return tool_call(call_id, function.name if isinstance(function.name, str) else "", args if is_object(args) else b"{}")


def created_of(text: Any) -> int:
    """Return an RFC 3339 time as unix seconds, 0 where it is none (or before 1970)."""
    if not isinstance(text, str):
        return 0
    whole, dot, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if dot else ""
    try:
        moment = datetime.fromisoformat((whole + zone).replace("Z", "+00:00"))
        return max(0, int(moment.timestamp())) if moment.tzinfo is not None else 0
    except (ValueError, OverflowError):
        return 0


def logprobs_of(entries: Any) -> dict[str, Any] | None:
    """Return Ollama's `logprobs`, which are those of OpenAI without the frame; None where there are none."""
    if not isinstance(entries, list) or not entries:
        return None
    content = []
    for entry in entries:
        tops = entry.get("top_logprobs") if isinstance(entry, dict) else None
        content.append({**_token(entry), "top_logprobs": [_token(top) for top in tops] if isinstance(tops, list) else []})
    return {"content": content, "refusal": None}


def _token(value: Any) -> dict[str, Any]:
    entry = value if isinstance(value, dict) else {}
    token, logprob, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    text = token if isinstance(token, str) else ""
    number = logprob if isinstance(logprob, (int, float)) and not isinstance(logprob, bool) else 0.0
    good = isinstance(raw, list) and all(type(byte) is int and 0 <= byte <= 255 for byte in raw)
    return {"token": text, "logprob": number, "bytes": raw if good else list(text.encode("utf-8", "replace"))}
