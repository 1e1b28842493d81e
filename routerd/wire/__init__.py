"""Bytes <-> meaning, per provider dialect. Sans-I/O: no sockets, no clock, no logging; bytes in, facts or bytes out.

One package a dialect (`openai`, `anthropic`, `gemini`, `ollama`, `cohere`, `template`) behind the seam of `dialect` and named in
the table of `dialects`; `client` is the same seam on the client's side. What they share: `sse` and `framing` (where a piece of a
stream ends), `faults` (status + body -> error kind, when to come back), `translation` (between OpenAI's form and others),
`foreign` (JSON that others wrote). Beside them: `form` (uploads), `listing` (what control reads from providers), `simulator`.
What reads foreign bytes raises BadRequest (a client's) or ProtocolFault (an upstream's), and nothing else.
"""

from routerd.wire.dialect import Call, Dialect, Encoded, Scan
from routerd.wire.dialects import make_dialect
from routerd.wire.faults.classify import Classified, classify, classify_value, fault_error
from routerd.wire.faults.ratelimit import reset_seconds, retry_after_s
from routerd.wire.openai.answer import UnaryAnswer, UpstreamFault, decode_unary
from routerd.wire.openai.body import apply_params, encode_body, parse_request, prepare_body
from routerd.wire.openai.usage import read_usage
from routerd.wire.simulator import reply
from routerd.wire.sse import Event, SseParser, encode

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
