"""The OpenAI dialect as a target: nearly nothing to do, since routerd's own words are OpenAI's.

The request is encoded with what no rule touched byte for byte, after the provider's quirks, to the path that it offers; answers
and streams are forwarded as they came and only looked at, but for answers of a provider that `quirks` say deviates in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.graph import Provider
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.openai.answer import UnaryAnswer, decode_unary
from routerd.wire.openai.body import choices_of, encode_body
from routerd.wire.openai.event_scan import EventScan
from routerd.wire.openai.mended import AnswerQuirks, MendedScan
from routerd.wire.openai.quirks import RequestQuirks
from routerd.wire.openai.relay_scan import RelayScan

__all__ = ["OpenAIDialect"]

_OPERATIONS = frozenset({"chat", "completion", "embedding", "response", "image", "moderation", "rerank", "tokenize"})
_FOREIGN = frozenset({"count_tokens"})  # of another API, which some engines speak besides: only where the provider offers it
_CHUNKED = frozenset({"chat", "completion"})  # streams of `choices`, with `stream_options`


class OpenAIDialect:
    """Whatever speaks OpenAI's API: vendors, engines, gateways, and the built-in simulator."""

    __slots__ = ("_mends", "_paths", "_quirks", "operations")

    name = "openai"
    stream_types: tuple[bytes, ...] = ()  # engines forget the right one

    def __init__(self, provider: Provider) -> None:
        self._paths = provider.offers
        self.operations = _OPERATIONS | (_FOREIGN & provider.offers.keys())
        self._quirks = RequestQuirks.of(provider)
        self._mends = AnswerQuirks.of(provider.quirks)

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode for this target; the usage of a chat's stream is asked for wherever that is no error."""
        asks = call.stream and call.operation in _CHUNKED
        path = self._paths.get(call.operation, call.path) if self._paths else call.path
        dropped: tuple[str, ...] = ()
        if self._quirks is not None:
            body, dropped = self._quirks.apply(body, call.operation)
            asks = asks and self._quirks.asks_usage
        if "n" in body:
            call.choices = choices_of(body)
        encoded = encode_body(body, model=call.model, extra=call.extra, include_usage=asks)
        return Encoded(path=path, body=encoded, dropped=dropped)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Look at a whole answer and return it as it came, but for the provider's quirks."""
        if self._mends is not None and call.operation == "chat":
            body = self._mends.body(body)
        return body, decode_unary(body, call.operation)

    def scan(self, call: Call) -> Scan:
        """Return the scan that forwards events as they come."""
        if self._mends is not None and call.operation == "chat":
            return MendedScan(self._mends, withhold_usage=not call.wants_usage, choices=call.choices)
        if call.operation in _CHUNKED:
            return RelayScan(withhold_usage=not call.wants_usage, choices=call.choices)
        return EventScan()
