"""The whole document to a Graph. Runs to its end whatever is wrong, so that everything wrong is told at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from routerd.config.compile.budgets import check_prices, compile_budgets
from routerd.config.compile.clients import compile_clients
from routerd.config.compile.context import Build
from routerd.config.compile.digest import digest
from routerd.config.compile.names import check_clients, check_found, check_reachable, compile_aliases, in_precedence
from routerd.config.compile.provider import http
from routerd.config.compile.provider.providers import Defaults, compile_providers
from routerd.config.compile.routes import compile_routes
from routerd.config.compile.units import size_bytes
from routerd.config.tree import Path
from routerd.graph import Cors, Graph, Limits, Probation, Reload


def compile_graph(build: Build) -> Graph:
    """Compile the document; what is wrong is in the report, and then the result is not to be used."""
    defaults = Defaults(build)
    providers = compile_providers(build, defaults)
    routes = compile_routes(build, defaults, providers)
    aliases = compile_aliases(build, routes)
    patterns = in_precedence(routes)
    check_reachable(build, patterns, providers)
    check_found(build, patterns, providers)
    budgets = compile_budgets(build)
    clients, disabled = compile_clients(build)
    direct = [f"{name}/*" for name, provider in providers.items() if provider.direct]
    exact = [name for name in build.known("models") if "*" not in name]
    if not build.broken:
        check_prices(build, budgets, routes, providers, clients)
        check_clients(build, clients or {}, [*exact, *aliases], [*direct, *(route.name for route in patterns)])
    allow_empty = build.doc.get("allow_empty") is True
    may_be_direct = any(section == "providers" for section, _ in build.broken)
    if not (build.known("models") or direct or may_be_direct or allow_empty):
        build.error((), "no-models", "no model is defined", "add one under `models:`, or say `allow_empty: true`")
    graph = Graph(
        digest="",
        providers=providers,
        endpoints={endpoint.name: endpoint for provider in providers.values() for endpoint in provider.endpoints},
        routes=routes,
        aliases=aliases,
        patterns=patterns,
        budgets=budgets,
        clients=clients,
        cors=_cors(build),
        reload=_reload(build),
        limits=_limits(build),
        response_headers=build.doc.get("response_headers") is not False,
        disabled_clients=disabled,
        allow_empty=allow_empty,
    )
    return graph if build.report.failed() else replace(graph, digest=digest(graph))


def _cors(build: Build) -> Cors:
    origins: tuple[str, ...] = tuple(build.section("cors").get("origins", ()))
    for i, text in enumerate(origins):
        http.origin(build, ("cors", "origins", i), text)
    return Cors(origins=origins)


def _reload(build: Build) -> Reload:
    body = build.section("reload")
    given: dict[str, Any] = {}
    path: Path = ("reload", "settle")
    if "settle" in body:
        settle_s = build.seconds(path, body["settle"])
        if settle_s is not None and settle_s > 60:
            build.error(path, "out-of-range", f"a change may wait 60s at most, got {build.tree.shown(path)}")
        given["settle_s"] = settle_s or 0.0
    if "max_removal" in body:
        given["max_removal_ratio"] = float(body["max_removal"])
    if "probation" in body:
        given["probation"] = _probation(build, body["probation"])
    return Reload(**given)


def _probation(build: Build, body: dict[str, Any]) -> Probation:
    given: dict[str, Any] = {key: body[key] for key in ("max_error_ratio", "min_requests") if key in body}
    if "for" in body:
        given["for_s"] = build.seconds(("reload", "probation", "for"), body["for"]) or 0.0
    return Probation(**given)


def _limits(build: Build) -> Limits:
    given: dict[str, Any] = {}
    for key, text in build.section("limits").items():
        if key.startswith("x-"):
            continue
        size = size_bytes(text)
        if size is None or size < 1:
            build.error(("limits", key), "out-of-range", f"a size must be at least 1B, got {build.tree.shown(('limits', key))}")
        given[f"{key}_bytes"] = size
    return Limits(**given)
