"""Gemini's answers: the records that unary bodies and stream events share, and whole answers as OpenAI's.

Text and arguments stay raw JSON (`Raw`), so that a stream copies them without decoding. `thoughtsTokenCount` is outside of
`candidatesTokenCount` (710 of 712 recordings) and is added; `toolUsePromptTokenCount` is outside of `promptTokenCount`.
A function call ends with STOP (345 of 354): the finish reason is `tool_calls` where a call was seen. A refused prompt has no
candidates but `promptFeedback.blockReason`: an empty answer with `content_filter`. Parts that OpenAI has no words for (code that
Gemini ran, where an operator lets it) are left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.faults.classify import classify_value
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.translation.compose import Choice, answer_body, made_id, text_of, tool_call
from routerd.wire.translation.read import read_document

__all__ = [
    "Answer",
    "Candidate",
    "Part",
    "answer_id",
    "call_of",
    "decode_answer",
    "finish_of",
    "image_of",
    "logprobs_of",
    "read_answer",
    "signed",
    "usage_of",
]

_NOTHING = msgspec.Raw(b"")
_FILTERED = frozenset(
    {
        "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
        "LANGUAGE", "RECITATION", "MODEL_ARMOR",
    }
)  # fmt: skip
MAX_COUNT = 10**12  # above any context ever served


class _FunctionCall(msgspec.Struct, gc=False):
    name: str = ""
    id: str | None = None
    args: msgspec.Raw = _NOTHING


class _Blob(msgspec.Struct, gc=False):
    mimeType: str = "application/octet-stream"
    data: str = ""


class Part(msgspec.Struct, gc=False):
    """One part of the content: text, a thought, a call or an image."""

    text: msgspec.Raw = _NOTHING
    thought: bool | None = None
    functionCall: _FunctionCall | None = None
    inlineData: _Blob | None = None
    thoughtSignature: str | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[Part] | None = None


class Candidate(msgspec.Struct, gc=False):
    """One choice."""

    content: _Content | None = None
    finishReason: str | None = None
    index: int | None = None
    logprobsResult: Any = None


class _Feedback(msgspec.Struct, gc=False):
    blockReason: str | None = None


class _Counts(msgspec.Struct, gc=False):
    promptTokenCount: int | float | None = None
    candidatesTokenCount: int | float | None = None
    thoughtsTokenCount: int | float | None = None
    toolUsePromptTokenCount: int | float | None = None
    cachedContentTokenCount: int | float | None = None


class Answer(msgspec.Struct, gc=False):
    """A whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    usageMetadata: _Counts | None = None
    promptFeedback: _Feedback | None = None
    error: Any = None
    modelVersion: str | None = None
    responseId: str | None = None


_decode = msgspec.json.Decoder(Answer).decode


def read_answer(payload: bytes) -> Answer | None:
    """Decode one JSON document, or None where it is no answer. An error may come inside an array."""
    return read_document(payload, _decode, lambda error: Answer(error=error))


