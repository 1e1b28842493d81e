"""OpenAI answers out of what another dialect said: chunks of a stream, and whole bodies.

A stream's chunks differ in one value: the bytes around it are built once a stream, and text that is JSON already is copied as it
stands, never decoded. `Chunks` for chat, and for completions, which have text and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.translation.pivot import dump

__all__ = [
    "DELTA_END", "Choice", "Chunks", "answer_body", "is_object", "made_id", "numbered", "text_of", "tool_call", "usage_object",
]  # fmt: skip

_OBJECT = {"chat": ("chat.completion", "chatcmpl-"), "completion": ("text_completion", "cmpl-")}

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode

MAX_OWN_ID_CHARS = 40  # of the 64 that a call's id may have
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")

DELTA_END = b'},"finish_reason":null}]}\n\n'
_TEXT_END = b',"logprobs":null,"finish_reason":null}]}\n\n'


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def text_of(raw: bytes | msgspec.Raw) -> str:
    """Return the text of a JSON string; bytes that are no UTF-8, which a raw value may hold, become U+FFFD."""
    try:
        return _decode_str(raw)
    except UnicodeDecodeError:
        return _decode_str(bytes(raw).decode("utf-8", "replace"))


def is_object(raw: bytes) -> bool:
    """Tell the text of a JSON object from everything else."""
    try:
        _decode_object(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def numbered(entry: Any, number: int) -> Any:
    """Return an entry of a list that grows over a stream: OpenAI's SDKs join such lists by `index` and refuse others."""
    return {"index": number, **entry} if isinstance(entry, dict) else entry


def made_id(own_id: str, *numbers: int) -> str:
    """Return the id of a call that came without one, in the characters and the length that every provider takes back."""
    return "_".join(("call", _NOT_IN_IDS.sub("-", own_id)[:MAX_OWN_ID_CHARS], *map(str, numbers)))


def tool_call(call_id: str, name: str, arguments: bytes, extra_content: Any = None) -> dict[str, Any]:
    """Return a tool call. `arguments` is a JSON object, which OpenAI wants as a string."""
    compact = msgspec.json.format(arguments, indent=-1).decode("utf-8", "replace")
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": compact}}
    if extra_content is not None:
        call["extra_content"] = extra_content
    return call


def _head(call: Call, answer_id: str, created_unix_s: int, suffix: str = "") -> dict[str, Any]:
    name, prefix = _OBJECT[call.operation]
    return {
        "id": answer_id if answer_id.startswith(prefix) else prefix + answer_id,
        "object": name + (suffix if call.operation == "chat" else ""),
        "created": created_unix_s,
        "model": call.asked_model or call.model,
    }


class Chunks:
    """Encodes the chunks of one stream. `text0` and `end` are the bytes around the text of choice 0."""

    __slots__ = ("_before_index", "_chat", "_open", "end", "text0")

    def __init__(self, call: Call, *, answer_id: str, created_unix_s: int) -> None:
        self._chat = call.operation == "chat"
        self._open = b"data: " + dump(_head(call, answer_id, created_unix_s, ".chunk"))[:-1]
        self._before_index = self._open + b',"choices":[{"index":'
        self.end = DELTA_END if self._chat else _TEXT_END
        self.text0 = self._text_open(0)

    def _text_open(self, index: int) -> bytes:
        return self._before_index + (b'%d,"delta":{"content":' if self._chat else b'%d,"text":') % index

    def role(self, index: int) -> bytes:
        """Open the message of a choice; completions have no such chunk."""
        return self.delta(index, {"role": "assistant", "content": ""})

    def text(self, index: int, raw: bytes | msgspec.Raw, logprobs: Any = None) -> bytes:
        """Return a piece of text. `raw` is a JSON string."""
        if logprobs is not None and self._chat:
            lp = dump(logprobs)
            parts = (self._text_open(index), raw, b'},"logprobs":', lp, b',"finish_reason":null}]}\n\n')
            return b"".join(parts)
        return b"".join((self._text_open(index), raw, self.end))

    def reasoning(self, index: int, raw: bytes | msgspec.Raw) -> bytes:
        """Return a piece of the model's thoughts. `raw` is a JSON string."""
        if not self._chat:
            return b""
        return b"".join((self._before_index, b'%d,"delta":{"reasoning_content":' % index, raw, DELTA_END))

    def delta(self, index: int, delta: dict[str, Any]) -> bytes:
        """Return any other delta; completions have none."""
        if not self._chat:
            return b""
        return b"".join((self._before_index, b'%d,"delta":' % index, dump(delta), b',"finish_reason":null}]}\n\n'))

    def tool_call(self, index: int, number: int, call: dict[str, Any]) -> bytes:
        """Return a whole tool call, the `number`th of its choice."""
        return self.delta(index, {"tool_calls": [{"index": number, **call}]})

    def finish(self, index: int, reason: str) -> bytes:
        """Return the chunk that ends a choice."""
        middle = b'%d,"delta":{},"finish_reason":' if self._chat else b'%d,"text":"","logprobs":null,"finish_reason":'
        return b"".join((self._before_index, middle % index, dump(reason), b"}]}\n\n"))

    def usage(self, usage: Usage) -> bytes:
        """Return the usage chunk."""
        return b"".join((self._open, b',"choices":[],"usage":', dump(usage_object(usage)), b"}\n\n"))


@dataclass(slots=True, kw_only=True)
class Choice:
    """One choice of a whole answer."""

    index: int = 0
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    citations: list[Any] = field(default_factory=list)
    finish_reason: str = "stop"
    logprobs: Any = None
    extra_content: Any = None

    def message(self) -> dict[str, Any]:
        """Return it as OpenAI's message; the content of one that only calls tools is null."""
        content = "".join(self.texts)
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if self.tool_calls else "")}
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        if self.images:
            message["images"] = self.images
        if self.citations:
            message["citations"] = self.citations
        if self.extra_content is not None:
            message["extra_content"] = self.extra_content
        return message


def answer_body(call: Call, *, answer_id: str, created_unix_s: int, choices: list[Choice], usage: Usage | None) -> bytes:
    """Return the whole answer."""
    body = _head(call, answer_id, created_unix_s)
    body["choices"] = [
        {
            "index": choice.index,
            **({"message": choice.message()} if call.operation == "chat" else {"text": "".join(choice.texts)}),
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason,
        }
        for choice in choices
    ]
    if usage is not None:
        body["usage"] = usage_object(usage)
    return dump(body)
