"""Where one piece of a stream ends and the next begins, cheaply: the JSON texts of a stream, at any split.

`Events`: server-sent events. One whole event is the usual read of a stream in progress and is taken as it is; line feeds are cut
by `split`; the first carriage return elsewhere hands the stream to the full parser of `wire.sse` for good. Only payloads matter
here: who speaks so says in the JSON what it is. `Lines`: a document a line. `Elements`: the objects of one JSON array (or one
after the other) that trickles in. `Whole`: one document, whole at the end.
All are bounded: `feed` and `close` raise ProtocolFault for a piece above 16 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from routerd.errors import ProtocolFault
from routerd.wire.sse import MAX_EVENT_BYTES, SseParser

__all__ = ["Elements", "Events", "Framing", "Lines", "Whole"]

_CR = ord("\r")  # asked for as a number: looking for bytes inside of bytes costs six times as much
_MARKS = re.compile(rb'["\\{}\[\]]')


class Framing(Protocol):
    """The state of one stream."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what arrived; return the pieces that it completes. Raises ProtocolFault for one that is too large."""

    def close(self) -> Sequence[bytes]:
        """The bytes have ended; return the piece that nothing ended."""


class Events:
    """The payloads (data lines joined) of server-sent events; blank ones are none."""

    __slots__ = ("_parser", "_tail")

    def __init__(self) -> None:
        self._tail = bytearray()
        self._parser: SseParser | None = None

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what arrived; return the payloads of the events it completes."""
        if not self._tail:
            head = data[:7]
            at = 0 if head == b"data: {" else data.find(b"\n") + 1 or -1 if head == b"event: " else -1
            if at == 0 or (at > 0 and data[at : at + 7] == b"data: {"):
                end, parser = data.find(b"\n", at), self._parser
                rest = data[end:]
                if rest == b"\n\r\n":
                    end -= 1
                    one = data.find(b"\r", at) == end
                else:
                    one = rest == b"\n\n" and _CR not in data
                if one and (parser is None or parser.at_border):
                    return (data[at + 6 : end],)
        if self._parser is not None or _CR in data:
            return self._slowly(data)
        return self._cut(data)

    def close(self) -> Sequence[bytes]:
        """The bytes have ended: return the payload of an event that no blank line followed."""
        if self._parser is not None:
            return [event.data for event in self._parser.close() if event.data.strip()]
        tail, self._tail = bytes(self._tail), bytearray()
        return [payload] if (payload := _payload(tail)).strip() else []

    def _cut(self, data: bytes) -> Sequence[bytes]:
        tail = self._tail
        if tail:
            # Only the seam and what is new can hold a border: a long event in small pieces is searched once, and joined once.
            if data.find(b"\n\n") < 0 and not (tail.endswith(b"\n") and data.startswith(b"\n")):
                tail += data
                if len(tail) > MAX_EVENT_BYTES:
                    raise _too_large("an event")
                return ()
            data = bytes(tail) + data
        events = data.split(b"\n\n")
        self._tail = bytearray(events.pop())
        return [payload for event in events if (payload := _payload(event)).strip()]

    def _slowly(self, data: bytes) -> Sequence[bytes]:
        if self._parser is None:
            self._parser = SseParser()
            data, self._tail = bytes(self._tail) + data, bytearray()
        return [event.data for event in self._parser.feed(data) if event.data.strip()]


def _payload(event: bytes) -> bytes:
    """Return the payload of one event."""
    lines = event.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])


def _too_large(what: str) -> ProtocolFault:
    return ProtocolFault(f"the upstream sent {what} larger than {MAX_EVENT_BYTES} bytes")


class Lines:
    """Lines that are not blank; LF, CRLF and CR end them (no JSON text holds one of these raw)."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what arrived; return the lines that it ends."""
        if not self._tail and data.find(b"\n") == len(data) - 1 and _CR not in data and data[:1] == b"{":
            return (data,)  # the usual read is one line
        if _CR in data:
            data = data.replace(b"\r", b"\n")
        lines = data.split(b"\n")
        last = lines.pop()
        if lines:
            lines[0] = bytes(self._tail) + lines[0]
            self._tail = bytearray()
        self._tail += last
        if len(self._tail) > MAX_EVENT_BYTES:
            raise _too_large("a line")
        return [line for line in lines if line and not line.isspace()]

    def close(self) -> Sequence[bytes]:
        """The bytes have ended: return a last line without an end."""
        tail, self._tail = bytes(self._tail), bytearray()
        return [tail] if tail.strip() else []


class Elements:
    """The objects of a JSON array, or of a row of objects, each given out at its closing brace."""

    __slots__ = ("_depth", "_escaped_at", "_floor", "_held", "_in_string", "_read")

    def __init__(self) -> None:
        self._read = 0  # bytes so far
        self._held = bytearray()  # an object whose end has not come
        self._depth = 0
        self._floor = -1  # how deep the objects stand: in an array, or not; -1: nothing has come
        self._in_string = False
        self._escaped_at = -1  # where the character behind a backslash stands

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what arrived; return the objects that it ends."""
        found: list[bytes] = []
        start = 0 if self._held else -1
        for mark in _MARKS.finditer(data):
            at, char = self._read + mark.start(), mark[0]
            if self._in_string:
                self._inside(char, at)
            elif char == b'"':
                self._in_string = True
            elif char in (b"{", b"["):
                if self._floor < 0:
                    self._floor = int(char == b"[")
                if self._depth == self._floor:
                    start = mark.start()
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if self._depth == self._floor and start >= 0:
                    found.append(bytes(self._held) + data[start : mark.end()])
                    self._held.clear()
                    start = -1
        self._read += len(data)
        if start >= 0:
            self._held += data[start:]
            if len(self._held) > MAX_EVENT_BYTES:
                raise _too_large("an element")
        return found

    def _inside(self, char: bytes, at: int) -> None:
        if at != self._escaped_at:
            self._in_string = char != b'"'
            if char == b"\\":
                self._escaped_at = at + 1

    def close(self) -> Sequence[bytes]:
        """The bytes have ended: what is not whole is nothing."""
        return ()


class Whole:
    """One document, given out at the end."""

    __slots__ = ("_body",)

    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what arrived."""
        self._body += data
        if len(self._body) > MAX_EVENT_BYTES:
            raise _too_large("an answer")
        return ()

    def close(self) -> Sequence[bytes]:
        """The bytes have ended: return all of them."""
        return [bytes(self._body)] if self._body.strip() else []
