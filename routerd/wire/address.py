"""Where a request to a provider goes and what lets it in: the path below a base URL, and the fields and query of the credential.

One place for all who ask: workers, the discovery of models, health checks. A base URL with and without its /v1 mean the same, and
`../` in an offered path leads up from it: engines have some paths beside their /v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from routerd.graph import Auth, Provider

__all__ = ["credential", "own_fields", "path_below", "with_query"]

_VERSIONS: Mapping[str, Mapping[str, str]] = {"anthropic": {"anthropic-version": "2023-06-01"}}  # without it a request is refused


def path_below(prefix: str, path: str) -> str:
    """Return the path of a request: `path` below the base URL's own, which ends without a slash."""
    if path.startswith("v1/") and prefix.endswith("/v1"):
        path = path[3:]
    while path.startswith("../"):
        prefix, path = prefix.rpartition("/")[0], path[3:]
    return f"{prefix}/{path}" if path else prefix or "/"  # a described service may be at its base URL itself


def with_query(path: str, query: str) -> str:
    """Return the path with a query, which it may have one of already."""
    return f"{path}{'&' if '?' in path else '?'}{query}" if query else path


def own_fields(provider: Provider, lines: Mapping[str, str]) -> dict[str, str]:
    """Return these header fields (names in lower case) with those of the provider, which win; without its credential."""
    return {**_VERSIONS.get(provider.dialect, {}), **lines, **{name.lower(): text for name, text in provider.headers.items()}}


def credential(auth: Auth, token: str = "") -> tuple[dict[str, str], str]:
    """Return the header field and the query that carry the secret, or the access `token` in its place; empty where neither is."""
    secret = token or (auth.secret.reveal() if auth.secret else "")
    if not secret or auth.type == "none":
        return {}, ""
    if auth.type == "query":
        return {}, f"{quote(auth.name, safe='')}={quote(secret, safe='')}"
    return {auth.name.lower(): f"{auth.prefix}{secret}"}, ""
