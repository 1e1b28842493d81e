"""An upstream's words without our credentials: it may quote the key that it refuses, and clients, logs and metrics read on.

Known are all values of a provider that look like a credential: its key, headers and static body fields by their name or their
form, and what its URL carries. Each is found as it is, as JSON and URLs escape it, and cut off at the end of a bounded text.
Values under MIN_CHARS are left alone: replacing `x` garbles every message and protects nothing. The endpoint's address goes, too.
Prepared once for a target, when its first failure asks for it; what goes well never does.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from routerd.graph import Endpoint, Provider

__all__ = ["Redaction", "secrets_of"]

MIN_CHARS = 8
MAX_CUT_CHARS = 500  # messages are cut there: no longer beginning of a credential can stand at their end
STARS = b"***"
# A whole word of the name: `x-portkey-provider` is none.
_NAME = re.compile(
    r"(?<![a-z0-9])(?:api|access|auth|secret|subscription)?"
    r"(?:key|token|secret|auth|authorization|password|passwd|cookie|credential|signature)s?(?![a-z0-9])",
    re.IGNORECASE,
)
# Sixteen letters and digits in a row, both of them: random. `prompt-caching-2024-07-31` and model names are not.
_RANDOM = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}")


class Redaction:
    """Takes the credentials of one provider at one endpoint out of texts."""

    __slots__ = ("_pattern", "_values")

    def __init__(self, provider: Provider, endpoint: Endpoint, tokens: tuple[str, ...] = ()) -> None:
        self._values = secrets_of(provider, endpoint, tokens)
        found = {form for value in (*self._values, *_addresses(endpoint)) for form in _forms(value)}
        forms = sorted(found, key=lambda form: (-len(form), form))
        self._pattern = re.compile(b"|".join(map(re.escape, forms))) if forms else None

    def data(self, data: bytes) -> bytes:
        """Return `data` without credentials."""
        return data if self._pattern is None else self._pattern.sub(STARS, data)

    def text(self, text: str) -> str:
        """Return `text` without credentials, nor the beginning of one where it was cut."""
        if self._pattern is None:
            return text
        text = self.data(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
        head = text.removesuffix("...")
        for value in self._values:
            for length in range(min(len(value) - 1, len(head), MAX_CUT_CHARS), MIN_CHARS - 1, -1):
                if head.endswith(value[:length]):
                    return f"{head[:-length]}***"
        return text


def secrets_of(provider: Provider, endpoint: Endpoint, tokens: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return every value that looks like a credential. `tokens`: what was got with them and is sent instead."""
    found = dict.fromkeys(value for value in (*_candidates(provider, endpoint), *tokens) if len(value) >= MIN_CHARS)
    return tuple(found)


def _addresses(endpoint: Endpoint) -> Iterator[str]:
    """Yield where the endpoint is, as engines and gateways quote it: the inside of a network is nobody's business."""
    parts = urlsplit(endpoint.url)
    host = parts.netloc.rpartition("@")[2]
    if host:
        yield f"{parts.scheme}://{host}"
        if parts.port is not None:
            yield host


def _candidates(provider: Provider, endpoint: Endpoint) -> Iterator[str]:
    if provider.auth.secret:
        yield provider.auth.secret.reveal()
    if provider.auth.oauth:
        yield provider.auth.oauth.client_secret.reveal()
    for name, value in (*provider.headers.items(), *_texts(provider.body)):
        if _NAME.search(name) or _RANDOM.search(value):
            yield from _of_header(value)
    parts = urlsplit(endpoint.url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    yield from (unquote(user), unquote(password))
    yield from (value for _, value in parse_qsl(parts.query))


def _of_header(value: str) -> Iterator[str]:
    """Yield a value as it is, behind its scheme, and the password of Basic (RFC 7617)."""
    yield value
    scheme, _, rest = value.strip().partition(" ")
    if rest:
        yield rest.strip()
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(rest).decode("latin-1").partition(":")[2]
        except binascii.Error:
            pass


def _texts(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts of a body with the key above each."""
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, str):
                yield name, one


def _forms(value: str) -> Iterator[bytes]:
    """Yield the ways in which a value is quoted."""
    in_json = json.dumps(value)[1:-1]
    for form in (value, in_json, in_json.replace("/", "\\/"), quote(value, safe=""), quote(value), quote_plus(value)):
        yield form.encode()
