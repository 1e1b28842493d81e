"""The Anthropic dialect: OpenAI chat to the Messages API and back, and the Messages API as a second language of our own clients.

Outbound: `request` (with `prompt`, `tools`, `models`), `answer`, `stream`. Inbound: `inbound` (the request as an OpenAI body),
`encoder` (answers and streams back), `native` (the same client at an Anthropic target: as it came), `client` (which of the two),
`errors`. Shared: `tokens`, `frames`.
Sans-I/O; what reads foreign bytes raises BadRequest (a client's) or ProtocolFault (an upstream's), or sets a scan's fault.
The endpoint's headers (`x-api-key`, `anthropic-version: 2023-06-01`) are the preset's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.anthropic.answer import decode
from routerd.wire.anthropic.client import MessagesClient
from routerd.wire.anthropic.encoder import MessagesEncoder, answer_to_messages
from routerd.wire.anthropic.errors import error_body, error_event
from routerd.wire.anthropic.inbound import parse_messages
from routerd.wire.anthropic.native import (
    NativeMessages,
    NativeScan,
    apply_native_params,
    decode_native,
    encode_native,
    prepare_native,
)
from routerd.wire.anthropic.request import encode
from routerd.wire.anthropic.stream import MessagesScan
from routerd.wire.apart import encode_apart
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.openai.answer import UnaryAnswer

__all__ = [
    "AnthropicDialect",
    "MessagesClient",
    "MessagesEncoder",
    "MessagesScan",
    "NativeMessages",
    "NativeScan",
    "answer_to_messages",
    "apply_native_params",
    "decode_native",
    "encode_native",
    "error_body",
    "error_event",
    "parse_messages",
    "prepare_native",
]


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
