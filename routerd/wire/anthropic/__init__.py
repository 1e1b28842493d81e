"""The Anthropic dialect: OpenAI chat to the Messages API and back, and the Messages API as a second language of our own clients.

Outbound: `request` (with `prompt`, `tools`, `models`), `answer`, `stream`. Facts shared by both directions: `tokens`, `frames`.
Sans-I/O; what reads foreign bytes raises BadRequest (a client's) or ProtocolFault (an upstream's), or sets a scan's fault.
The endpoint's headers (`x-api-key`, `anthropic-version: 2023-06-01`) are the preset's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.answer import UnaryAnswer
from routerd.wire.anthropic.answer import decode
from routerd.wire.anthropic.request import encode
from routerd.wire.anthropic.stream import MessagesScan
from routerd.wire.dialect import Call, Encoded, Scan

__all__ = ["AnthropicDialect", "MessagesScan"]


class AnthropicDialect:
    """What a Claude speaks: chat only. The path is `v1/messages`, below an endpoint's URL without `/v1`."""

    __slots__ = ()

    name = "anthropic"
    operations = frozenset({"chat"})
    stream_types: tuple[bytes, ...] = (b"text/event-stream",)

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode an OpenAI chat body. Raises BadRequest naming the `param`."""
        return encode(body, call)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Return the chat completion for the client, and what routing must know. Raises ProtocolFault."""
        return decode(body, call)

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
        return MessagesScan(call)
