"""`auth: {type: oauth_client_credentials, ...}`: where a provider's access tokens come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.config.compile.context import Build
from routerd.config.compile.provider import http
from routerd.config.compile.provider.secrets import credential
from routerd.config.tree import Path
from routerd.graph import Auth, ClientCredentials, Secret

TYPE = "oauth_client_credentials"
OWN = ("token_url", "client_id", "client_secret", "scope", "body")
_NEEDED = {
    "token_url": "for example `token_url: https://login.example.com/oauth/token`",
    "client_id": "for example `client_id: ${CLIENT_ID}`",
    "client_secret": "for example `client_secret: ${CLIENT_SECRET}`",
}


def misplaced(build: Build, path: Path, spec: Mapping[str, Any]) -> None:
    """Complain about keys of this type beside another."""
    for key in OWN:
        if key in spec:
            build.error((*path, key), "conflicting-keys", f"only `type: {TYPE}` has a {key}", "remove it", at_key=True)


def client_credentials(build: Build, path: Path, spec: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[Auth, str]:
    """Return the authentication of provider `body`, and why it is disabled or an empty string. `path` is that of `auth`."""
    for key in ("name", "prefix"):
        if key in spec:
            build.error((*path, key), "conflicting-keys", f"`type: {TYPE}` has no {key}", "remove it", at_key=True)
    if "api_key" in body:
        message = f"`auth` of type {TYPE} does not use it"
        build.error((*path[:-1], "api_key"), "conflicting-keys", message, "remove one of the two", at_key=True)
    missing = [key for key in _NEEDED if key not in spec]
    for key in missing:
        build.error(path, "missing-key", f"`type: {TYPE}` needs a {key}", _NEEDED[key], at_key=True)
    if missing:
        return Auth(type=TYPE), ""
    optional = body.get("optional", False)
    client_id, no_id = credential(build, (*path, "client_id"), spec["client_id"], optional=optional)
    secret, no_secret = credential(build, (*path, "client_secret"), spec["client_secret"], optional=optional)
    if not client_id or not secret:
        return Auth(type=TYPE), no_id or no_secret
    http.base_url(build, (*path, "token_url"), spec["token_url"])
    oauth = ClientCredentials(
        token_url=spec["token_url"],  # as it is: a slash at its end may matter there
        client_id=client_id,
        client_secret=Secret(secret),
        scope=spec.get("scope", ""),
        body=spec.get("body", "form"),
    )
    return Auth(type=TYPE, oauth=oauth), ""
