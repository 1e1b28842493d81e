"""Who calls, and which models they may name.

A key is only ever compared as its SHA-256: the digest finds the client (what an attacker can time is the digest of a guess, which
tells nothing about a key), and hmac.compare_digest decides. An answer never says whether a key was nearly right.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType

from routerd.errors import Unauthorized
from routerd.graph import Client

_CHALLENGE: Mapping[str, str] = MappingProxyType({"www-authenticate": "Bearer"})


class ClientIndex:
    """The clients of one graph by the digest of their key. None: there is no `clients` block, anybody may call."""

    __slots__ = ("_by_digest",)

    def __init__(self, clients: Mapping[str, Client] | None) -> None:
        self._by_digest = None if clients is None else {client.key_sha256: client for client in clients.values()}

    def authenticate(self, key: str | None) -> Client | None:
        """Return the client of `key`; None when anybody may call. Raise Unauthorized for no key or a wrong one."""
        if self._by_digest is None:
            return None
        if not key:
            raise Unauthorized("No API key: send it as 'Authorization: Bearer <key>'.", headers=_CHALLENGE)
        digest = _digest(key)
        client = self._by_digest.get(digest)
        if client is None or not hmac.compare_digest(client.key_sha256, digest):
            raise Unauthorized("Incorrect API key.", headers=_CHALLENGE)
        return client


def _digest(key: str) -> bytes:
    """Hash a key. Bytes of a header that are no UTF-8 arrive as surrogates and become the same bytes again."""
    try:
        raw = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that no header can hold: nobody's key
        return b""
    return hashlib.sha256(raw).digest()


def allowed(client: Client | None, *names: str) -> bool:
    """Tell whether the client may use a model by any of these names (as asked, the route's). No list of models allows all."""
    return client is None or client.may_use(*names)
