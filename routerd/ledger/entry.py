"""One request as the ledger keeps it, and batches of them as they travel from a worker to control.

A batch stays encoded until it is written: what waits for a database that is away costs its own bytes and no object. Text that no
database takes (NUL, half a surrogate pair: a client may put them in a request id or a model name) is replaced, never refused: one
such entry must not keep all others from being written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

__all__ = ["MOST", "Batch", "Entry", "decode", "encode"]

MOST = (1 << 62) - 1  # of any number: a column of 64 bits holds it


class Entry(NamedTuple):
    """One request. Tokens are as the engine said them, or `estimated`; the cost is in nano-dollars (1e-9 USD)."""

    at_ms: int  # when it arrived, Unix time
    request_id: str
    client: str
    route: str
    provider: str  # of the target that answered, else of the last one tried; empty: none was
    model: str  # there
    operation: str
    outcome: str  # as in routerd_requests_total
    status: int
    error_type: str
    stream: int
    attempts: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated: int
    cost_nano_usd: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive entries of one run, the first of them number `first`."""

    run: str
    first: int
    count: int
    data: bytes


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[tuple[str | int, ...]]).decode


def encode(entries: Sequence[Entry]) -> bytes:
    """Encode entries."""
    try:
        return _encode(entries)
    except UnicodeEncodeError:
        return _encode([[_clean(value) for value in entry] for entry in entries])


def decode(data: bytes) -> list[tuple[str | int, ...]]:
    """Return the entries, each with the values of Entry in order, as any database takes them."""
    entries = _decode(data)
    if b"\\u0000" in data:  # a NUL in JSON; what merely looks like one is looked at in vain
        return [tuple([_clean(value) for value in entry]) for entry in entries]
    return entries


def _clean(value: str | int) -> str | int:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return value
