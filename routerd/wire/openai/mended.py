"""Answers of a provider that deviates from OpenAI's form, mended: the other side of `quirks`.

Two deviations are known. `content` may be a list of parts where OpenAI has a text: thoughts go to `reasoning_content`, texts to
`content`, and a part of another kind (Mistral's `reference` to a document) has no place and is left out. And words of
`finish_reason` that OpenAI does not have. What holds neither keeps its bytes; an event that does is written anew.
Source: docs.mistral.ai/capabilities/reasoning (`thinking` parts, closed or not); its OpenAPI, ChatCompletionChoice.finish_reason
(`model_length`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.graph import Quirks
from routerd.wire.foreign import read_json
from routerd.wire.openai.relay_scan import RelayScan

__all__ = ["AnswerQuirks", "MendedScan", "parts_of"]

_EVENT = re.compile(rb"(?:[^\r\n]+(?:\r\n|\n|\r(?!\n)))+(?:\r\n|\n|\r(?!\n))")
_DATA = re.compile(rb"data: ?([^\r\n]*)")


class AnswerQuirks:
    """The changes to chat answers of one provider."""

    __slots__ = ("_marks", "_split", "_words")

    def __init__(self, quirks: Quirks) -> None:
        self._split = quirks.split_content
        self._words: Mapping[str, str] = quirks.finish_reasons
        marks = [rb'"content"\s*:\s*\['] if self._split else []
        marks += [re.escape(msgspec.json.encode(word)) for word in self._words]
        self._marks = re.compile(b"|".join(marks))

    @classmethod
    def of(cls, quirks: Quirks) -> AnswerQuirks | None:
        """Return what is to be mended; None: nothing."""
        return cls(quirks) if quirks.split_content or quirks.finish_reasons else None

    def body(self, raw: bytes) -> bytes:
        """Return a whole answer, or the payload of one event, in OpenAI's form; what is no JSON as it is."""
        if self._marks.search(raw) is None:
            return raw
        try:
            value = read_json(raw)
        except ValueError:
            return raw
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list):
            return raw
        changed = [self._choice(one) for one in choices if isinstance(one, dict)]  # all of them
        return _encode(value) if any(changed) else raw

    def events(self, raw: bytes) -> bytes:
        """Return whole events in OpenAI's form. One of several `data` lines is no event that needs it, and stays."""
        return _EVENT.sub(lambda match: self._event(match[0]), raw) if self._marks.search(raw) is not None else raw

    def _event(self, event: bytes) -> bytes:
        lines = _DATA.findall(event)
        if len(lines) != 1:
            return event
        mended = self.body(lines[0])
        return event if mended is lines[0] else event.replace(lines[0], mended)

    def _choice(self, choice: dict[str, Any]) -> bool:
        changed = False
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish in self._words:
            choice["finish_reason"] = self._words[finish]
            changed = True
        for holder in ("delta", "message"):
            message = choice.get(holder)
            if self._split and isinstance(message, dict) and isinstance(message.get("content"), list):
                _split(message)
                changed = True
        return changed


class MendedScan(RelayScan):
    """The scan of such a provider's streams: what it lets through is mended, so no read goes to the client unseen."""

    __slots__ = ("_quirks",)

    def __init__(self, quirks: AnswerQuirks, *, withhold_usage: bool, choices: int = 1) -> None:
        super().__init__(withhold_usage=withhold_usage, choices=choices)
        self._quirks = quirks

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the whole events that may be forwarded, in OpenAI's form."""
        return self._quirks.events(super().feed(data))

    def close(self) -> bytes:
        """Take a last event that no blank line follows."""
        return self._quirks.events(super().close())

    @property
    def plain(self) -> None:
        """Return nothing: each event is looked at."""
        return


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair: an emoji that was cut between two tokens
        return json.dumps(value).encode()


def _split(message: dict[str, Any]) -> None:
    """Put the parts of a message where OpenAI has them."""
    parts = parts_of(message["content"])
    texts, thoughts = ([text for kind, text in parts if kind == wanted] for wanted in ("text", "thinking"))
    message["content"] = "".join(texts) if texts else None
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)


def parts_of(content: list[Any]) -> list[tuple[str, str]]:
    """Return the parts of a `content` that is a list, in their order: `text` or `thinking`, and what it says; no other kinds."""
    found: list[tuple[str, str]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if kind in ("text", "thinking") else None
        if isinstance(value, list):
            value = "".join(one["text"] for one in value if isinstance(one, dict) and isinstance(one.get("text"), str))
        if isinstance(kind, str) and isinstance(value, str) and value:
            found.append((kind, value))
    return found
