"""A request in the words of one target: which dialect, what it is asked, and whether the answer must be said anew for the client.

Two cases, in the order of the code:
1. the client speaks the target's own dialect and that is not routerd's (Messages at Anthropic): passed on as it came, but for the
   edits of the route and the target;
2. everything else goes through routerd's form, OpenAI's, into the target's dialect; a client dialect then says the answer anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from routerd.attempt.lane import Wire
from routerd.errors import BadRequest, Delivery, ErrorKind, UpstreamError
from routerd.graph import Route
from routerd.messages import ModelRequest
from routerd.plan import Planned
from routerd.wire.client import ClientDialect
from routerd.wire.dialect import Call, Dialect, Encoded
from routerd.wire.openai.body import apply_params

__all__ = ["Inexpressible", "Speaker", "Speech", "say"]


class Inexpressible(Exception):
    """Internal to `attempt`: this target's dialect has no words for the request; another's may have. Carries the refusal."""

    def __init__(self, refusal: BadRequest) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Speaker(Protocol):
    """Whose request it is, and how he wants to be answered (None: in OpenAI's words)."""

    @property
    def request(self) -> ModelRequest: ...

    @property
    def client_dialect(self) -> ClientDialect | None: ...

    def count_malformed(self, target: str, events: int) -> None:
        """Count events that a stream left out."""


class Speech(msgspec.Struct):
    """What goes out, and through what the answer comes back. `client` None: nothing is to be said anew."""

    dialect: Dialect
    call: Call
    encoded: Encoded
    client: ClientDialect | None


def say(
    speaker: Speaker, body: Mapping[str, Any], route: Route, wire: Wire, planned: Planned, now_unix_s: float
) -> Speech:
    """Put a request into the words of one target.

    Raises BadRequest where a parameter is unreadable, Inexpressible where the dialect has no words for the request, UpstreamError
    where it lacks the operation.
    """
    request, client = speaker.request, speaker.client_dialect
    call = Call(
        operation=request.operation,
        path=request.path,
        model=planned.model,
        stream=request.stream,
        wants_usage=request.wants_usage,
        asked_model=request.model,
        answer_id=request.request_id,
        created_unix_s=int(now_unix_s),
        extra=wire.extra,
    )
    params = planned.target.params
    own = client.passes(wire.dialect, call.operation) if client is not None and request.native is not None else None
    if own is not None and client is not None:
        call.fields = request.headers
        native = client.native(request, route.system_prompt, (route.params, params) if params else (route.params,))
        return Speech(own, call, _whole(own.encode(native, call), request), None if request.operation != "chat" else client)
    if call.operation not in wire.dialect.operations:
        message = f"{wire.dialect.name} has no {request.path}"
        raise UpstreamError(ErrorKind.MODEL_MISSING, message, delivery=Delivery.NOT_SENT, status=404)
    edited = apply_params(body, params) if params else body
    try:
        encoded = wire.dialect.encode(edited, call)
    except BadRequest as exc:
        raise Inexpressible(exc) from exc
    if request.dropped:
        encoded.dropped = (*request.dropped, *encoded.dropped)
    return Speech(wire.dialect, call, _whole(encoded, request), client)


def _whole(encoded: Encoded, request: ModelRequest) -> Encoded:
    if request.put_back is not None:
        encoded.body = request.put_back(encoded.body)
    return encoded
