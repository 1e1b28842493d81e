"""Errors in Anthropic's shape, for clients that speak its API (Anthropic, API reference, Errors)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.wire.faults.classify import classify_value

__all__ = ["error_body", "error_event", "type_of_event", "type_of_status"]

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TYPES = frozenset(_BY_STATUS.values()) | {"api_error"}

_encode = msgspec.json.encode


def type_of_status(status: int) -> str:
    """Return the error type that goes with a status."""
    return _BY_STATUS.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error")


def error_body(status: int, type: str, message: str, request_id: str = "", extra: Mapping[str, Any] | None = None) -> bytes:
    """Return the body of an error answer. A `type` that is none of Anthropic's, or says only 4xx, gives way to the status's."""
    named = type in _TYPES and type != "invalid_request_error"  # OpenAI has this one for 404 and 413, too
    error = {"type": type if named else type_of_status(status), "message": message, **(extra or {})}
    return _encode({"type": "error", "error": error, "request_id": request_id or None})


def error_event(type: str, message: str, extra: Mapping[str, Any] | None = None) -> bytes:
    """Return the event that ends a broken stream."""
    error = {"type": type if type in _TYPES else "api_error", "message": message, **(extra or {})}
    return b"event: error\ndata: " + _encode({"type": "error", "error": error}) + b"\n\n"


def type_of_event(error: Any) -> tuple[str, str]:
    """Return type and message of an error object of any provider, fit for a client."""
    found = classify_value(error)
    named = found.type or ""
    return (named if named in _TYPES else type_of_status(found.status or 500)), found.message or "the upstream reported an error"
