"""Bytes <-> meaning, per provider dialect. Sans-I/O: no sockets, no clock, no logging; bytes in, facts or bytes out.

One module or package a dialect, behind the seam of `dialect` and named in the table of `dialects`; and what all dialects share:
`answer` (unary bodies), `sse` (stream framing), `relay_scan` (streams forwarded as they came), `usage` (token counts),
`errorbody` and `classify` (status + body -> error kind), `ratelimit` (when to come back), `foreign` (JSON that others wrote).
What reads foreign bytes raises BadRequest (a client's) or ProtocolFault (an upstream's), and nothing else.
"""

from routerd.wire.answer import UnaryAnswer, UpstreamFault, decode_unary
from routerd.wire.classify import Classified, classify, classify_value, fault_error
from routerd.wire.dialect import Call, Dialect, Encoded, Scan
from routerd.wire.dialects import make_dialect
from routerd.wire.openai import apply_params, encode_body, parse_request, prepare_body
from routerd.wire.ratelimit import reset_seconds, retry_after_s
from routerd.wire.simulator import reply
from routerd.wire.sse import Event, SseParser, encode
from routerd.wire.usage import read_usage

__all__ = [
    "Call",
    "Classified",
    "Dialect",
    "Encoded",
    "Event",
    "Scan",
    "SseParser",
    "UnaryAnswer",
    "UpstreamFault",
    "apply_params",
    "classify",
    "classify_value",
    "decode_unary",
    "encode",
    "encode_body",
    "fault_error",
    "make_dialect",
    "parse_request",
    "prepare_body",
    "read_usage",
    "reply",
    "reset_seconds",
    "retry_after_s",
]
