"""One attempt at one target: take or dial a connection, send, and wait for the answer or for the first content of a stream.

A kept-alive connection that turns out to have been closed before the request reached the upstream (delivery NOT_SENT on a used
connection) is replaced silently: nothing was processed, so it is no attempt. A fresh connection has no such excuse.
"""

from __future__ import annotations

import asyncio

from routerd.attempt.lane import Wire
from routerd.attempt.sink.collect import Collect
from routerd.attempt.sink.relay import Relay
from routerd.attempt.speech import Speaker, Speech
from routerd.errors import Delivery, UpstreamError
from routerd.graph import Timeouts
from routerd.messages import WireResponse
from routerd.upstream import Exchange
from routerd.wire.dialect import Encoded

__all__ = ["Cap", "fetch", "open_stream"]

Cap = tuple[str, float, float]  # phase name, moment (monotonic), length: the bound on the whole of it


async def fetch(wire: Wire, encoded: Encoded, request_id: str, cap: Cap, limit_bytes: int) -> WireResponse:
    """Return the whole answer, whatever its status. Raises UpstreamError where there is none. A cancel closes the connection."""
    timeouts = wire.target.timeouts
    head, rest = wire.message(encoded, False, request_id)
    while True:
        exchange, used = wire.take(encoded.path)
        if exchange is None:
            exchange, used = await _obtain(wire, timeouts, cap)
        sink = Collect(wire.loop.create_future(), exchange, timeouts, wire.ticker, cap, limit_bytes)
        exchange.send(head, sink, rest)
        try:
            return await sink.future
        except UpstreamError as exc:
            if not (used and exc.delivery is Delivery.NOT_SENT):
                raise
        except asyncio.CancelledError:
            sink.leave()
            raise


async def open_stream(wire: Wire, speech: Speech, speaker: Speaker, cap: Cap) -> Relay:
    """Return a relay whose first content has come. Raises UpstreamError, or Refused for another status than 200."""
    timeouts, dialect, client = wire.target.timeouts, speech.dialect, speech.client
    request = speaker.request
    head, rest = wire.message(speech.encoded, True, request.request_id)
    while True:
        exchange, used = wire.take(speech.encoded.path)
        if exchange is None:
            exchange, used = await _obtain(wire, timeouts, cap)
        if client is None:
            relay = Relay(exchange, dialect.scan(speech.call), timeouts, wire.ticker, cap, dialect.stream_types)
        else:
            scan = client.scan(dialect.scan(speech.call), request)
            relay = Relay(exchange, scan, timeouts, wire.ticker, cap, dialect.stream_types, client.own)
        exchange.send(head, relay, rest)
        try:
            await relay.ready
        except UpstreamError as exc:
            relay.finished.cancel()
            if relay.scan.malformed:
                speaker.count_malformed(wire.target.label, relay.scan.malformed)
            if not (used and exc.delivery is Delivery.NOT_SENT):
                raise
        except BaseException:  # cancelled, or Refused: either way nobody reads on
            relay.stop()
            raise
        else:
            return relay


async def _obtain(wire: Wire, timeouts: Timeouts, cap: Cap) -> tuple[Exchange, bool]:
    """Return a connection where none was idle, mostly a new one, and whether it was used before."""
    assert wire.pool is not None
    left_s = cap[1] - wire.loop.time()
    return await wire.pool.obtain(max(0.001, min(timeouts.connect_s, left_s)))
