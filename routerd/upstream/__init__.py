"""The only package that opens connections for requests: a lean HTTP/1.1 client on asyncio transports.

Model: an `Upstreams` owns one `Pool` for each place (scheme, host, port, and the bounds of the pool); a pool keeps idle
`Connection`s; a connection carries one exchange at a time and pushes what arrives into a `Sink`, in the transport's own callback.
Nobody waits for a chunk.
Compilation: none; a pool is made at first use and kept over reloads, so an unrelated edit opens no connection.
Runtime: `take()` an idle connection or `await obtain()` one, then `send(bytes, sink)`; exactly one of `on_end` and `on_fail`
is called, last; from then on the connection may be another's. Errors of sockets, TLS and the HTTP parser become `UpstreamError`
in `faults`, and nowhere else.
Cost and concurrency: single-threaded on the event loop; a unary exchange costs one read callback and no task.
"""

from routerd.upstream.connection import OVER, Connection, Exchange, Headers, Sink
from routerd.upstream.faults import protocol_fault, timeout_fault
from routerd.upstream.inbox import SMALL_BYTES, Inbox, openings
from routerd.upstream.outbox import Outbox
from routerd.upstream.pool import Origin, Place, Pool, Upstreams
from routerd.upstream.simulated import SimulatedExchange

__all__ = [
    "OVER",
    "SMALL_BYTES",
    "Connection",
    "Exchange",
    "Headers",
    "Inbox",
    "Origin",
    "Outbox",
    "Place",
    "Pool",
    "SimulatedExchange",
    "Sink",
    "Upstreams",
    "openings",
    "protocol_fault",
    "timeout_fault",
]
