"""`tests:` to Case records: what is asked and what is expected, with names looked up. Who runs them is above this package.

They are no part of the Graph: a worker never needs them, and editing a test changes nothing that serves (the digest stays). A
client is taken from the file even when it is disabled for want of its key: a test does not depend on the secrets at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routerd.config.compile.clients import client_of
from routerd.config.compile.context import Build
from routerd.config.tree import Path
from routerd.graph import Client, Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One entry of `tests:`, number `index` (from 0). `expect` has the keys of the file, in the file's order."""

    index: int
    name: str
    model: str
    client: Client | None = None
    down: frozenset[str] = frozenset()  # names of endpoints
    used: Mapping[str, float] = field(default_factory=dict)  # budget -> part of its limit
    params: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str = ""
    expect: Mapping[str, Any]

    def path(self, *keys: str) -> Path:
        """Return where the test, or something in it, stands in the document."""
        return ("tests", self.index, *keys)


def compile_cases(build: Build, graph: Graph) -> tuple[Case, ...]:
    """Compile all tests; complain about names that nothing has."""
    found = build.doc.get("tests")
    if not isinstance(found, list) or ("tests", "") in build.broken:
        return ()
    return tuple(_case(build, graph, i, body) for i, body in enumerate(found))


def _case(build: Build, graph: Graph, index: int, body: Mapping[str, Any]) -> Case:
    path: Path = ("tests", index, "given")
    given = body["given"]
    budgets = build.known("budgets")
    for name in given.get("used", {}):
        if name not in budgets:
            build.unknown((*path, "used", name), "budget", name, budgets)
    return Case(
        index=index,
        name=body["name"],
        model=given["model"],
        client=_client(build, (*path, "client"), given["client"]) if "client" in given else None,
        down=frozenset(endpoint for i, one in enumerate(given.get("down", ())) for endpoint in _down(build, graph, path, i, one)),
        used=dict(given.get("used", {})),
        params=dict(given.get("params", {})),
        system_prompt=given.get("system_prompt", ""),
        expect={key: value for key, value in body["expect"].items() if not key.startswith("x-")},
    )


def _client(build: Build, path: Path, name: str) -> Client | None:
    known = build.known("clients")
    if name not in known:
        build.unknown(path, "client", name, known)
        return None
    return client_of(name, known[name], b"") if ("clients", name) not in build.broken else None


def _down(build: Build, graph: Graph, path: Path, number: int, name: str) -> tuple[str, ...]:
    """Return the endpoints that `name` stands for: an endpoint, or all of a provider."""
    if name in graph.endpoints:
        return (name,)
    if name in graph.providers:
        return tuple(endpoint.name for endpoint in graph.providers[name].endpoints)
    some_refused = any(section == "providers" for section, _ in build.broken)  # their endpoints are not known
    if name not in build.known("providers") and not some_refused:
        names = list(dict.fromkeys([*graph.endpoints, *build.known("providers")]))
        build.unknown((*path, "down", number), "endpoint", name, names)
    return ()
