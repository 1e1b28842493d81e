"""Embeddings of Cohere's API, `v2/embed`.

`input_type` is required, and OpenAI's form has no word for it: a client may send it all the same, or the provider's `body` sets
it; else texts are documents to be searched in. Source: docs.cohere.com/reference/embed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call, Encoded
from routerd.wire.faults.classify import classify_value
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.translation.embedding import embeddings_body, read_inputs
from routerd.wire.translation.pivot import dump, merged
from routerd.wire.translation.read import REFUSED

__all__ = ["decode_embeddings", "encode_embeddings"]

_OWN = ("input_type", "truncate", "max_tokens", "priority")


class _Vectors(msgspec.Struct):
    float: list[msgspec.Raw] | None = None


class _Units(msgspec.Struct):
    input_tokens: Any = None


class _Meta(msgspec.Struct):
    billed_units: _Units | None = None


class _Answer(msgspec.Struct):
    embeddings: _Vectors | None = None
    meta: _Meta | None = None
    error: Any = None
    message: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def encode_embeddings(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode a request for embeddings. Raises BadRequest for inputs that are no texts."""
    own = {key: body[key] for key in _OWN if body.get(key) is not None}
    inputs = read_inputs({key: value for key, value in body.items() if key not in _OWN})
    out: dict[str, Any] = {"model": call.model, "texts": inputs.texts, "input_type": "search_document"}
    out["embedding_types"] = ["float"]
    if inputs.dimensions is not None:
        out["output_dimension"] = inputs.dimensions
    return Encoded(path="v2/embed", body=dump(merged({**out, **own}, call.extra)), dropped=inputs.dropped)


def decode_embeddings(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's list. Raises ProtocolFault for what is no answer."""
    try:
        answer = _decode(body)
    except REFUSED:
        raise ProtocolFault("the upstream answered 200 with a body that holds no embeddings") from None
    vectors = (answer.embeddings.float if answer.embeddings is not None else None) or []
    failure = answer.error or (None if vectors else answer.message)
    if failure:
        return body, UnaryAnswer(error=classify_value(failure))
    if not vectors or any(memoryview(vector)[:1].tobytes() != b"[" for vector in vectors):
        raise ProtocolFault("the upstream's answer holds no embeddings")
    units = answer.meta.billed_units if answer.meta is not None else None
    count: Any = units.input_tokens if units is not None else None
    usage = Usage(input_tokens=int(count)) if type(count) in (int, float) and 0 <= count < 10**12 else None
    return embeddings_body(call, vectors, usage), UnaryAnswer(usage=usage)
