"""The seam between a client's own dialect and routerd's words, OpenAI's chat.

None stands for OpenAI's chat, completions and every unary answer of OpenAI's shape: nothing is to be said differently. A client
dialect turns whole answers, streams, errors and routerd's own events into what its SDK expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from routerd.graph import Params, SystemPrompt
from routerd.messages import ModelRequest
from routerd.wire.dialect import Dialect, Scan
from routerd.wire.openai.body import parse_request
from routerd.wire.openai.relay_scan import DONE

__all__ = ["ClientDialect", "ResponsesClient", "own_error"]


class ClientDialect(Protocol):
    """How one kind of client wants to be answered. Stateless."""

    name: str

    def parse(self, body: bytes, operation: str, path: str) -> ModelRequest:
        """Parse a client's body into OpenAI's form. Raises BadRequest."""

    def passes(self, dialect: Dialect, operation: str) -> Dialect | None:
        """Return the dialect that passes this client's requests on as they came, where a target speaks its own; else None."""

    def native(self, request: ModelRequest, system_prompt: SystemPrompt | None, params: Sequence[Params]) -> Mapping[str, Any]:
        """Return the body for that dialect: the client's own, with the edits of the route and the target, in this order."""

    def answer(self, body: bytes, request: ModelRequest) -> bytes:
        """Say a whole OpenAI answer."""

    def scan(self, scan: Scan, request: ModelRequest) -> Scan:
        """Wrap a scan of OpenAI events; what it returns is for the client."""

    def own(self, scan: Scan, events: bytes) -> bytes:
        """Say an event of routerd's own: `data: [DONE]` or the error event that ends a broken stream."""

    def error(self, status: int, error: Mapping[str, Any], request_id: str) -> bytes:
        """Say an error; `error` is OpenAI's error object."""


def own_error(events: bytes) -> dict[str, Any]:
    """Return the error object of routerd's own error event."""
    found: dict[str, Any] = msgspec.json.decode(events.partition(b"data: ")[2])["error"]
    return found


class ResponsesClient:
    """OpenAI's Responses API and partial images: answers and errors as ever, streams of named events without a [DONE]."""

    name = "responses"

    def parse(self, body: bytes, operation: str, path: str) -> ModelRequest:
        """Parse it as every request of OpenAI's."""
        return parse_request(body, operation, path)

    def passes(self, dialect: Dialect, operation: str) -> Dialect | None:
        """None: OpenAI's form is routerd's own."""
        return None

    def native(self, request: ModelRequest, system_prompt: SystemPrompt | None, params: Sequence[Params]) -> Mapping[str, Any]:
        """The body as it is; never asked for."""
        return request.body

    def answer(self, body: bytes, request: ModelRequest) -> bytes:
        """Nothing to say differently."""
        return body

    def scan(self, scan: Scan, request: ModelRequest) -> Scan:
        """The same."""
        return scan

    def own(self, scan: Scan, events: bytes) -> bytes:
        """An `error` event: OpenAI, API reference, Streaming events, `error`."""
        if events == DONE:
            return b""
        error = own_error(events)
        event = {"type": "error", "code": error["code"], "message": error["message"], "param": None, "sequence_number": 0}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"

    def error(self, status: int, error: Mapping[str, Any], request_id: str) -> bytes:
        """As in all of OpenAI's API."""
        return msgspec.json.encode({"error": error})
