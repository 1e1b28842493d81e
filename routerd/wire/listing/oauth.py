"""The client credentials grant (RFC 6749 section 4.4): the request for an access token, and what its answer means.

`form` is what the RFC wants: the fields form-encoded, the client's name and secret in the body (section 2.3.1). `json` is what
many home-made servers want instead. A server that says no `expires_in` is taken at an hour.
What a server says about a failure is told by its `error` word only (section 5.2): a description may quote the secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from routerd.graph import ClientCredentials

__all__ = ["Granted", "TokenRefused", "read_token", "token_request"]

DEFAULT_LIFETIME_S = 3600.0
LONGEST_LIFETIME_S = 30 * 86400.0  # asked for anew after a month, whatever the server says
_WORD = re.compile(r"[a-z][a-z_]{0,40}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")  # what a header can carry; JWTs of some kilobytes are usual


class Granted(NamedTuple):
    """An access token and how long it is good for from now on."""

    value: str
    lifetime_s: float


class TokenRefused(Exception):
    """There is no token in the answer. `final`: the server refuses this client; otherwise it may do better later."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.message = message
        self.final = final


def token_request(source: ClientCredentials) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of the POST."""
    fields = {
        "grant_type": "client_credentials",
        "client_id": source.client_id,
        "client_secret": source.client_secret.reveal(),
    }
    if source.scope:
        fields["scope"] = source.scope
    if source.body == "json":
        return {"content-type": "application/json", "accept": "application/json"}, msgspec.json.encode(fields)
    kind = "application/x-www-form-urlencoded"
    return {"content-type": kind, "accept": "application/json"}, urlencode(fields).encode()


def read_token(status: int, body: bytes) -> Granted:
    """Return the token of an answer. Raises TokenRefused."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    fields: Mapping[str, Any] = answer if isinstance(answer, dict) else {}
    if not 200 <= status < 300:
        word = fields.get("error")
        said = f" ({word})" if isinstance(word, str) and _WORD.fullmatch(word) else ""
        raise TokenRefused(f"the token endpoint answered {status}{said}", final=400 <= status < 500 and status not in (408, 429))
    token = fields.get("access_token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TokenRefused("the token endpoint's answer has no access_token", final=False)
    return Granted(token, _lifetime_s(fields.get("expires_in")))


def _lifetime_s(said: Any) -> float:
    """Return `expires_in`, which some servers write as text."""
    try:
        length_s = float(said) if isinstance(said, int | float | str) and not isinstance(said, bool) else DEFAULT_LIFETIME_S
    except (ValueError, OverflowError):
        return DEFAULT_LIFETIME_S
    return min(max(length_s, 1.0), LONGEST_LIFETIME_S) if length_s == length_s else DEFAULT_LIFETIME_S
