"""Server-sent events, as the specification says and as providers deviate: bytes in, events out, any split gives the same events.

Line ends are LF, CRLF (Gemini) or CR; data lines of one event are joined by LF; one space behind the colon is dropped; comments,
`id`, `retry` and unknown fields are ignored; a BOM and leading blank lines are skipped. Unlike the specification, an event that
no blank line follows is given out at the end of the stream (HuggingFace and killed engines end so). An event larger than the
limit is a ProtocolFault, raised behind the events before it. Data stays bytes: an event is always whole, so UTF-8 is never cut.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from routerd.errors import ProtocolFault

__all__ = ["MAX_EVENT_BYTES", "Event", "SseParser", "encode"]

MAX_EVENT_BYTES = 16 * 1024 * 1024  # a 12 MB image as base64 in one event

_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `name` is empty where the stream gave none."""

    name: str
    data: bytes


class SseParser:
    """The state of one stream. After a ProtocolFault every call raises it again."""

    __slots__ = ("_at_start", "_data", "_events", "_fault", "_line", "_max_event_bytes", "_name", "_size", "_skip_lf")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # a line whose end has not come
        self._data: list[bytes] = []  # the data lines of the event so far
        self._size = 0  # and their bytes
        self._name = ""
        self._skip_lf = False  # the last byte was a CR: a LF behind it ends nothing
        self._at_start = True
        self._events: list[Event] = []
        self._fault: ProtocolFault | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Take what arrived; return the events it completes. Raises ProtocolFault for one that is too large."""
        if self._fault is not None:
            raise self._fault
        if self._skip_lf and data:
            data = data.removeprefix(b"\n")
            self._skip_lf = False
        if b"\r" in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        for line in lines:
            if not self._take(line):
                return self._given()
        self._line += last
        self._fits(len(self._line))
        return self._given()

    def close(self) -> list[Event]:
        """The stream is at its end: return the event that no blank line followed, if there is one."""
        if self._fault is not None:
            raise self._fault
        line = bytes(self._line)
        self._line.clear()
        if line:
            self._take(line)
        if self._fault is None:
            self._dispatch()
        return self._given()

    @property
    def at_border(self) -> bool:
        """Whether the next byte begins an event: nothing of one is held."""
        return not (self._line or self._data or self._name)

    def _given(self) -> list[Event]:
        events, self._events = self._events, []
        if self._fault is not None and not events:
            raise self._fault
        return events

    def _fits(self, line_bytes: int) -> bool:
        if self._size + line_bytes > self._max_event_bytes:
            self._fault = ProtocolFault(f"the upstream sent an event larger than {self._max_event_bytes} bytes")
            self._line.clear()
            self._data.clear()
        return self._fault is None

    def _take(self, line: bytes) -> bool:
        """Take one whole line; return whether the stream is still good."""
        if not self._fits(len(line)):
            return False
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line:
            self._dispatch()
            return True
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return True  # a comment has an empty field name

    def _dispatch(self) -> None:
        if self._data:
            self._events.append(Event(self._name, b"\n".join(self._data)))
            self._data.clear()
            self._size = 0
        self._name = ""


def encode(event: Event) -> bytes:
    """Return the event as it goes over the wire, line ends in its data as further data lines."""
    lines = [b"data: " + line for line in _LINE_END.split(event.data)]
    if event.name:
        name = " ".join(event.name.splitlines())
        lines.insert(0, b"event: " + name.encode("utf-8", "replace"))
    return b"\n".join(lines) + b"\n\n"
