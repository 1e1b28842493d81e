"""The Ollama dialect as attempts use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.apart import encode_apart
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.ollama.answer import decode_answer
from routerd.wire.ollama.embed import decode_embeddings, encode_embeddings
from routerd.wire.ollama.request import encode_chat
from routerd.wire.ollama.stream import OllamaScan
from routerd.wire.openai.answer import UnaryAnswer

__all__ = ["OllamaDialect"]


class OllamaDialect:
    """Ollama's native API; see wire.dialect.Dialect. The stream's type is not sent by every proxy before it."""

    __slots__ = ()

    name = "ollama"
    operations = frozenset({"chat", "completion", "embedding"})
    stream_types: tuple[bytes, ...] = (b"application/x-ndjson", b"application/json")

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode an OpenAI body. Raises BadRequest naming the `param`."""
        return encode_embeddings(body, call) if call.operation == "embedding" else encode_apart(encode_chat, body, call)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Decode a whole answer. Raises ProtocolFault."""
        return decode_embeddings(body, call) if call.operation == "embedding" else decode_answer(body, call)

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
        return OllamaScan(call)
