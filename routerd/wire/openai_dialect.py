"""The OpenAI dialect as a target: nearly nothing to do, since routerd's own words are OpenAI's.

The request is encoded with what no rule touched byte for byte; answers and streams are forwarded as they came and only looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.wire.answer import UnaryAnswer, decode_unary
from routerd.wire.dialect import Call, Encoded
from routerd.wire.openai import encode_body
from routerd.wire.relay_scan import RelayScan

__all__ = ["OpenAIDialect"]


class OpenAIDialect:
    """Whatever speaks OpenAI's API: vendors, engines, gateways, and the built-in simulator."""

    __slots__ = ()

    name = "openai"
    operations = frozenset({"chat", "completion", "embedding"})
    stream_types: tuple[bytes, ...] = ()  # engines forget the right one

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode for this target; a stream's usage is always asked for."""
        return Encoded(
            path=call.path, body=encode_body(body, model=call.model, extra=call.extra, include_usage=call.stream)
        )

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Look at a whole answer and return it as it came."""
        return body, decode_unary(body, call.operation)

    def scan(self, call: Call) -> RelayScan:
        """Return the scan that forwards events as they come."""
        return RelayScan(withhold_usage=not call.wants_usage)
