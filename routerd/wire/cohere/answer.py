"""Cohere's answers: the records that whole answers and stream events share, and whole answers as OpenAI's.

Thoughts are `reasoning_content`; the plan of a turn that calls tools is its text, as of every model that speaks before it calls;
citations stand beside the text, as they came. `usage.tokens` counts all of the prompt, `billed_units` what is paid for; cached
tokens are inside. An answer that ended with ERROR or TIMEOUT is a failure, though the status was 200.
Source: github.com/cohere-ai/cohere-python (types, read as of 2026-08-19); recordings.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.faults.classify import classify_value
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.translation.compose import Choice, answer_body, made_id, text_of
from routerd.wire.translation.read import REFUSED, read_patiently

__all__ = ["Content", "Function", "ToolCall", "Usages", "decode_answer", "failure_of", "finish_of", "logprobs_of", "usage_of"]

_NOTHING = msgspec.Raw(b"")
MAX_COUNT = 10**12  # above any context ever served

_FINISHES = {
    "MAX_TOKENS": "length", "ERROR_LIMIT": "length", "TOOL_CALL": "tool_calls", "ERROR_TOXIC": "content_filter",
}  # fmt: skip
_FAILURES = frozenset({"ERROR", "TIMEOUT"})


class Content(msgspec.Struct, gc=False):
    """A block of the message: text or a thought."""

    text: msgspec.Raw = _NOTHING
    thinking: msgspec.Raw = _NOTHING


class Function(msgspec.Struct, gc=False):
    """What is called; `arguments` is a JSON string."""

    name: Any = None
    arguments: msgspec.Raw = _NOTHING


class ToolCall(msgspec.Struct, gc=False):
    """A call, or a piece of one."""

    id: Any = None
    function: Function | None = None


class _Tokens(msgspec.Struct, gc=False):
    input_tokens: Any = None
    output_tokens: Any = None


class Usages(msgspec.Struct, gc=False):
    """`usage`."""

    tokens: _Tokens | None = None
    billed_units: _Tokens | None = None
    cached_tokens: Any = None


class _Message(msgspec.Struct, gc=False):
    content: list[Content] | None = None
    tool_plan: msgspec.Raw = _NOTHING
    tool_calls: list[ToolCall] | None = None
    citations: Any = None


class _Answer(msgspec.Struct, gc=False):
    """A whole answer. An error has text in the place of the message."""

    id: Any = None
    message: _Message | str | None = None
    finish_reason: Any = None
    usage: Usages | None = None
    logprobs: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def _read(body: bytes) -> _Answer | None:
    try:
        return _decode(body)
    except REFUSED:
        return read_patiently(body, _decode, lambda error: _Answer(error=error))


def decode_answer(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's body and what routing must know. Raises ProtocolFault for what is no answer."""
    if not body.strip():
        raise ProtocolFault("the upstream answered 200 with an empty body")
    answer = _read(body)
    if answer is None:
        raise ProtocolFault("the upstream answered 200 with a body that is no answer of Cohere")
    message = answer.message
    failure = answer.error or (message if isinstance(message, str) else failure_of(answer.finish_reason, None))
    if failure:
        return body, UnaryAnswer(error=classify_value(failure))
    if not isinstance(message, _Message):
        raise ProtocolFault("the upstream's answer holds no message")
    own_id = answer.id if isinstance(answer.id, str) and answer.id else call.answer_id
    choice = Choice(logprobs=logprobs_of(answer.logprobs))
    for raw, into in [
        (message.tool_plan, choice.texts),
        *((block.thinking, choice.thoughts) for block in message.content or ()),
        *((block.text, choice.texts) for block in message.content or ()),
    ]:
        if bytes(memoryview(raw)[:1]) == b'"' and (text := text_of(raw)):
            into.append(text)
    choice.tool_calls = [_call(called, own_id, i) for i, called in enumerate(message.tool_calls or ())]
    if isinstance(message.citations, list) and message.citations:
        choice.citations = message.citations
    choice.finish_reason = finish_of(answer.finish_reason, bool(choice.tool_calls))
    usage = usage_of(answer.usage)
    out = answer_body(call, answer_id=own_id, created_unix_s=call.created_unix_s, choices=[choice], usage=usage)
    return out, UnaryAnswer(usage=usage, finish_reason=choice.finish_reason)


def _call(called: ToolCall, own_id: str, number: int) -> dict[str, Any]:
    function = called.function or Function()
    arguments = text_of(function.arguments) if bytes(memoryview(function.arguments)[:1]) == b'"' else ""
    return {
        "id": called.id if isinstance(called.id, str) and called.id else made_id(own_id, number),
        "type": "function",
        "function": {"name": function.name if isinstance(function.name, str) else "", "arguments": arguments.strip() or "{}"},
    }


def failure_of(reason: Any, error: Any) -> Any:
    """Return what went wrong where an answer ended so: the error that it tells, or its reason in words; else None."""
    if not isinstance(reason, str) or reason not in _FAILURES:
        return None
    return error or ("the generation timed out" if reason == "TIMEOUT" else "the generation failed")


def finish_of(reason: Any, called: bool) -> str:
    """Return OpenAI's finish_reason."""
    known = _FINISHES.get(reason) if isinstance(reason, str) else None
    return known or ("tool_calls" if called else "stop")


def usage_of(counts: Usages | None) -> Usage | None:
    """Return the counts, or None where there are none."""
    tokens = (counts.tokens or counts.billed_units) if counts is not None else None
    if counts is None or tokens is None:
        return None
    return Usage(
        input_tokens=_count(tokens.input_tokens),
        output_tokens=_count(tokens.output_tokens),
        cached_tokens=_count(counts.cached_tokens),
    )


def _count(value: Any) -> int:
    return int(value) if type(value) in (int, float) and 0 <= value <= MAX_COUNT else 0


def logprobs_of(entries: Any) -> dict[str, Any] | None:
    """Return log probabilities as OpenAI's, one entry a piece of text: its probability is the product of its tokens'."""
    given = entries if isinstance(entries, list) else [entries]
    content = [_logprob(entry) for entry in given if isinstance(entry, dict)]
    return {"content": content, "refusal": None} if content else None


def _logprob(entry: dict[str, Any]) -> dict[str, Any]:
    text, values = entry.get("text"), entry.get("logprobs")
    token = text if isinstance(text, str) else ""
    numbers = [value for value in values if type(value) in (int, float)] if isinstance(values, list) else []
    return {"token": token, "logprob": sum(numbers), "bytes": list(token.encode("utf-8", "replace")), "top_logprobs": []}
