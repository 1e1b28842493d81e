"""Errors and header fields -> HTTP, in one place: OpenAI's error shape, CORS, request id, what routerd did.

Nothing here may hold a secret, a prompt or an upstream's URL. Names from the configuration may hold any printable character;
header values are made safe here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from routerd.errors import AttemptsExhausted, ErrorKind, RequestError, UpstreamError
from routerd.graph import Cors
from routerd.messages import AttemptRecord
from routerd.server.http.protocol import Reply

__all__ = ["attempts_text", "cors_fields", "error_reply", "exhausted_reply", "preflight", "safe"]

JSON_FIELD = "content-type: application/json\r\n"
EVENT_STREAM_FIELDS = "content-type: text/event-stream\r\ncache-control: no-cache\r\n"
_EXPOSED = (
    "x-request-id, retry-after, x-should-retry, x-routerd-generation, x-routerd-route, x-routerd-target, x-routerd-attempts, "
    "x-routerd-dropped, x-routerd-error-source, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_CONTROLS = dict.fromkeys([*range(0x20), 0x7F], "?")

# What the client sees when every target failed and the upstream's own status says nothing to a client of ours.
_STATUS_OF_KIND: Mapping[ErrorKind, tuple[int, str]] = {
    ErrorKind.CONNECT: (502, "upstream_connect"),
    ErrorKind.TLS: (502, "upstream_tls"),
    ErrorKind.TIMEOUT: (504, "upstream_timeout"),
    ErrorKind.AUTH: (502, "upstream_auth"),
    ErrorKind.CREDITS: (502, "upstream_credits"),
    ErrorKind.MODEL_MISSING: (502, "upstream_model_missing"),
    ErrorKind.PROTOCOL: (502, "upstream_protocol"),
    ErrorKind.STREAM_ERROR: (502, "upstream_stream_error"),
    ErrorKind.STREAM_CUT: (502, "upstream_protocol"),
    ErrorKind.COLD: (503, "upstream_cold"),
}
_PASSED_STATUSES = frozenset({408, 409, 425, 429})  # SDKs retry on these as on 5xx
_PASSED_ON = frozenset({ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_LENGTH})
_UPSTREAM_SOURCE = "x-routerd-error-source: upstream\r\n"
_ROUTERD_SOURCE = "x-routerd-error-source: routerd\r\n"


def safe(value: str) -> str:
    """Return `value` fit for a header: no controls; what latin-1 lacks becomes `?` when it is encoded."""
    return value if value.isascii() and value.isprintable() else value.translate(_CONTROLS)


def cors_fields(cors: Cors, origin: str | None) -> str:
    """Return the CORS fields of an answer, on errors as on everything else; none for an origin that is not allowed."""
    if not cors.origins:
        return ""
    if "*" in cors.origins:
        return f"access-control-allow-origin: *\r\naccess-control-expose-headers: {_EXPOSED}\r\n"
    if origin is None or origin not in cors.origins:
        return "vary: origin\r\n"
    return f"access-control-allow-origin: {safe(origin)}\r\naccess-control-expose-headers: {_EXPOSED}\r\nvary: origin\r\n"


def preflight(cors: Cors, request: web.BaseRequest, fields: str) -> Reply:
    """Answer an OPTIONS request: the methods and headers a browser may use, when its origin is allowed."""
    origin = request.headers.get("origin")
    if cors.origins and ("*" in cors.origins or origin in cors.origins):
        asked = request.headers.get("access-control-request-headers") or "authorization, content-type"
        fields += (
            "access-control-allow-methods: GET, POST, OPTIONS\r\n"
            f"access-control-allow-headers: {safe(asked[:2048])}\r\naccess-control-max-age: 600\r\n"
        )
    return Reply(204, fields)


def attempts_text(records: Sequence[AttemptRecord]) -> str:
    """Return `gpu-a:connect/2ms,openrouter:ok`: each attempt's endpoint, why it failed, and how long that took."""
    return ",".join([f"{record.endpoint}:{_how(record)}" for record in records])


