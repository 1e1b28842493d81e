"""Gemini's answers: the records that unary bodies and stream events share, and whole answers as OpenAI's.

Text and arguments stay raw JSON (`Raw`), so that a stream copies them without decoding; small values are looked at when they are
used, so that one of an odd type costs itself and not the answer. `thoughtsTokenCount` is outside of
`candidatesTokenCount` (710 of 712 recordings) and is added; `toolUsePromptTokenCount` is outside of `promptTokenCount`.
A function call ends with STOP (345 of 354): the finish reason is `tool_calls` where a call was seen. A refused prompt has no
candidates but `promptFeedback.blockReason`: an empty answer with `content_filter`. What a search found stands where signatures do
(`extra_content.google.grounding_metadata`). Code that Gemini ran, where an operator lets it, is left out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.faults.classify import classify_value
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.translation.compose import Choice, answer_body, made_id, text_of, tool_call
from routerd.wire.translation.pivot import merged
from routerd.wire.translation.read import REFUSED, read_patiently

__all__ = [
    "Answer",
    "Candidate",
    "Counts",
    "Part",
    "answer_id",
    "call_of",
    "decode_answer",
    "decode_strictly",
    "finish_of",
    "grounded",
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
    name: Any = None
    id: Any = None
    args: msgspec.Raw = _NOTHING


class _Blob(msgspec.Struct, gc=False):
    mimeType: Any = None
    data: Any = None


class Part(msgspec.Struct, gc=False):
    """One part of the content: text, a thought, a call or an image."""

    text: msgspec.Raw = _NOTHING
    thought: Any = None
    functionCall: _FunctionCall | None = None
    inlineData: _Blob | None = None
    thoughtSignature: Any = None


class _Content(msgspec.Struct, gc=False):
    parts: list[Part] | None = None


class Candidate(msgspec.Struct, gc=False):
    """One choice."""

    content: _Content | None = None
    finishReason: Any = None
    index: Annotated[int, msgspec.Meta(ge=0, lt=1000)] | None = None
    logprobsResult: Any = None
    groundingMetadata: Any = None

    @property
    def ending(self) -> str | None:
        """Why it ended; None: it goes on."""
        reason = self.finishReason
        return reason if isinstance(reason, str) and reason and reason != "FINISH_REASON_UNSPECIFIED" else None


class _Feedback(msgspec.Struct, gc=False):
    blockReason: Any = None


class Counts(msgspec.Struct, gc=False):
    """`usageMetadata`."""

    promptTokenCount: Any = None
    candidatesTokenCount: Any = None
    thoughtsTokenCount: Any = None
    toolUsePromptTokenCount: Any = None
    cachedContentTokenCount: Any = None


class Answer(msgspec.Struct, gc=False):
    """A whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    usageMetadata: msgspec.Raw = _NOTHING
    promptFeedback: _Feedback | None = None
    error: Any = None
    modelVersion: Any = None
    responseId: Any = None

    @property
    def model(self) -> str | None:
        """Which model it names."""
        return self.modelVersion if isinstance(self.modelVersion, str) else None

    @property
    def blocked(self) -> bool:
        """Whether the prompt was refused."""
        return self.promptFeedback is not None and bool(self.promptFeedback.blockReason)


decode_strictly = msgspec.json.Decoder(Answer).decode
_decode_counts = msgspec.json.Decoder(Counts | None).decode


def read_answer(payload: bytes) -> Answer | None:
    """Decode one JSON document, or None where it is no object. An error may come inside an array."""
    try:
        return decode_strictly(payload)
    except REFUSED:
        return read_patiently(payload, decode_strictly, lambda error: Answer(error=error))


def decode_answer(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's body and what routing must know. Raises ProtocolFault for what is no answer."""
    if not body.strip():
        raise ProtocolFault("the upstream answered 200 with an empty body")
    answer = read_answer(body)
    if answer is None:
        raise ProtocolFault("the upstream answered 200 with a body that is no answer of Gemini")
    if answer.error:
        return body, UnaryAnswer(error=classify_value(answer.error))
    own_id = answer_id(answer, call)
    choices = [_choice(candidate, i, own_id) for i, candidate in enumerate(answer.candidates or ())]
    if not choices and answer.blocked:
        choices = [Choice(finish_reason="content_filter")]
    if not choices:
        raise ProtocolFault("the upstream's answer holds no candidates")
    usage = usage_of(answer.usageMetadata)
    out = answer_body(call, answer_id=own_id, created_unix_s=call.created_unix_s, choices=choices, usage=usage)
    return out, UnaryAnswer(usage=usage, response_model=answer.model, finish_reason=choices[0].finish_reason)


def answer_id(answer: Answer, call: Call) -> str:
    """Return the answer's own id, or the one that routerd gives it."""
    own_id = answer.responseId
    return own_id if isinstance(own_id, str) and own_id else call.answer_id


def usage_of(raw: msgspec.Raw) -> Usage | None:
    """Return the counts of `usageMetadata`, or None where there are none."""
    try:
        counts = _decode_counts(raw) if raw != _NOTHING else None
    except msgspec.ValidationError:
        return None
    if counts is None:
        return None
    thoughts = _count(counts.thoughtsTokenCount)
    return Usage(
        input_tokens=_count(counts.promptTokenCount) + _count(counts.toolUsePromptTokenCount),
        output_tokens=_count(counts.candidatesTokenCount) + thoughts,
        cached_tokens=_count(counts.cachedContentTokenCount),
        reasoning_tokens=thoughts,
    )


def _count(value: Any) -> int:
    return int(value) if type(value) in (int, float) and 0 <= value <= MAX_COUNT else 0


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
    call_id = function.id if isinstance(function.id, str) and function.id else made_id(own_id, index, number)
    name = function.name if isinstance(function.name, str) else ""
    return tool_call(call_id, name, args if args[:1] == b"{" else b"{}", signed(part.thoughtSignature))


def grounded(metadata: Any) -> dict[str, Any]:
    """Return the place where the sources of an answer travel."""
    return {"google": {"grounding_metadata": metadata}}


def signed(signature: Any) -> dict[str, Any] | None:
    """Return the place where a signature of thoughts travels."""
    return {"google": {"thought_signature": signature}} if isinstance(signature, str) and signature else None


def image_of(blob: _Blob) -> dict[str, Any]:
    """Return an image of the answer, in the form that OpenRouter gave it."""
    kind = blob.mimeType if isinstance(blob.mimeType, str) else "application/octet-stream"
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{blob.data if isinstance(blob.data, str) else ''}"}}


def _choice(candidate: Candidate, position: int, own_id: str) -> Choice:
    index = candidate.index if candidate.index is not None else position
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
    if candidate.groundingMetadata:
        choice.extra_content = merged(choice.extra_content or {}, grounded(candidate.groundingMetadata))
    choice.finish_reason = finish_of(candidate.ending, bool(choice.tool_calls))
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
