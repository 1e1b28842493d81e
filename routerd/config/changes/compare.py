"""The parts of a Graph in the order in which an operator asks: models, aliases, clients, budgets, providers, all the rest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from routerd.config.changes.access import diff_budgets, diff_clients
from routerd.config.changes.leaves import Change, differences
from routerd.config.changes.providers import diff_providers
from routerd.config.changes.routes import diff_aliases, diff_routes
from routerd.graph import Graph

_TOLD = (
    "digest", "providers", "endpoints", "routes", "aliases", "patterns", "budgets", "clients", "disabled_clients",
)  # fmt: skip


def diff(old: Graph, new: Graph) -> tuple[Change, ...]:
    """Return what differs, in a fixed order; nothing for equal graphs."""
    found = tuple(
        chain(
            diff_routes(old, new),
            diff_aliases(old.aliases, new.aliases),
            diff_clients(old, new),
            diff_budgets(old, new),
            diff_providers(old, new),
            _settings(old, new),
        )
    )
    if not found and old.digest != new.digest:
        return (Change(path="", kind="changed", text="nothing that a request would notice"),)
    return found


def _settings(old: Graph, new: Graph) -> Iterator[Change]:
    for field, words in differences(old, new, _TOLD):
        yield Change(path=field, kind="changed", text=f"{field}: {words}")
