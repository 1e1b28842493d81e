"""`clients:` to records. A key is hashed here and goes no further."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date
from typing import Any

from routerd.config.compile.budgets import NANO
from routerd.config.compile.context import Build
from routerd.config.compile.provider.secrets import credential
from routerd.config.tree import Path
from routerd.graph import Client, Credits, Pattern


def compile_clients(build: Build) -> tuple[dict[str, Client] | None, dict[str, str]]:
    """Return the clients (None: the file has no such block) and, by name, why others are left out."""
    if "clients" not in build.doc:
        return None, {}
    out: dict[str, Client] = {}
    disabled: dict[str, str] = {}
    owners: dict[bytes, Path] = {}
    for name, body in build.entries("clients"):
        path: Path = ("clients", name)
        digest, reason = _digest(build, path, body)
        build.names((*path, "budgets"), body.get("budgets", ()), "budgets")
        _check_since(build, (*path, "credits"), body.get("credits"))
        if digest is None:
            disabled[name] = reason
            continue
        if digest in owners:
            first = build.tree.place(owners[digest], at_key=True)
            message = f"the clients {owners[digest][1]!r} ({first}) and {name!r} have the same key"
            build.error(path, "duplicate-key-of-client", message, "a key tells who calls: give each its own", at_key=True)
        owners.setdefault(digest, path)
        out[name] = client_of(name, body, digest)
    return out, disabled


def client_of(name: str, body: Mapping[str, Any], digest: bytes) -> Client:
    """Return the client that an entry describes."""
    return Client(
        name=name,
        key_sha256=digest,
        models=_patterns(body),
        budgets=tuple(body.get("budgets", ())),
        credits=_credits(body.get("credits")),
    )


def _credits(told: Any) -> Credits | None:
    """Return what a number of tokens, or a block, grants."""
    if told is None:
        return None
    if not isinstance(told, Mapping):
        return Credits(kind="tokens", limit=int(told))
    since = str(told.get("since", ""))
    if "usd" in told:
        return Credits(kind="usd", limit=max(1, round(told["usd"] * NANO)), since=since)
    return Credits(kind="tokens", limit=int(told["tokens"]), since=since)


def _check_since(build: Build, path: Path, told: Any) -> None:
    if not isinstance(told, Mapping) or "since" not in told:
        return
    try:
        date.fromisoformat(told["since"])
    except ValueError:
        build.error((*path, "since"), "out-of-range", f"{told['since']} is no day of any year", "write it as 2026-01-31")


def _digest(build: Build, path: Path, body: Mapping[str, Any]) -> tuple[bytes | None, str]:
    if "key_sha256" in body:
        if body["key_sha256"]:
            return bytes.fromhex(body["key_sha256"]), ""
        if not body.get("optional", False):
            hint = "set it, or say `optional: true`"
            build.error((*path, "key_sha256"), "unresolved-secret", "no credential: it is empty", hint)
        return None, "key_sha256 is empty"
    value, reason = credential(build, (*path, "key"), body["key"], optional=body.get("optional", False))
    return (hashlib.sha256(value.encode()).digest(), "") if value else (None, reason)


def _patterns(body: Mapping[str, Any]) -> tuple[Pattern, ...]:
    return tuple(Pattern.parse(text) for text in body.get("models", ()))
