"""Where one event ends and the next begins, cheaply: the payloads of a stream of server-sent events, at any split.

Line feeds are cut by `split`; the first carriage return in a stream hands it over to the full parser of `wire.sse` for good.
Only payloads and the name of an event that has no JSON type of its own matter here: comments, ids and blank events give nothing.
"""

from __future__ import annotations

from routerd.errors import ProtocolFault
from routerd.wire.sse import MAX_EVENT_BYTES, SseParser

__all__ = ["Frames"]


class Frames:
    """The state of one stream. `cut` and `close` raise ProtocolFault for an event above 16 MiB."""

    __slots__ = ("_parser", "_tail")

    def __init__(self) -> None:
        self._tail = bytearray()
        self._parser: SseParser | None = None

    @property
    def between_events(self) -> bool:
        """Tell whether nothing is held, so that a read that begins an event may be taken as it is."""
        return not self._tail and self._parser is None

    def cut(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the payloads (data lines joined) of the events it completes."""
        if self._parser is not None or b"\r" in data:
            return self._slowly(data)
        tail = self._tail
        if tail:
            # Only the seam and what is new can hold a border: a long event in small pieces is searched once, and joined once.
            if b"\n\n" not in data and not (tail.endswith(b"\n") and data.startswith(b"\n")):
                tail += data
                if len(tail) > MAX_EVENT_BYTES:
                    raise ProtocolFault(f"the upstream sent an event larger than {MAX_EVENT_BYTES} bytes")
                return []
            data = bytes(tail) + data
        events = data.split(b"\n\n")
        self._tail = bytearray(events.pop())
        return [payload for event in events if (payload := _payload(event))]

    def close(self) -> list[bytes]:
        """The bytes have ended: return the payload of an event that no blank line followed."""
        if self._parser is not None:
            return [event.data for event in self._parser.close()]
        tail, self._tail = bytes(self._tail), bytearray()
        return [payload] if (payload := _payload(tail)) else []

    def _slowly(self, data: bytes) -> list[bytes]:
        if self._parser is None:
            self._parser = SseParser()
            data, self._tail = bytes(self._tail) + data, bytearray()
        return [event.data for event in self._parser.feed(data)]


def _payload(event: bytes) -> bytes:
    """Return the payload of one event, without its name: both dialects say in the JSON what it is."""
    at = event.find(b"\ndata: ") if event.startswith(b"event: ") else -1
    if at >= 0 and event.find(b"\n", at + 1) < 0:
        return event[at + 7 :] if event.find(b"\n") == at else _joined(event)
    return _joined(event)


def _joined(event: bytes) -> bytes:
    lines = event.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