def error_reply(error: RequestError, fields: str) -> Reply:
    """Render a refusal of routerd's own."""
    body = {"error": {"message": error.message, "type": error.type, "code": error.code, "param": error.param}}
    fields += JSON_FIELD + _ROUTERD_SOURCE + _retry_fields(error.retry_after_s)
    fields += "".join(f"{name}: {safe(value)}\r\n" for name, value in error.headers.items())
    return Reply(error.status, fields, msgspec.json.encode(body), keep_alive=error.status not in (408, 413))


def exhausted_reply(failure: AttemptsExhausted, fields: str) -> Reply:
    """Render the failure of all attempts; `x-should-retry: false` keeps SDKs from multiplying what was tried already."""
    last = failure.last
    status, error = _exhausted_error(last)
    error["attempts"] = [_attempt(record) for record in failure.attempts]
    source = _UPSTREAM_SOURCE if last.status is not None else _ROUTERD_SOURCE
    fields += JSON_FIELD + source + _retry_fields(last.retry_after_s)
    if status >= 500 or status == 429:
        fields += "x-should-retry: false\r\n"
    return Reply(status, fields, msgspec.json.encode({"error": error}))


def _exhausted_error(last: UpstreamError) -> tuple[int, dict[str, Any]]:
    if last.kind in _PASSED_ON:
        status = 400 if last.kind is ErrorKind.CONTEXT_LENGTH else last.status or 400
        return status, _upstream_error(last)
    if last.kind is ErrorKind.MODEL_MISSING and last.named_by_client:
        return 404, {"message": last.message, "type": "invalid_request_error", "code": "model_not_found", "param": "model"}
    fixed = _STATUS_OF_KIND.get(last.kind)
    if fixed is not None:
        return fixed[0], {"message": last.message, "type": "upstream_error", "code": fixed[1], "param": None}
    status = last.status if last.status is not None and (last.status in _PASSED_STATUSES or last.status >= 500) else 502
    kind = "rate_limit_error" if last.kind is ErrorKind.RATE_LIMITED else "server_error"
    if last.kind is ErrorKind.RATE_LIMITED:
        status = 429
    return status, {"message": last.message, "type": kind, "code": str(last.error_type), "param": None}


def _upstream_error(last: UpstreamError) -> dict[str, Any]:
    """Return the upstream's own error object where it is one of OpenAI's shape; else its message in that shape."""
    found: dict[str, Any] = {}
    try:
        parsed = msgspec.json.decode(last.body or b"")
        if isinstance(parsed, dict):
            inner = parsed.get("error")
            found = dict(inner) if isinstance(inner, dict) else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    found.setdefault("message", last.message)
    if not isinstance(found.get("type"), str):
        found["type"] = "invalid_request_error"
    if last.kind is ErrorKind.CONTEXT_LENGTH:
        found["code"] = "context_length_exceeded"
    found.setdefault("code", None)
    found.setdefault("param", None)
    return found


def _attempt(record: AttemptRecord) -> dict[str, Any]:
    out: dict[str, Any] = {
        "number": record.number,
        "target": f"{record.provider}/{record.model}",
        "endpoint": record.endpoint,
        "result": record.result,
        "duration_ms": _ms(record),
    }
    if record.status is not None:
        out["status"] = record.status
    if record.message:
        out["message"] = record.message
    return out


def _retry_fields(retry_after_s: float | None) -> str:
    if retry_after_s is None or retry_after_s <= 0:
        return ""
    # Whole seconds, rounded up (RFC 9110 section 10.2.3), and OpenAI's own header for the fraction.
    return f"retry-after: {math.ceil(retry_after_s)}\r\nretry-after-ms: {math.ceil(retry_after_s * 1000)}\r\n"


def _how(record: AttemptRecord) -> str:
    return "ok" if record.result == "ok" else f"{record.reason or record.result}/{_ms(record)}ms"


def _ms(record: AttemptRecord) -> int:
    return round(record.duration_s * 1000)
