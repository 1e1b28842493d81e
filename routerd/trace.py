"""One request in a distributed trace: where it came from, what its attempts tell upstreams, and its spans as OTLP bytes.

W3C Trace Context (w3.org/TR/trace-context): `traceparent` is version-trace-parent-flags in hexadecimal; one that is malformed is
as none. Without a tracer what the client sent goes to the upstream as it came. With one the request has a span of its own, and
each attempt the span whose id is the request's with the attempt's number mixed in, so that nothing is kept an attempt.
Spans are encoded by hand: seven messages of opentelemetry/proto/trace/v1/trace.proto need no library, and a worker stays small.
No attribute holds a prompt, an answer, a key or what an upstream said.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

__all__ = ["CLIENT", "SERVER", "Span", "Trace", "export_request", "passed_on", "traced"]

SERVER, CLIENT = 2, 3  # SpanKind
MOST_STATE_CHARS = 512  # what a vendor should be able to hand on (section 3.3.1.5)
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Trace:
    """The trace of one request. `span_id` 0: nothing is recorded, the client's context is handed on as it is."""

    __slots__ = ("_given", "flags", "parent_id", "span_id", "state", "trace_id")

    def __init__(self, given: Mapping[str, str], ids: tuple[int, int, int], flags: int, state: str) -> None:
        self._given = given
        self.trace_id, self.parent_id, self.span_id = ids
        self.flags = flags
        self.state = state

    def fields(self, attempt: int) -> Mapping[str, str]:
        """Return the header fields that attempt number `attempt` (from 1) carries to its upstream."""
        if not self.span_id:
            return self._given
        told = {"traceparent": f"00-{self.trace_id:032x}-{self.attempt_id(attempt):016x}-{self.flags:02x}"}
        if self.state:
            told["tracestate"] = self.state
        return told

    def attempt_id(self, attempt: int) -> int:
        """Return the id of an attempt's span: the request's with the number mixed into its upper bits."""
        return self.span_id ^ (attempt << 48) or 1


def passed_on(parent: str | None, state: str | None) -> Trace | None:
    """Return the client's context, to be handed on as it is; None where it has none."""
    found = _PARENT.fullmatch(parent or "")
    if found is None or parent is None:
        return None
    kept = _state(state)
    return Trace({"traceparent": parent, **({"tracestate": kept} if kept else {})}, (int(found[2], 16), 0, 0), 0, kept)


def traced(parent: str | None, state: str | None, rng: Random) -> Trace | None:
    """Return the context of a request that is recorded: a child of the client's, or the first span of a trace of its own.

    A client that sampled its trace out (flag 0) is heard: its context is handed on, nothing is recorded.
    """
    found = _PARENT.fullmatch(parent or "")
    if found is None:
        return Trace({}, (rng.getrandbits(128) or 1, 0, rng.getrandbits(64) or 1), 1, "")
    flags = int(found[4], 16)
    if not flags & 1:
        return passed_on(parent, state)
    return Trace({}, (int(found[2], 16), int(found[3], 16), rng.getrandbits(64) or 1), 1, _state(state))


def _state(state: str | None) -> str:
    """Return a tracestate that may stand in a header, else nothing: it is never cut."""
    if state is None or len(state) > MOST_STATE_CHARS or not (state.isascii() and state.isprintable()):
        return ""
    return state.strip()


@dataclass(slots=True, kw_only=True)
class Span:
    """One span, finished. Attributes that are None or empty are left out."""

    trace: Trace
    span_id: int
    parent_id: int
    name: str
    kind: int
    start_unix_s: float
    end_unix_s: float
    attributes: Mapping[str, Any]
    failed: bool = False

    def encoded(self) -> bytes:
        """Return the message `Span`."""
        start_ns, end_ns = int(self.start_unix_s * 1e9), int(max(self.start_unix_s, self.end_unix_s) * 1e9)
        parts = [
            _field(1, self.trace.trace_id.to_bytes(16, "big")),
            _field(2, self.span_id.to_bytes(8, "big")),
            _field(3, self.trace.state.encode()) if self.trace.state else b"",
            _field(4, self.parent_id.to_bytes(8, "big")) if self.parent_id else b"",
            _field(5, self.name.encode("utf-8", "replace")),
            b"\x30%c" % self.kind,
            b"\x39" + struct.pack("<Q", start_ns),
            b"\x41" + struct.pack("<Q", end_ns),
            *(_field(9, _pair(key, value)) for key, value in self.attributes.items() if value not in (None, "")),
            _field(15, b"\x18\x02") if self.failed else b"",
            b"\x85\x01" + struct.pack("<I", self.trace.flags),
        ]
        return b"".join(parts)


def export_request(resource: Mapping[str, Any], scope: tuple[str, str], spans: Iterable[bytes]) -> bytes:
    """Return `ExportTraceServiceRequest`: encoded spans of one process, by one library (name, version)."""
    about = b"".join(_field(1, _pair(key, value)) for key, value in resource.items())
    library = _field(1, scope[0].encode()) + _field(2, scope[1].encode())
    scoped = _field(1, library) + b"".join(_field(2, span) for span in spans)
    return _field(1, _field(1, about) + _field(2, scoped))


def _pair(key: str, value: Any) -> bytes:
    return _key(key) + _field(2, _any(value))


@lru_cache(maxsize=256)  # names of attributes: there are some thirty
def _key(key: str) -> bytes:
    return _field(1, key.encode("utf-8", "replace"))


def _any(value: Any) -> bytes:
    """Return `AnyValue`: text, truth, whole and other numbers."""
    if isinstance(value, str):
        return _field(1, value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    raise TypeError(f"{type(value).__name__} cannot be the value of an attribute")


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field (protobuf.dev/programming-guides/encoding); its number is below 16."""
    if len(data) < 0x80:
        return bytes((number << 3 | 2, len(data))) + data
    return bytes((number << 3 | 2,)) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
