"""Models that were found at providers: which of them clients are told of, beside the names of the file.

They never change where a request goes. A found model is offered as `provider/<id>` where that name leads somewhere: its
provider is `direct`, or a pattern takes it. Until a list has come, the models that the file names for the provider stand in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from routerd.graph import Graph, Provider

__all__ = ["ModelNews", "found_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNews:
    """The models of a provider by their ids there, one a line; None: nobody knows them any more."""

    provider: str
    ids: str | None


def found_names(
    graph: Graph, found: Mapping[str, str | None], pattern_of: Callable[[str], str | None]
) -> Iterator[tuple[str, str]]:
    """Yield name and route of what discovery adds, provider by provider. `pattern_of(name)`: the pattern that takes a name."""
    for provider in graph.providers.values():
        if provider.discover is None or provider.disabled:
            continue
        lines = found.get(provider.name)
        for one in _named(graph, provider) if lines is None else lines.split("\n") if lines else ():
            name = f"{provider.name}/{one}"
            route = f"{provider.name}/*" if provider.direct else pattern_of(name)
            if route is not None:
                yield name, route


def _named(graph: Graph, provider: Provider) -> Iterable[str]:
    """Yield the models that the file names for a provider."""
    targets = (target for route in graph.routes.values() for step in route.chain for target in step.targets)
    yield from dict.fromkeys(t.model for t in targets if t.provider == provider.name and "{" not in t.model)