def decode_answer(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's body and what routing must know. Raises ProtocolFault for what is no answer."""
    if not body.strip():
        raise ProtocolFault("the upstream answered 200 with an empty body")
    answer = read_answer(body)
    if answer is None:
        raise ProtocolFault("the upstream answered 200 with a body that is no answer of Gemini")
    if answer.error:
        return body, UnaryAnswer(error=classify_value(answer.error))
    blocked = answer.promptFeedback is not None and answer.promptFeedback.blockReason is not None
    own_id = answer_id(answer, call)
    choices = [_choice(candidate, i, own_id) for i, candidate in enumerate(answer.candidates or ())]
    if not choices and blocked:
        choices = [Choice(finish_reason="content_filter")]
    if not choices:
        raise ProtocolFault("the upstream's answer holds no candidates")
    usage = usage_of(answer)
    out = answer_body(call, answer_id=own_id, created_unix_s=call.created_unix_s, choices=choices, usage=usage)
    return out, UnaryAnswer(usage=usage, response_model=answer.modelVersion, finish_reason=choices[0].finish_reason)


def answer_id(answer: Answer, call: Call) -> str:
    """Return the answer's own id, or the one that routerd gives it."""
    return answer.responseId or call.answer_id


def usage_of(answer: Answer) -> Usage | None:
    """Return the counts, or None where there are none."""
    counts = answer.usageMetadata
    if counts is None:
        return None
    thoughts = _count(counts.thoughtsTokenCount)
    return Usage(
        input_tokens=_count(counts.promptTokenCount) + _count(counts.toolUsePromptTokenCount),
        output_tokens=_count(counts.candidatesTokenCount) + thoughts,
        cached_tokens=_count(counts.cachedContentTokenCount),
        reasoning_tokens=thoughts,
    )


def _count(value: int | float | None) -> int:
    return int(value) if value is not None and 0 <= value <= MAX_COUNT else 0


def finish_of(reason: str | None, called: bool) -> str:
    """Return OpenAI's finish_reason."""
    if reason == "MAX_TOKENS":
        return "length"
    if reason in _FILTERED:
        return "content_filter"
    return "tool_calls" if called else "stop"


def call_of(part: Part, own_id: str, index: int, number: int) -> dict[str, Any]:
    """Return the tool call of a part; one without an id (322 of 377 recordings) gets one that no other call has."""
    function = part.functionCall
    assert function is not None
    args = bytes(function.args)
    call_id = function.id or made_id(own_id, index, number)
    return tool_call(call_id, function.name, args if args[:1] == b"{" else b"{}", signed(part.thoughtSignature))


def signed(signature: str | None) -> dict[str, Any] | None:
    """Return the place where a signature of thoughts travels."""
    return {"google": {"thought_signature": signature}} if signature else None


def image_of(blob: _Blob) -> dict[str, Any]:
    """Return an image of the answer, in the form that OpenRouter gave it."""
    return {"type": "image_url", "image_url": {"url": f"data:{blob.mimeType};base64,{blob.data}"}}


def _choice(candidate: Candidate, position: int, own_id: str) -> Choice:
    index = candidate.index if candidate.index is not None and candidate.index >= 0 else position
    choice = Choice(index=index, logprobs=logprobs_of(candidate.logprobsResult))
    for part in (candidate.content.parts if candidate.content is not None else None) or ():
        text = bytes(part.text)
        if text[:1] == b'"':
            (choice.thoughts if part.thought else choice.texts).append(text_of(text))
        if part.functionCall is not None:
            choice.tool_calls.append(call_of(part, own_id, index, len(choice.tool_calls)))
        elif part.thoughtSignature:
            choice.extra_content = signed(part.thoughtSignature)
        if part.inlineData is not None:
            choice.images.append(image_of(part.inlineData))
    choice.finish_reason = finish_of(candidate.finishReason, bool(choice.tool_calls))
    return choice


def logprobs_of(result: Any) -> dict[str, Any] | None:
    """Return `logprobsResult` as OpenAI's `logprobs`, None where there is none."""
    if not isinstance(result, dict) or not isinstance(result.get("chosenCandidates"), list):
        return None
    tops = result.get("topCandidates")
    tops = tops if isinstance(tops, list) else []
    content = []
    for i, chosen in enumerate(result["chosenCandidates"]):
        top = tops[i].get("candidates") if i < len(tops) and isinstance(tops[i], dict) else None
        content.append({**_token(chosen), "top_logprobs": [_token(entry) for entry in top] if isinstance(top, list) else []})
    return {"content": content, "refusal": None}


def _token(value: Any) -> dict[str, Any]:
    entry = value if isinstance(value, dict) else {}
    token, logprob = entry.get("token"), entry.get("logProbability")
    text = token if isinstance(token, str) else ""
    number = logprob if isinstance(logprob, (int, float)) and not isinstance(logprob, bool) else 0.0
    return {"token": text, "logprob": number, "bytes": list(text.encode("utf-8", "replace"))}
