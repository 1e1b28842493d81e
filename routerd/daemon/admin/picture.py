"""A graph as plain values, for the page at /ui: who is asked for what, in which order. Nothing in it is a secret.

Of an endpoint's URL only scheme, host and port are told: a path or a user may hold a credential. What an endpoint does now is not
here but in the status, so this document changes with the generation only, and is made once for each.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from routerd.graph import Budget, Endpoint, Graph, Provider, Route, Step

__all__ = ["picture"]

Told = dict[str, Any]


def picture(graph: Graph) -> Told:
    """Return models, providers, budgets and clients, each in file order."""
    return {
        "digest": graph.digest,
        "models": [_route(route) for route in graph.routes.values()],
        "providers": [_provider(provider) for provider in graph.providers.values()],
        "budgets": [_budget(budget) for budget in graph.budgets.values()],
        "clients": None if graph.clients is None else [client.name for client in graph.clients.values()],
    }


def _route(route: Route) -> Told:
    return {
        "name": route.name,
        "description": route.description,
        "aliases": list(route.aliases),
        "pattern": route.pattern is not None,
        "enabled": route.enabled,
        "budgets": list(route.budgets),
        "chain": [_step(step) for step in route.chain],
    }


def _step(step: Step) -> Told:
    targets = [
        {"provider": one.provider, "model": one.model, "endpoint": one.endpoint, "weight": one.weight} for one in step.targets
    ]
    return {"balance": str(step.balance) if len(targets) > 1 else "", "targets": targets}


def _provider(provider: Provider) -> Told:
    return {
        "name": provider.name,
        "dialect": provider.dialect,
        "disabled": provider.disabled,
        "direct": provider.direct,
        "balance": str(provider.balance) if len(provider.endpoints) > 1 else "",
        "budgets": list(provider.budgets),
        "endpoints": [_endpoint(endpoint) for endpoint in provider.endpoints],
    }


def _endpoint(endpoint: Endpoint) -> Told:
    return {
        "name": endpoint.name,
        "address": address(endpoint.url),
        "weight": endpoint.weight,
        "max_concurrent": endpoint.max_concurrent,
        "labels": dict(endpoint.labels),
    }


def address(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""


def _budget(budget: Budget) -> Told:
    return {
        "name": budget.name,
        "kind": budget.kind,
        "limit": budget.limit / 1e9 if budget.kind == "usd" else budget.limit,  # kept in nano-dollars
        "window_s": budget.window_s,
        "calendar": budget.calendar,
        "scope": budget.scope,
        "shadow": budget.shadow,
    }
