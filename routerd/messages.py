"""What travels through the packages: the client's request, the wire request and answer, the record of an attempt.

Per-request objects are not frozen and never shared between requests. They are of msgspec, made in C: 0.12 us, where a dataclass
with slots costs 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from routerd.trace import Trace


class Usage(msgspec.Struct, kw_only=True):
    """Tokens of one answer as the engine reported them (`estimated`: as routerd had to guess)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input plus output; cached and reasoning tokens are parts of these two."""
        return self.input_tokens + self.output_tokens


class ModelRequest(msgspec.Struct, kw_only=True):
    """One request of a client, parsed to its top level only: values stay raw JSON until somebody needs them.

    `body` maps every top-level key to its raw JSON (`msgspec.Raw`) or to a Python value that replaces it; encoding copies the raw
    parts byte for byte, so that what no rule touches reaches the upstream exactly as the client wrote it.
    """

    operation: str  # chat, completion, embedding, response ...: the words of `offers` in a preset
    path: str  # the endpoint below /v1: chat/completions, responses, images/generations ...
    model: str
    body: dict[str, Any]
    stream: bool = False
    wants_usage: bool = False  # the client itself asked for stream_options.include_usage
    size_bytes: int = 0
    client: str = ""
    request_id: str = ""
    arrived_at_s: float = 0.0
    trace: Trace | None = None  # what the client is part of, or what is recorded
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    put_back: Callable[[bytes], bytes] | None = None  # puts large values, set aside by `parse`, into the encoded body again
    native: Mapping[str, Any] | None = None  # the client's own fields where it spoke another API, for a target that speaks it too
    dropped: tuple[str, ...] = ()  # and what of them `body` has no word for


class WireResponse(msgspec.Struct, kw_only=True):
    """The whole unary answer of an upstream. Header names are lower-case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of header `name` (lower-case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class AttemptRecord(msgspec.Struct, kw_only=True):
    """One try at one target. `result` is `ok` or an ErrorType; it is what clients, logs and metrics are told."""

    number: int  # from 1
    target: str  # Target.label: bounded, from the configuration
    provider: str
    endpoint: str
    model: str  # the upstream model that was asked for
    result: str = "ok"
    reason: str = ""  # the ErrorKind, or empty
    status: int | None = None
    after_s: float = 0.0  # from the request's arrival to the begin of this attempt
    duration_s: float = 0.0
    message: str = ""
    response_model: str | None = None  # as the upstream called it in a whole answer; foreign text


Handle = tuple[int, ...]  # what a take of one charge left behind: what the numbers mean is the counters' business


class Taken(NamedTuple):
    """The answer of the counters: a handle for each charge when all were taken; else the index of who refused."""

    handles: Sequence[Handle]
    refused: int = -1  # index of the charge that refuses longest; -1: all were taken
    retry_after_s: float = 0.0  # then a take of the same amounts succeeds if nobody else comes; inf: it never will
    used: tuple[int, ...] = ()  # what is used of each charge now, with this take if it was one
    over: tuple[int, ...] = ()  # indices of the charges in shadow mode that would have refused


# How an endpoint stands, best first: what a plan sorts by. A plan drops nobody but the drained.
FREE, FULL, COOLING, OPEN, DOWN, DRAINED = range(6)
RANKS = ("free", "full", "cooling", "open", "down", "drained")


class Standing(NamedTuple):
    """What is known against an endpoint. The shares are of the requests; what is beyond them stands further back."""

    rank: int = FREE
    open_share: float = 1.0  # half-open breaker: for this share `rank` holds, for the rest it is OPEN
    slow_share: float = 1.0  # slow start: this share goes there as to its equals, for the rest it is the last of its group
