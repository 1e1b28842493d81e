"""Gemini's stream as OpenAI chunks: one event in, its chunks out, nothing held.

Each event is a partial answer: one chunk a part, a function call whole in one delta. The usage stands on every event, the last
one wins. There is no end mark: the end of the bytes after a finish is a good end. Only then the finish is said, as older models
write `finishReason: STOP` on every event; usage chunk and `[DONE]` follow.
Without `alt=sse` (a proxy that drops the query, a provider's `body`) the same answers come as one JSON array: read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.framing import Elements, Events, Framing
from routerd.wire.gemini.answer import (
    Answer,
    Candidate,
    Part,
    answer_id,
    call_of,
    decode_strictly,
    finish_of,
    grounded,
    image_of,
    logprobs_of,
    read_answer,
    signed,
    usage_of,
)
from routerd.wire.translation.compose import Chunks, numbered
from routerd.wire.translation.read import REFUSED
from routerd.wire.translation.scan import Said, TranslatedScan

__all__ = ["GeminiScan"]

_QUOTE = ord('"')


class _Turn:
    """What is known of one choice."""

    __slots__ = ("calls", "ending", "grounding", "images")

    def __init__(self) -> None:
        self.calls = 0
        self.images = 0
        self.grounding: Any = None  # what a search found; the last event that says so has all of it
        self.ending: str | None = None  # the finishReason; not said before the end, as more may follow it


class GeminiScan(TranslatedScan):
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = ("_id", "_turns")

    def __init__(self, call: Call) -> None:
        super().__init__(call, Events())
        self._cut = self._begin
        self._id = ""
        self._turns: dict[int, _Turn] = {}

    def _begin(self, data: bytes) -> Sequence[bytes]:
        """Events, or the elements of an array: the first byte that is not blank says which."""
        first = data.lstrip()[:1]
        if not first:
            return ()
        framing: Framing = Elements() if first in (b"[", b"{") else Events()
        self._cut, self._rest = framing.feed, framing.close
        return framing.feed(data)

    def _take(self, payload: bytes, out: Said) -> None:
        try:
            answer = decode_strictly(payload)
        except REFUSED:
            patient = read_answer(payload)
            if patient is None:
                if payload.strip() != b"[DONE]":  # not Gemini's, but servers that imitate it send one
                    self._unreadable()
                return
            answer = patient
        self._malformed_run = 0
        if answer.error:
            self._failed(answer.error)
            return
        self._counts = answer.usageMetadata
        chunks = self._chunks
        if chunks is None:
            self.model = answer.model
            self._id = answer_id(answer, self._call)
            chunks = self._open(self._id, self._call.created_unix_s)
        for candidate in answer.candidates or self._blocked(answer):
            self._candidate(candidate, chunks, out)

    def _usage_of(self, counts: msgspec.Raw) -> Usage | None:
        return usage_of(counts)

    def _blocked(self, answer: Answer) -> list[Candidate]:
        """The prompt was refused: so ends what is open, or an answer that never began."""
        return [Candidate(finishReason="SAFETY", index=i) for i in self._turns or (0,)] if answer.blocked else []

    def _candidate(self, candidate: Candidate, chunks: Chunks, out: Said) -> None:
        index = candidate.index or 0
        turn = self._turns.get(index)
        if turn is None:
            turn = self._turns[index] = _Turn()
            self.finished = False
            out.append(chunks.role(index))
        content = candidate.content
        for part in (content.parts or ()) if content is not None else ():
            text = part.text
            if part.functionCall is None and part.inlineData is None and not part.thoughtSignature and not part.thought:
                view = memoryview(text)
                if len(view) > 2 and view[0] == _QUOTE:
                    self.content = True
                    if index == 0 and candidate.logprobsResult is None:
                        out += (chunks.text0, text, chunks.end)
                    else:
                        out.append(chunks.text(index, text, logprobs_of(candidate.logprobsResult)))
            else:
                self._rarer(part, index, turn, chunks, out)
        if candidate.groundingMetadata:
            turn.grounding = candidate.groundingMetadata
        if candidate.finishReason is not None and candidate.ending is not None:
            turn.ending = candidate.ending
            self.content = True
            self.finished = all(t.ending for t in self._turns.values())

    def _rarer(self, part: Part, index: int, turn: _Turn, chunks: Chunks, out: Said) -> None:
        """Thoughts, calls, images and signatures."""
        if _says(part.text):
            self.content = True
            out.append(chunks.reasoning(index, part.text) if part.thought else chunks.text(index, part.text))
        if part.functionCall is not None:
            self.content = True
            out.append(chunks.tool_call(index, turn.calls, call_of(part, self._id, index, turn.calls)))
            turn.calls += 1
        elif (extra := signed(part.thoughtSignature)) is not None:
            out.append(chunks.delta(index, {"extra_content": extra}))
        if part.inlineData is not None:
            self.content = True
            out.append(chunks.delta(index, {"images": [numbered(image_of(part.inlineData), turn.images)]}))
            turn.images += 1

    def _end(self, out: Said) -> None:
        assert self._chunks is not None
        for index, turn in self._turns.items():
            if turn.grounding is not None:
                out.append(self._chunks.delta(index, {"extra_content": grounded(turn.grounding)}))
            out.append(self._chunks.finish(index, finish_of(turn.ending, turn.calls > 0)))
        super()._end(out)


def _says(raw: msgspec.Raw) -> bool:
    """Tell a JSON string that is not empty from everything else."""
    view = memoryview(raw)
    return len(view) > 2 and view[0] == _QUOTE
