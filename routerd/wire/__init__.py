"""Bytes <-> meaning, per provider dialect. Sans-I/O: no sockets, no clock, no logging; bytes in, facts or bytes out.

One module a dialect (`openai`, `simulator`), and what all dialects share: `answer` (unary bodies), `sse` (stream framing),
`usage` (token counts), `classify` (status + body -> error kind), `ratelimit` (when to come back). A new dialect adds a module
with the same three functions as `openai`: parse, prepare, encode.
"""

from routerd.wire.openai import apply_params, encode_body, parse_request, prepare_body

__all__ = ["apply_params", "encode_body", "parse_request", "prepare_body"]
