"""What only the command line makes wrong: a configuration that is right, and yet not where this daemon listens.

1. Without `clients` anybody who reaches a public address could call.
2. A provider at one of the daemon's own addresses would ask the daemon itself: one request became 8,500 in four seconds, and
   8080 is llama.cpp's usual port as well. Seen are the addresses as they are written, not names that resolve to this host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from routerd.daemon.settings import Address
from routerd.errors import Problem

if TYPE_CHECKING:
    from routerd.daemon.reload.queue import Loaded
    from routerd.graph import Endpoint

__all__ = ["Listening", "unfit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the daemon listens. `public`: others than this host can connect; `open`: and may, without `clients`."""

    data: Address
    admin: Address
    public: bool
    open: bool


def unfit(loaded: Loaded, listening: Listening, main: str) -> tuple[Problem, ...]:
    """Return why a daemon that listens there must not serve it; nothing if it may."""
    return (*_open_listener(loaded, listening, main), *_own_addresses(loaded, listening, main))


def _open_listener(loaded: Loaded, listening: Listening, main: str) -> Iterator[Problem]:
    if loaded.graph.clients is None and listening.public and not listening.open:
        why = f"anybody who reaches {listening.data} could call: add `clients`, listen on 127.0.0.1, or start with --open"
        yield Problem(stage="semantic", code="open-listener", path="clients", message=why, file=main)


def _own_addresses(loaded: Loaded, listening: Listening, main: str) -> Iterator[Problem]:
    graph = loaded.graph
    for endpoint in graph.endpoints.values():
        if graph.providers[endpoint.provider].disabled:
            continue
        for flag, own in (("--listen", listening.data), ("--admin", listening.admin)):
            if _is(endpoint, own):
                yield _asks_itself(loaded, endpoint, flag, main)


def _is(endpoint: Endpoint, own: Address) -> bool:
    parts = urlsplit(endpoint.url)
    if parts.scheme != "http" or (parts.port or 80) != own.port:
        return False
    asked = _addresses(parts.hostname or "")
    everywhere = own.host in ("0.0.0.0", "::")
    return parts.hostname == own.host or bool(asked & _addresses(own.host)) or (everywhere and any(map(_is_loopback, asked)))


def _addresses(host: str) -> frozenset[str]:
    """Return what is reached under a name or address, as far as that can be said without asking anybody."""
    if host in ("localhost", "0.0.0.0", "::") or host.endswith(".localhost"):  # RFC 6761 section 6.3; connect(2) to no address
        return frozenset({"127.0.0.1", "::1"})
    try:
        return frozenset({str(ipaddress.ip_address(host.partition("%")[0]))})
    except ValueError:
        return frozenset()


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _asks_itself(loaded: Loaded, endpoint: Endpoint, flag: str, main: str) -> Problem:
    path = f"providers.{endpoint.provider}"
    place, url = loaded.origins.get(path), loaded.origins.get(f"{path}.base_url")
    if place and url and url.file == place.file:  # else it is the preset's
        place = url
    return Problem(
        stage="semantic",
        code="own-address",
        path=path,
        message=f"{urlsplit(endpoint.url).netloc} is where this routerd listens ({flag}): it would ask itself, without end",
        file=place.file if place else main,
        line=place.line if place else 0,
        column=place.column if place else 0,
        hint=f"give one of the two another port: the engine, and `base_url` with it, or routerd with {flag}",
    )
