"""Gemini's event stream as OpenAI chunks: one event in, its chunks out, nothing held.

Each event is a partial answer: one chunk a part, a function call whole in one delta. The usage stands on every event, the last
one wins. There is no end mark: the end of the bytes after a finish is a good end, and then come the usage chunk and `[DONE]`.
Three malformed events in a row are a fault; an error after a finish is none (as in `relay_scan`).
"""

from __future__ import annotations

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.gemini.answer import (
    Answer,
    Candidate,
    Part,
    answer_id,
    call_of,
    finish_of,
    image_of,
    logprobs_of,
    read_answer,
    signed,
    usage_of,
)
from routerd.wire.openai.relay_scan import DONE, MAX_MALFORMED_RUN, StreamFault
from routerd.wire.sse import SseParser
from routerd.wire.translation.compose import Chunks

__all__ = ["GeminiScan"]


class _Turn:
    """What is known of one choice."""

    __slots__ = ("calls", "ended")

    def __init__(self) -> None:
        self.calls = 0
        self.ended = False


class GeminiScan:
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = (
        "_call", "_chunks", "_id", "_malformed_run", "_parser", "_turns", "content", "done", "fault", "finished", "malformed",
        "model", "usage",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        self.content = False
        self.finished = False
        self.done = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self.fault: StreamFault | None = None
        self.malformed = 0
        self._malformed_run = 0
        self._call = call
        self._id = ""
        self._chunks: Chunks | None = None
        self._turns: dict[int, _Turn] = {}
        self._parser = SseParser()

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the chunks that it makes."""
        if self.fault is not None or self.done:
            return b""
        end = len(data) - 4
        one = data.startswith(b"data: {") and data.endswith(b"}\r\n\r\n") and data.find(b"\n") == end + 1
        if one and data.find(b"\r") == end and self._parser.at_border:  # the usual read of a stream in progress is one event
            return self._event(data[6:-4])
        out = []
        try:
            for event in self._parser.feed(data):
                if self.fault is None:
                    out.append(self._event(event.data))
        except ProtocolFault as exc:
            self.fault = StreamFault(exc.message)
        return b"".join(out)

    def close(self) -> bytes:
        """The bytes have ended: after a finish, return the usage chunk, if it was asked for, and the end mark."""
        if self.fault is not None or self.done:
            return b""
        out = []
        try:
            for event in self._parser.close():
                if self.fault is None:
                    out.append(self._event(event.data))
        except ProtocolFault as exc:
            self.fault = StreamFault(exc.message)
        if self.finished and self.fault is None:
            self.done = True
            if self._call.wants_usage and self.usage is not None and self._chunks is not None:
                out.append(self._chunks.usage(self.usage))
            out.append(DONE)
        return b"".join(out)

    def _event(self, payload: bytes) -> bytes:
        answer = read_answer(payload)
        if answer is None:
            return self._not_an_answer(payload)
        self._malformed_run = 0
        if answer.error:
            if not self.finished:
                self.fault = StreamFault("the upstream reported an error inside its stream", answer.error)
            return b""
        usage = usage_of(answer)
        if usage is not None:
            self.usage = usage
        chunks = self._chunks or self._open(answer)
        candidates = answer.candidates
        if not candidates:
            blocked = answer.promptFeedback is not None and answer.promptFeedback.blockReason is not None
            # The prompt was refused: so ends what is open, or an answer that never began.
            candidates = [Candidate(finishReason="SAFETY", index=i) for i in self._turns or (0,)] if blocked else []
        out: list[bytes | msgspec.Raw] = []
        for candidate in candidates:
            self._candidate(candidate, chunks, out)
        return b"".join(out)

    def _not_an_answer(self, payload: bytes) -> bytes:
        if payload.strip() == b"[DONE]":  # not Gemini's, but servers that imitate it send one
            return b""
        self.malformed += 1
        self._malformed_run += 1
        if self._malformed_run >= MAX_MALFORMED_RUN:
            self.fault = StreamFault(f"the upstream sent {MAX_MALFORMED_RUN} malformed events in a row")
        return b""

    def _open(self, answer: Answer) -> Chunks:
        self.model = answer.modelVersion
        self._id = answer_id(answer, self._call)
        self._chunks = Chunks(self._call, answer_id=self._id, created_unix_s=self._call.created_unix_s)
        return self._chunks

    def _candidate(self, candidate: Candidate, chunks: Chunks, out: list[bytes | msgspec.Raw]) -> None:
        index = candidate.index or 0
        turn = self._turns.get(index)
        if turn is None:
            turn = self._turns[index] = _Turn()
            self.finished = False
            out.append(chunks.role(index))
        parts = candidate.content.parts if candidate.content is not None else None
        for part in parts or ():
            text = part.text
            if part.functionCall is None and part.inlineData is None and not part.thoughtSignature and not part.thought:
                if _says(text):
                    self.content = True
                    if candidate.logprobsResult is not None:
                        out.append(chunks.text(index, text, logprobs_of(candidate.logprobsResult)))
                    elif index == 0:
                        out += (chunks.text0, text, chunks.end)
                    else:
                        out.append(chunks.text(index, text))
            else:
                self._rarer(part, index, turn, chunks, out)
        if candidate.finishReason is not None and not turn.ended:
            turn.ended = True
            self.content = True
            self.finished = all(t.ended for t in self._turns.values())
            out.append(chunks.finish(index, finish_of(candidate.finishReason, turn.calls > 0)))

    def _rarer(self, part: Part, index: int, turn: _Turn, chunks: Chunks, out: list[bytes | msgspec.Raw]) -> None:
        """Thoughts, calls, images and signatures."""
        if _says(part.text):
            self.content = True
            out.append(chunks.reasoning(index, part.text) if part.thought else chunks.text(index, part.text))
        if part.functionCall is not None:
            self.content = True
            out.append(chunks.tool_call(index, turn.calls, call_of(part, self._id, index, turn.calls)))
            turn.calls += 1
        elif part.thoughtSignature:
            out.append(chunks.delta(index, {"extra_content": signed(part.thoughtSignature)}))
        if part.inlineData is not None:
            self.content = True
            out.append(chunks.delta(index, {"images": [image_of(part.inlineData)]}))


def _says(raw: msgspec.Raw) -> bool:
    """Tell a JSON string that is not empty from everything else."""
    view = memoryview(raw)
    return len(view) > 2 and view[0] == _QUOTE


_QUOTE = ord('"')
