"""The client's side: how whoever called `/v1/messages` is answered, whatever the target spoke.

Over a target that speaks Anthropic (`native`) answers and streams are its own and pass; over any other they are OpenAI's and are
said anew (`encoder`). Which of the two is seen from the scan and from the body; nothing is to be switched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from routerd.graph import Params, SystemPrompt
from routerd.messages import ModelRequest, Usage
from routerd.wire.anthropic.inbound.encoder import MessagesEncoder, answer_to_messages
from routerd.wire.anthropic.inbound.errors import error_body, error_event
from routerd.wire.anthropic.inbound.native import NativeMessages, NativeScan, apply_native_params, prepare_counted, prepare_native
from routerd.wire.anthropic.inbound.request import parse_count, parse_messages
from routerd.wire.apart import LARGE_BYTES, set_aside
from routerd.wire.client import own_error
from routerd.wire.dialect import Dialect, Scan
from routerd.wire.openai.relay_scan import DONE, StreamFault

__all__ = ["EncodingScan", "MessagesClient"]

_NATIVE = NativeMessages()
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class EncodingScan:
    """A scan whose events are said in Anthropic's words. The facts are those of the scan inside."""

    __slots__ = ("_inner", "content", "done", "encoder", "fault", "finished", "malformed", "model")

    def __init__(self, inner: Scan, asked_model: str) -> None:
        self._inner = inner
        self.encoder = MessagesEncoder(asked_model)
        self.content = False
        self.finished = False
        self.done = False
        self.fault: StreamFault | None = None
        self.malformed = 0

    @property
    def usage(self) -> Usage | None:
        """What the scan inside was told."""
        return self._inner.usage

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the events that may be forwarded now."""
        out = self._inner.feed(data)
        said = self.encoder.feed(out) if out else b""
        self._note()
        return said

    def close(self) -> bytes:
        """The upstream's bytes have ended; return what was still held. The end itself is said by `own` or was said."""
        out = self._inner.close()
        said = self.encoder.feed(out) if out else b""
        self._note()
        return said

    def _note(self) -> None:
        inner = self._inner
        self.content = inner.content
        self.finished = inner.finished
        self.done = inner.done
        self.malformed = inner.malformed
        if self.fault is None:
            self.fault = StreamFault(self.encoder.broken) if self.encoder.broken else inner.fault


class MessagesClient:
    """A client of the Messages API (Anthropic's SDKs, Claude Code)."""

    name = "messages"

    def parse(self, body: bytes, operation: str, path: str) -> ModelRequest:
        """Parse a request; what only a target of this API can answer (count_tokens) keeps its operation and path."""
        found = set_aside([memoryview(body)]) if len(body) > LARGE_BYTES else None
        small = body if found is None else found[0][0]
        request = parse_messages(small) if operation == "chat" else parse_count(small, operation, path)
        if found is not None:
            request.size_bytes = len(body)
            request.put_back = found[1].put_back
        return request

    def passes(self, dialect: Dialect, operation: str) -> Dialect | None:
        """Return what leaves the words alone for an Anthropic target, or for one that has this operation besides its own API."""
        foreign = operation != "chat" and operation in dialect.operations
        return _NATIVE if dialect.name == "anthropic" or foreign else None

    def native(self, request: ModelRequest, system_prompt: SystemPrompt | None, params: Sequence[Params]) -> Mapping[str, Any]:
        """Return the client's own fields with the edits of the route and the target. Raises BadRequest."""
        assert request.native is not None
        first, *rest = params
        if request.operation != "chat":  # no answer, so no parameters: only what is counted
            return prepare_counted(request.native, system_prompt)
        body = prepare_native(request.native, system_prompt, first)
        for more in rest:
            body = apply_native_params(body, more)
        return body

    def answer(self, body: bytes, request: ModelRequest) -> bytes:
        """Say a whole answer. Raises ProtocolFault."""
        return answer_to_messages(body, request.model)

    def scan(self, scan: Scan, request: ModelRequest) -> Scan:
        """Say the stream of `scan`."""
        return scan if isinstance(scan, NativeScan) else EncodingScan(scan, request.model)

    def own(self, scan: Scan, events: bytes) -> bytes:
        """Say the end of a stream that had a finish but no end mark, or the error that ends a broken one."""
        if events == DONE:
            return scan.encoder.finish() if isinstance(scan, EncodingScan) else _STOP
        error = own_error(events)
        return error_event(str(error.get("type")), str(error.get("message")), _more(error))

    def error(self, status: int, error: Mapping[str, Any], request_id: str) -> bytes:
        """Say an error; `error` is OpenAI's error object."""
        return error_body(status, str(error.get("type")), str(error.get("message")), request_id, _more(error))


def _more(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Anthropic's shape has no place for and its SDKs pass on: routerd's code, the attempts."""
    return {key: value for key, value in error.items() if key not in ("type", "message") and value is not None}
