"""The unary answer of an OpenAI-style upstream: is it one, and what must routing know of it.

The body itself is forwarded as it came; only usage, model, finish and errors are decoded. A 200 may hold an error: at the top (in
several shapes), or in the first choice (OpenRouter). An answer without choices (or, for embeddings, data) is none; of the other
operations (responses, images, rerank ...) any JSON object without an error is one.
"""

from __future__ import annotations

import codecs
from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.faults.classify import Classified, classify_value
from routerd.wire.foreign import read_json
from routerd.wire.openai.usage import read_usage

__all__ = ["UnaryAnswer", "UpstreamFault", "decode_unary"]

UpstreamFault = Classified  # an error inside an answer of status 200


class UnaryAnswer(msgspec.Struct, kw_only=True):
    """What routing must know of a whole answer. With `error` set, nothing else counts."""

    usage: Usage | None = None
    response_model: str | None = None
    error: UpstreamFault | None = None
    finish_reason: str | None = None


class _Choice(msgspec.Struct):
    finish_reason: Any = None
    error: Any = None


class _Datum(msgspec.Struct):
    """One embedding, unread: a body of 2,048 vectors is not turned into floats."""


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    data: list[_Datum] | None = None
    error: Any = None
    usage: Any = None
    model: Any = None


_decode = msgspec.json.Decoder(_Body).decode


def decode_unary(body: bytes, operation: str) -> UnaryAnswer:
    """Decode the body of a 200. Raises ProtocolFault where it is empty, not JSON, or no answer to `operation`."""
    answer = _parse(body)
    if answer.error:
        return UnaryAnswer(error=classify_value(answer.error))
    if operation == "embedding":
        if not answer.data:
            raise ProtocolFault("the upstream's answer holds no embeddings")
        finish_reason = None
    elif operation not in ("chat", "completion"):
        finish_reason = None  # an object without an error is an answer
    else:
        if not answer.choices:
            raise ProtocolFault("the upstream's answer holds no choices")
        first = answer.choices[0]
        if first.error or first.finish_reason == "error":
            return UnaryAnswer(error=classify_value(first.error))
        finish_reason = first.finish_reason if isinstance(first.finish_reason, str) else None
    return UnaryAnswer(
        usage=read_usage(answer.usage),
        response_model=answer.model if isinstance(answer.model, str) else None,
        finish_reason=finish_reason,
    )


def _parse(body: bytes) -> _Body:
    if body.startswith(codecs.BOM_UTF8):
        body = body[3:]
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _parse_patiently(body)


def _parse_patiently(body: bytes) -> _Body:
    """The fast way refused it: find out why, or that it is JSON after all (half surrogate pairs, very large numbers)."""
    if not body.strip():
        raise ProtocolFault("the upstream answered 200 with an empty body")
    try:
        value = read_json(body)
    except ValueError:
        raise ProtocolFault("the upstream answered 200 with a body that is not JSON") from None
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("error"):
        value = value[0]
    if not isinstance(value, dict):
        raise ProtocolFault("the upstream answered 200 with JSON that is not an object")
    try:
        return msgspec.convert(value, _Body)
    except (msgspec.ValidationError, RecursionError):
        if value.get("error"):
            return _Body(error=value["error"])
        raise ProtocolFault("the upstream answered 200 with an object of another shape") from None
