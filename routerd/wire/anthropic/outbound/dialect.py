"""The Anthropic dialect as attempts use it: OpenAI chat at a target that speaks the Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.anthropic.outbound.answer import decode
from routerd.wire.anthropic.outbound.request import encode
from routerd.wire.anthropic.outbound.stream import MessagesScan
from routerd.wire.apart import encode_apart
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.openai.answer import UnaryAnswer

__all__ = ["AnthropicDialect"]


class AnthropicDialect:
    """What a Claude speaks: chat only. The path is `v1/messages`, below an endpoint's URL without `/v1`."""

    __slots__ = ()

    name = "anthropic"
    operations = frozenset({"chat"})
    stream_types: tuple[bytes, ...] = (b"text/event-stream",)

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode an OpenAI chat body. Raises BadRequest naming the `param`."""
        return encode_apart(encode, body, call)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Return the chat completion for the client, and what routing must know. Raises ProtocolFault."""
        return decode(body, call)

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
        return MessagesScan(call)
