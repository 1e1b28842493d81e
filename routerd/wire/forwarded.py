"""How much text an answer held, for engines that do not say how many tokens it was: a stream that was cut, a client that left.

While a stream runs its events are only kept, at most KEPT_BYTES of them, and forgotten when a usage comes: that covers them. They
are read when somebody must know, or there are too many. Text is what a model wrote: content, thoughts, refusals, names and
arguments of calls, in the shapes of OpenAI (chat, completions, Responses) and Anthropic. Pictures and sound are none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.messages import Usage
from routerd.wire.foreign import read_json

__all__ = ["ForwardedText", "answer_text_bytes"]

KEPT_BYTES = 16 * 1024  # a hundred events; a thousand streams keep 16 MB


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: Any = None


class _Chunk(msgspec.Struct):
    """The usual event, and what tells that it is another one."""

    choices: list[_Choice] | None = None
    delta: Any = None


class _Event(msgspec.Struct):
    choices: Any = None
    delta: Any = None
    type: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode = msgspec.json.Decoder(_Event).decode


class ForwardedText:
    """The text that one stream forwarded since its engine last said its usage."""

    __slots__ = ("_kept", "_kept_bytes", "_said", "_text_bytes")

    def __init__(self, data: bytes, said: Usage | None) -> None:
        """Begin with the events up to the first content, and the usage that they may have told (of the prompt)."""
        self._kept = [data]
        self._kept_bytes = len(data)
        self._said = said
        self._text_bytes = 0

    def take(self, data: bytes, said: Usage | None) -> None:
        """Take whole events, and the last usage so far."""
        if said is not self._said:
            self._said = said
            self._kept.clear()
            self._kept_bytes = self._text_bytes = 0
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > KEPT_BYTES:
            self.text_bytes()

    def text_bytes(self) -> int:
        """Return how many bytes of text came that no usage covers."""
        if self._kept:
            for line in b"".join(self._kept).splitlines():
                if line.startswith(b"data:"):
                    self._text_bytes += _of_event(line[5:].strip())
            self._kept.clear()
            self._kept_bytes = 0
        return self._text_bytes


def answer_text_bytes(body: bytes) -> int:
    """Return how many bytes of text a whole answer holds."""
    try:
        answer = read_json(body)
    except ValueError:
        return 0
    if not isinstance(answer, dict):
        return 0
    return _of_choices(answer.get("choices")) + _of_blocks(answer.get("content")) + _of_blocks(answer.get("output"))


def _of_event(payload: bytes) -> int:
    if payload[:1] != b"{":
        return 0
    try:
        chunk = _decode_chunk(payload)
        if chunk.delta is None:
            return _of_chunk(chunk)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        event = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    if event.choices:
        return _of_choices(event.choices)
    delta = event.delta
    if isinstance(delta, str):  # Responses: the type says of what
        return 0 if isinstance(event.type, str) and "audio" in event.type else _length(delta)
    return sum(_length(delta.get(key)) for key in ("text", "thinking", "partial_json")) if isinstance(delta, dict) else 0


def _of_chunk(chunk: _Chunk) -> int:
    total = 0
    for choice in chunk.choices or ():
        delta = choice.delta
        if delta is not None:
            if delta.content is not None:
                total += _length(delta.content) or _of_blocks(delta.content)
            if delta.reasoning_content is not None or delta.reasoning is not None:
                total += max(_length(delta.reasoning_content), _length(delta.reasoning))
            if delta.refusal is not None:
                total += _length(delta.refusal)
            if delta.tool_calls is not None:
                total += _of_calls(delta.tool_calls)
        if choice.text is not None:
            total += _length(choice.text)
    return total


def _of_choices(choices: Any) -> int:
    total = 0
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        said = choice.get("delta") or choice.get("message")
        total += _length(choice.get("text"))
        if isinstance(said, dict):
            total += _length(said.get("content")) + _length(said.get("refusal")) + _of_blocks(said.get("content"))
            total += max(_length(said.get("reasoning_content")), _length(said.get("reasoning")))  # some say it in both
            total += _of_calls(said.get("tool_calls"))
    return total


def _of_calls(calls: Any) -> int:
    total = 0
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            total += _length(function.get("name")) + _length(function.get("arguments"))
    return total


def _of_blocks(blocks: Any) -> int:
    total = 0
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict):
            total += sum(_length(block.get(key)) for key in ("text", "thinking", "refusal", "arguments"))
            total += _of_blocks(block.get("content"))
            if isinstance(block.get("input"), dict):
                total += len(msgspec.json.encode(block["input"]))
    return total


def _length(text: Any) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
