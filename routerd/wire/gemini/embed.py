"""Embeddings of the Gemini API: `batchEmbedContents`, one request a text. The answer counts no tokens on older models.

The provider's own `body` fields are those of generateContent, and are not sent here.
Source: ai.google.dev/api/embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call, Encoded
from routerd.wire.faults.classify import classify_value
from routerd.wire.gemini.request import resource
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.translation.embedding import embeddings_body, read_inputs
from routerd.wire.translation.pivot import dump

__all__ = ["decode_embeddings", "encode_embeddings"]


class _Vector(msgspec.Struct):
    values: msgspec.Raw = msgspec.Raw(b"")


class _Counts(msgspec.Struct):
    promptTokenCount: int | None = None


class _Answer(msgspec.Struct):
    embeddings: list[_Vector] | None = None
    usageMetadata: _Counts | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def encode_embeddings(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode a request for embeddings. Raises BadRequest for inputs that are no texts."""
    inputs = read_inputs(body)
    path = resource(call.model)
    size = {} if inputs.dimensions is None else {"outputDimensionality": inputs.dimensions}
    requests = [{"model": path, "content": {"parts": [{"text": text}]}, **size} for text in inputs.texts]
    return Encoded(path=f"{path}:batchEmbedContents", body=dump({"requests": requests}), dropped=inputs.dropped)


def decode_embeddings(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's list. Raises ProtocolFault for what is no answer."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolFault("the upstream answered 200 with a body that holds no embeddings") from None
    if answer.error:
        return body, UnaryAnswer(error=classify_value(answer.error))
    vectors = [vector.values for vector in answer.embeddings or ()]
    if not vectors or any(memoryview(vector)[:1].tobytes() != b"[" for vector in vectors):
        raise ProtocolFault("the upstream's answer holds no embeddings")
    counts = answer.usageMetadata
    usage = Usage(input_tokens=max(0, counts.promptTokenCount)) if counts is not None and counts.promptTokenCount else None
    return embeddings_body(call, vectors, usage), UnaryAnswer(usage=usage)
