"""What upstreams of each dialect say: whole answers, streams in pieces, errors; for tests in which routerd translates.

The shapes are those of the recorded traffic in tests/transcripts. A request names its dialect by its path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support import answers
from tests.support.answers import JSON, delta, event
from tests.support.upstream import Answer, Headers

__all__ = ["NDJSON", "VOICES", "Voice", "voice_of"]

NDJSON: Headers = (("content-type", "application/x-ndjson"), ("transfer-encoding", "chunked"))
GIVEN, MADE = 11, 3  # tokens of every answer


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One dialect. `begin` and `end` are the events before and after the text; `whole` is the body of an answer at once."""

    path: str  # by which a request of this dialect is known
    begin: Sequence[bytes]
    end: Sequence[bytes]
    malformed: bytes
    stream_head: Headers = answers.EVENT_STREAM

    def whole(self, text: str) -> dict[str, Any]:
        """Return the body of an answer."""
        raise NotImplementedError

    def piece(self, text: str) -> bytes:
        """Return the event that brings this text."""
        raise NotImplementedError

    def fault(self, status: int, message: str, code: str | None = None) -> dict[str, Any]:
        """Return the body of an error."""
        raise NotImplementedError

    def fault_event(self, status: int, message: str) -> bytes:
        """Return the event that says that the stream has failed."""
        return event(self.fault(status, message))

    def error(self, status: int, message: str, *, code: str | None = None, headers: Headers = ()) -> Answer:
        """Answer with an error."""
        return answers.reply(self.fault(status, message, code), status=status, headers=(JSON, *headers))


class OpenAI(Voice):
    """Chat completions."""

    def whole(self, text: str) -> dict[str, Any]:
        return answers.completion(text)

    def piece(self, text: str) -> bytes:
        return event(delta(text))

    def fault(self, status: int, message: str, code: str | None = None) -> dict[str, Any]:
        return {"error": {"message": message, "type": "server_error", "param": None, "code": code or status}}


class Anthropic(Voice):
    """Messages."""

    def whole(self, text: str) -> dict[str, Any]:
        usage = {"input_tokens": GIVEN, "output_tokens": MADE}
        return {**_MESSAGE, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": usage}

    def piece(self, text: str) -> bytes:
        return _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def fault(self, status: int, message: str, code: str | None = None) -> dict[str, Any]:
        kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "overloaded_error" if status == 529 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def fault_event(self, status: int, message: str) -> bytes:
        return _named("error", error=self.fault(status, message)["error"])


class Gemini(Voice):
    """generateContent."""

    def whole(self, text: str) -> dict[str, Any]:
        return {**_candidate(text, "STOP"), "usageMetadata": _GEMINI_USAGE}

    def piece(self, text: str) -> bytes:
        return event(_candidate(text))

    def fault(self, status: int, message: str, code: str | None = None) -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT" if status == 400 else "UNAVAILABLE"}}


class Ollama(Voice):
    """/api/chat."""

    def whole(self, text: str) -> dict[str, Any]:
        return {**_said(text), **_OLLAMA_END}

    def piece(self, text: str) -> bytes:
        return _line({**_said(text), "done": False})

    def fault(self, status: int, message: str, code: str | None = None) -> dict[str, Any]:
        return {"error": message}

    def fault_event(self, status: int, message: str) -> bytes:
        return _line(self.fault(status, message))


def _named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _line(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found).encode() + b"\n"


def _candidate(text: str, finish: str | None = None) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": text}]}
    return {"candidates": [{"content": content, "index": 0, **({"finishReason": finish} if finish else {})}]}


def _said(text: str) -> dict[str, Any]:
    return {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": text}}


_MESSAGE: Mapping[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_sequence": None
}  # fmt: skip
_GEMINI_USAGE = {"promptTokenCount": GIVEN, "candidatesTokenCount": MADE, "totalTokenCount": GIVEN + MADE}
_OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": GIVEN, "eval_count": MADE}

VOICES: Mapping[str, Voice] = {
    "openai": OpenAI(
        path="/chat/completions",
        begin=(event(delta("", role="assistant")),),
        end=(event(delta(finish="stop")), event({**delta(), "choices": [], "usage": answers.USAGE}), answers.DONE),
        malformed=event("{no json"),
    ),
    "anthropic": Anthropic(
        path="/messages",
        begin=(
            _named("message_start", message={**_MESSAGE, "usage": {"input_tokens": GIVEN, "output_tokens": 1}}),
            _named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ),
        end=(
            _named("content_block_stop", index=0),
            _named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": MADE}),
            _named("message_stop"),
        ),
        malformed=event("{no json"),
    ),
    "gemini": Gemini(
        path="enerateContent",
        begin=(),
        end=(event({**_candidate("", "STOP"), "usageMetadata": _GEMINI_USAGE}),),
        malformed=event("{no json"),
    ),
    "ollama": Ollama(
        path="/api/chat", begin=(), end=(_line({**_said(""), **_OLLAMA_END}),), malformed=b"{no json\n", stream_head=NDJSON
    ),
}


def voice_of(target: str) -> str:
    """Return the dialect that a request of this path speaks."""
    return next(name for name, voice in VOICES.items() if voice.path in target)
