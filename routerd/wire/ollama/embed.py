"""Ollama's embeddings: `/api/embed`. Inputs longer than the context are cut, unless the provider's `body` says `truncate: false`.

Source: docs.ollama.com/api/embed.
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

__all__ = ["decode_embeddings", "encode_embeddings"]


class _Answer(msgspec.Struct):
    embeddings: list[msgspec.Raw] | None = None
    prompt_eval_count: int | None = None
    model: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def encode_embeddings(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode a request for embeddings. Raises BadRequest for inputs that are no texts."""
    inputs = read_inputs(body)
    out: dict[str, Any] = {"model": call.model, "input": inputs.texts}
    if inputs.dimensions is not None:
        out["dimensions"] = inputs.dimensions
    return Encoded(path="api/embed", body=dump(merged(out, call.extra)), dropped=inputs.dropped)


def decode_embeddings(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return OpenAI's list. Raises ProtocolFault for what is no answer."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolFault("the upstream answered 200 with a body that holds no embeddings") from None
    if answer.error:
        return body, UnaryAnswer(error=classify_value(answer.error))
    vectors = answer.embeddings or []
    if not vectors or any(memoryview(vector)[:1].tobytes() != b"[" for vector in vectors):
        raise ProtocolFault("the upstream's answer holds no embeddings")
    count = answer.prompt_eval_count
    usage = Usage(input_tokens=count) if count is not None and count >= 0 else None
    return embeddings_body(call, vectors, usage), UnaryAnswer(usage=usage, response_model=answer.model)
