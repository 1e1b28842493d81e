"""The scan of OpenAI's streams of named events: the Responses API and partial images.

Events go through one by one, re-framed with LF. Their `type` says what they are: some announce (no content yet: failing over is
still possible), some end the answer well, some are errors. There is no [DONE]; the bytes may end after an ending event.
Source of the names: OpenAI, API reference, "Streaming events" of Responses and of Images.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.openai.relay_scan import MAX_MALFORMED_RUN, StreamFault
from routerd.wire.openai.usage import read_usage
from routerd.wire.sse import Event, SseParser, encode

__all__ = ["EventScan"]

_ANNOUNCING = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDING = frozenset(
    {"response.completed", "response.incomplete", "response.cancelled", "image_generation.completed", "image_edit.completed"}
)
_FAILING = frozenset({"error", "response.failed"})


class _Body(msgspec.Struct):
    type: Any = None
    error: Any = None
    message: Any = None
    code: Any = None
    response: Any = None
    usage: Any = None


_decode = msgspec.json.Decoder(_Body).decode


class EventScan:
    """The state of one such stream."""

    __slots__ = ("_malformed_run", "_parser", "content", "done", "fault", "finished", "malformed", "usage")

    def __init__(self) -> None:
        self.content = False
        self.finished = False
        self.done = False
        self.usage: Usage | None = None
        self.fault: StreamFault | None = None
        self.malformed = 0
        self._malformed_run = 0
        self._parser = SseParser()

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the whole events that may be forwarded."""
        try:
            return self._take(self._parser.feed(data))
        except ProtocolFault as exc:
            self.fault = self.fault or StreamFault(exc.message)
            return b""

    def close(self) -> bytes:
        """Return what the parser still held."""
        return self._take(self._parser.close())

    def _take(self, events: list[Event]) -> bytes:
        return b"".join([encode(event) for event in events if self.fault is None and self._look(event)])

    def _look(self, event: Event) -> bool:
        """Note what the event says; False: it is not for the client."""
        if event.data == b"[DONE]":
            return True
        try:
            body = _decode(event.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            self._malformed_run += 1
            if self._malformed_run >= MAX_MALFORMED_RUN:
                self.fault = StreamFault("the upstream sent three malformed events in a row")
            return False
        self._malformed_run = 0
        kind = body.type if isinstance(body.type, str) else event.name
        inner = body.response if isinstance(body.response, dict) else {}
        if kind in _FAILING or (body.error and not isinstance(body.type, str)):
            error = body.error or inner.get("error") or {"message": body.message, "code": body.code}
            self.fault = StreamFault("the upstream's stream failed", error)
            return False
        if kind not in _ANNOUNCING:
            self.content = True
        if kind in _ENDING:
            self.finished = True
            self.usage = read_usage(inner.get("usage") or body.usage) or self.usage
        return True
