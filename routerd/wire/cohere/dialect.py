"""The Cohere dialect as attempts use it. A rerank is Cohere's own invention: its form is what clients send already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.apart import encode_apart
from routerd.wire.cohere.answer import decode_answer
from routerd.wire.cohere.embed import decode_embeddings, encode_embeddings
from routerd.wire.cohere.request import encode_chat
from routerd.wire.cohere.stream import CohereScan
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.openai.answer import UnaryAnswer, decode_unary
from routerd.wire.openai.body import encode_body

__all__ = ["CohereDialect"]


class CohereDialect:
    """Cohere's native API; see wire.dialect.Dialect."""

    __slots__ = ()

    name = "cohere"
    operations = frozenset({"chat", "completion", "embedding", "rerank"})
    stream_types: tuple[bytes, ...] = (b"text/event-stream",)

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode an OpenAI body. Raises BadRequest naming the `param`."""
        if call.operation == "embedding":
            return encode_embeddings(body, call)
        if call.operation == "rerank":
            encoded = encode_body(body, model=call.model, extra=call.extra, include_usage=False)
            return Encoded(path="v2/rerank", body=encoded)
        return encode_apart(encode_chat, body, call)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Decode a whole answer. Raises ProtocolFault."""
        if call.operation == "embedding":
            return decode_embeddings(body, call)
        if call.operation == "rerank":
            return body, decode_unary(body, call.operation)
        return decode_answer(body, call)

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
        return CohereScan(call)
