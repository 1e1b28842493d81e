"""The Gemini dialect as attempts use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.apart import encode_apart
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.gemini.answer import decode_answer
from routerd.wire.gemini.embed import decode_embeddings, encode_embeddings
from routerd.wire.gemini.request import encode_chat
from routerd.wire.gemini.stream import GeminiScan
from routerd.wire.openai.answer import UnaryAnswer

__all__ = ["GeminiDialect"]


class GeminiDialect:
    """Gemini's native API; see wire.dialect.Dialect."""

    __slots__ = ()

    name = "gemini"
    operations = frozenset({"chat", "completion", "embedding"})
    stream_types: tuple[bytes, ...] = (b"text/event-stream", b"application/json")

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode an OpenAI body. Raises BadRequest naming the `param`."""
        return encode_embeddings(body, call) if call.operation == "embedding" else encode_apart(encode_chat, body, call)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Decode a whole answer. Raises ProtocolFault."""
        return decode_embeddings(body, call) if call.operation == "embedding" else decode_answer(body, call)

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
        return GeminiScan(call)
