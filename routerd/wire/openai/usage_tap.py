"""Reads the usage out of an answer that is passed on unread: a copy beside the way, bounded in size.

JSON up to 1 MiB is kept until its end; events are scanned as they pass. Anything else says nothing about tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from routerd.messages import Usage
from routerd.wire.foreign import read_json
from routerd.wire.openai.relay_scan import RelayScan
from routerd.wire.openai.usage import read_usage

__all__ = ["UsageTap"]

MAX_JSON_BYTES = 1024 * 1024


class UsageTap:
    """The copy of one answer."""

    __slots__ = ("_body", "_scan")

    def __init__(self, *, events: bool) -> None:
        self._scan = RelayScan(withhold_usage=False) if events else None
        self._body: bytearray | None = None if events else bytearray()

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> UsageTap | None:
        """Return the tap of an answer with these headers; None where nothing is to be learnt."""
        for name, value in headers:
            if name == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
                if kind in (b"application/json", b"text/event-stream"):
                    return cls(events=kind == b"text/event-stream")
        return None

    def feed(self, data: bytes) -> None:
        """Take what passes."""
        if self._scan is not None:
            self._scan.feed(data)
        elif self._body is not None:
            self._body += data
            if len(self._body) > MAX_JSON_BYTES:
                self._body = None

    def usage(self) -> Usage | None:
        """Return what the answer so far said."""
        if self._scan is not None:
            return self._scan.usage
        if not self._body:
            return None
        try:
            value = read_json(bytes(self._body))
        except ValueError:
            return None
        return read_usage(value.get("usage")) if isinstance(value, dict) else None
