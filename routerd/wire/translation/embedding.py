"""Embeddings between OpenAI and dialects that have their own: the inputs of a request, and the list of an answer.

Inputs are texts: tokens belong to one provider's tokenizer. Vectors are copied as raw JSON, never turned into floats; they are
arrays also where base64 was asked for, which is named (OpenAI's SDK asks for base64 by itself, and takes arrays).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from routerd.errors import BadRequest
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.translation.pivot import dump, read_fields, unknown

__all__ = ["Inputs", "embeddings_body", "read_inputs"]

_WORDS = frozenset({"input", "dimensions", "encoding_format"})


class _Request(msgspec.Struct):
    input: str | list[str]
    dimensions: int | None = None
    encoding_format: str | None = None


class Inputs(msgspec.Struct):
    """What is to be embedded."""

    texts: list[str]
    dimensions: int | None
    dropped: tuple[str, ...]


def read_inputs(body: Mapping[str, Any]) -> Inputs:
    """Read a request for embeddings. Raises BadRequest for tokens, and for what has the wrong type."""
    request = read_fields(body, _WORDS, _decode)
    texts = [request.input] if isinstance(request.input, str) else request.input
    if not texts:
        raise BadRequest("`input` must not be empty.", param="input")
    dropped = unknown(body, _WORDS)
    if request.encoding_format not in (None, "float"):
        dropped.append("encoding_format")
    return Inputs(texts=texts, dimensions=request.dimensions, dropped=tuple(dropped))


_decode = msgspec.json.Decoder(_Request).decode


def embeddings_body(call: Call, vectors: Sequence[msgspec.Raw], usage: Usage | None) -> bytes:
    """Return OpenAI's list of embeddings."""
    tokens = usage.input_tokens if usage is not None else 0
    return dump(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
            "model": call.asked_model or call.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
