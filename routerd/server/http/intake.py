"""The client's bytes: who sent them, which id they carry, and the body, bounded in size and in time.

A body that is there already (the usual case) is taken without waiting. A slow one must keep moving and must come to an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from hmac import compare_digest
from typing import cast

from aiohttp import web
from aiohttp.hdrs import AUTHORIZATION, CONTENT_TYPE
from aiohttp.http_exceptions import HttpProcessingError
from multidict import istr

from routerd.errors import BadRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from routerd.graph import Client
from routerd.policy import ClientIndex
from routerd.server.http.plain import taken
from routerd.server.http.protocol import ClientProtocol, Proven

__all__ = ["BODY_IDLE_S", "client_of", "expect_continue", "json_body", "key_of", "next_piece", "request_id_of"]

BODY_IDLE_S = 30.0  # between two reads of a body; nginx's client_body_timeout is 60 s
BODY_TOTAL_S = 300.0  # a 32 MiB body at 1 Mbit/s takes 268 s
MAX_ID_CHARS = 128
_REQUEST_ID = istr("X-Request-Id")  # folded once, not at every look


def key_of(request: web.BaseRequest) -> str | None:
    """Return the client's API key: a bearer token, or the `x-api-key` or `api-key` header of other SDKs."""
    headers = request.headers
    value = headers.get(AUTHORIZATION)
    if value is not None:
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    return headers.get("X-Api-Key") or headers.get("Api-Key")


def client_of(request: web.BaseRequest, clients: ClientIndex) -> Client | None:
    """Return who calls; None where anybody may. Raises Unauthorized.

    Whoever sends on one connection the same key again is the same: a comparison in constant time in place of a digest.
    """
    key, protocol = key_of(request), cast(ClientProtocol, request.protocol)
    proven = protocol.proven
    if proven is not None and proven.clients is clients and key and key.isascii() and compare_digest(proven.key, key):
        return proven.client
    client = clients.authenticate(key)
    if key and key.isascii():
        protocol.proven = Proven(clients, key, client)
    return client


def request_id_of(request: web.BaseRequest) -> str | None:
    """Return the id the client chose, if it is fit for headers and logs."""
    value = request.headers.get(_REQUEST_ID)
    if value and len(value) <= MAX_ID_CHARS and value.isascii() and value.isprintable():
        return value
    return None


def json_body(request: web.BaseRequest, limit_bytes: int) -> bytes | Awaitable[bytes]:
    """Return the body, or a wait for it. Raises UnsupportedMediaType, PayloadTooLarge, RequestTimeout or BadRequest."""
    kind = request.headers.get(CONTENT_TYPE)
    if kind is not None and kind != "application/json" and not _is_json(kind):
        raise UnsupportedMediaType(
            f"The content type is {kind[:80]!r}; send JSON with 'Content-Type: application/json'."
        )
    try:
        body = taken(request)
    except (web.RequestPayloadError, HttpProcessingError) as exc:
        raise _unreadable(exc) from exc
    if body is None:
        return _late_body(request, limit_bytes)
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


async def _late_body(request: web.BaseRequest, limit_bytes: int) -> bytes:
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise _too_large(limit_bytes)
    expect_continue(request)
    try:
        async with asyncio.timeout(BODY_TOTAL_S):
            return await _read_on(request, limit_bytes)
    except TimeoutError:
        raise RequestTimeout("The body did not arrive in time.") from None


def expect_continue(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send its body: RFC 9110 section 10.1.1."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        cast(ClientProtocol, request.protocol).outbox.post(request.transport, b"HTTP/1.1 100 Continue\r\n\r\n")


async def next_piece(request: web.BaseRequest, idle_s: float) -> bytes:
    """Return what has come of a body, at its end nothing. Raises BadRequest, RequestTimeout."""
    try:
        async with asyncio.timeout(idle_s):
            return await request.content.readany()
    except TimeoutError:
        raise RequestTimeout("The body did not arrive in time.") from None
    except (web.RequestPayloadError, HttpProcessingError) as exc:
        raise _unreadable(exc) from exc


async def _read_on(request: web.BaseRequest, limit_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(BODY_IDLE_S):
                piece = await request.content.readany()
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            pieces.append(piece)
    except (web.RequestPayloadError, HttpProcessingError) as exc:
        raise _unreadable(exc) from exc


def _is_json(kind: str) -> bool:
    main = kind.partition(";")[0].strip().lower()
    return main == "application/json" or main.endswith("+json")


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than the limit of {limit_bytes} bytes.")


def _unreadable(exc: Exception) -> BadRequest:
    reason = " ".join(str(exc).split())[:200]
    return BadRequest(f"The body could not be read: {reason or type(exc).__name__}.", code="invalid_body")
