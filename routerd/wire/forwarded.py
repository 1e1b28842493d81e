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

KEPT_BYTES = 64 * 1024


class _Event(msgspec.Struct):
    choices: Any = None
    delta: Any = None
    type: Any = None


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
        event = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    if event.choices:
        return _of_choices(event.choices)
    delta = event.delta
    if isinstance(delta, str):  # Responses: the type says of what
        return 0 if isinstance(event.type, str) and "audio" in event.type else _length(delta)
    return sum(_length(delta.get(key)) for key in ("text", "thinking", "partial_json")) if isinstance(delta, dict) else 0


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
            total += sum(_of_call(call) for call in said.get("tool_calls") or () if isinstance(call, dict))
    return total


def _of_call(call: dict[str, Any]) -> int:
    function = call.get("function")
    return _length(function.get("name")) + _length(function.get("arguments")) if isinstance(function, dict) else 0


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
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
