"""Which route a model name means, and what its pattern captured.

The order: exact name > alias > `provider/model` of a `direct` provider > pattern (in the graph's order of precedence).
Two bounded memories keep the cost flat: names of the configuration are kept for good (there are only so many of them), names
that clients make up are kept in an LRU of CACHE_NAMES. A name nobody has is never kept.
Patterns are found by their literal beginning and end (dictionary look-ups), not by trying each: 10,000 cost about as much as 10.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from routerd.errors import ModelNotFound
from routerd.graph import Graph, Pattern, Provider, Route, Step, Target
from routerd.plan.suggest import Suggester

CACHE_NAMES = 4096
MANY = 32  # patterns with one beginning: from here on they are found by their end too
MAX_NAME_CHARS = 256  # the parser refuses longer names too; here it bounds the work of a regular expression


class Resolved(NamedTuple):
    """A route for one asked name. `via`: exact | alias | direct | pattern."""

    route: Route
    captured: tuple[str, ...]
    via: str


class _Row(NamedTuple):
    """A pattern route. `rank` is its place in the order of precedence, `end` the literal behind the last star."""

    rank: int
    end: str
    pattern: Pattern
    route: Route


class PatternIndex:
    """All patterns of a graph, findable without trying each. About 1 us a pattern to build."""

    def __init__(self, routes: tuple[Route, ...], many: int = MANY) -> None:
        self._many = many
        self._by_start: dict[str, list[_Row]] = {}
        self._by_end: dict[str, dict[str, list[_Row]]] = {}  # of starts that many patterns share, made when first needed
        for rank, route in enumerate(routes):
            pattern = route.pattern or Pattern.parse(route.name)
            start, _, rest = pattern.text.partition("*")
            self._by_start.setdefault(start, []).append(_Row(rank, rest.rpartition("*")[2], pattern, route))
        self._start_lengths = sorted(set(map(len, self._by_start)))

    def find(self, name: str) -> tuple[Route, tuple[str, ...]] | None:
        """Return the matching route of the lowest rank and what its stars captured."""
        best: tuple[Route, tuple[str, ...]] | None = None
        best_rank = 1 << 62
        for length in self._start_lengths:
            if length > len(name):
                break
            start = name[:length]
            for rank, end, pattern, route in self._candidates(start, name):
                if rank >= best_rank:
                    break
                if not name.endswith(end):
                    continue
                captured = pattern.match(name)
                if captured is not None:
                    best, best_rank = (route, captured), rank
                    break
        return best

    def _candidates(self, start: str, name: str) -> Sequence[_Row]:
        """Return the rows of this start that may match, by rank."""
        rows = self._by_start.get(start, ())
        if len(rows) < self._many:
            return rows
        ends = self._by_end.get(start)
        if ends is None:
            ends = self._by_end[start] = {}
            for row in rows:
                ends.setdefault(row.end, []).append(row)
        found: list[_Row] = []
        for length in range(len(name) - len(start) + 1):
            found += ends.get(name[len(name) - length :], ())
        return sorted(found, key=lambda row: row.rank)


class Resolver:
    """Names to routes for one graph. Belongs to one generation and one thread."""

    __slots__ = ("_direct", "_graph", "_known", "_patterns", "_recent", "_suggester")

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[str, Resolved] = {}  # bounded by the configuration: names, aliases
        self._recent: OrderedDict[str, Resolved] = OrderedDict()  # bounded by CACHE_NAMES
        self._direct: dict[str, Route] = {}  # bounded by the providers
        self._patterns: PatternIndex | None = None
        self._suggester: Suggester | None = None

    def resolve(self, model: str, visible: Callable[[str], bool] | None = None) -> Resolved:
        """Return the route of `model`; raise ModelNotFound, whose hint names only what `visible` allows."""
        found = self._known.get(model)
        if found is not None:
            return found
        found = self._recent.get(model)
        if found is not None:
            self._recent.move_to_end(model)
            return found
        found = self._search(model)
        if found is None:
            raise self._not_found(model, visible)
        if not found.route.enabled:
            raise ModelNotFound(f"The model {_quoted(model)} is disabled.", code="model_disabled", param="model")
        self._keep(model, found)
        return found

    def direct(self, provider: Provider, model: str) -> Resolved:
        """Return the route to one provider, whatever other names there are; the caller has seen that it is `direct`."""
        return Resolved(self._direct_route(provider), (model,), "direct")

    def pattern_of(self, name: str) -> str | None:
        """Return the name of the enabled pattern that takes a name, and remember nothing."""
        if self._patterns is None:
            self._patterns = PatternIndex(self._graph.patterns)
        found = self._patterns.find(name)
        return found[0].name if found is not None and found[0].enabled else None

    def warm(self) -> None:
        """Build what the first unknown name would have to wait for: about 2 us a pattern and a name."""
        if self._patterns is None:
            self._patterns = PatternIndex(self._graph.patterns)
        if self._suggester is None:
            self._suggester = Suggester(offered_names(self._graph))

    def _search(self, model: str) -> Resolved | None:
        """Apply the four rules in their order."""
        graph = self._graph
        route = graph.routes.get(model)
        if route is not None and route.pattern is None:
            return Resolved(route, (), "exact")
        alias = graph.aliases.get(model)
        if alias is not None and alias in graph.routes:
            return Resolved(graph.routes[alias], (), "alias")
        if len(model) > MAX_NAME_CHARS:
            return None
        name, slash, rest = model.partition("/")
        provider = graph.providers.get(name) if slash and rest else None
        if provider is not None and provider.direct:
            return Resolved(self._direct_route(provider), (rest,), "direct")
        if self._patterns is None:
            self._patterns = PatternIndex(graph.patterns)
        matched = self._patterns.find(model)
        return Resolved(matched[0], matched[1], "pattern") if matched else None

    def _direct_route(self, provider: Provider) -> Route:
        route = self._direct.get(provider.name)
        if route is None:
            route = self._direct[provider.name] = direct_route(provider)
        return route

    def _keep(self, model: str, found: Resolved) -> None:
        if found.via in ("exact", "alias"):
            self._known[model] = found
            return
        self._recent[model] = found
        if len(self._recent) > CACHE_NAMES:
            self._recent.popitem(last=False)

    def _not_found(self, model: str, visible: Callable[[str], bool] | None) -> ModelNotFound:
        if self._suggester is None:
            self._suggester = Suggester(offered_names(self._graph))
        close = self._suggester.closest(model, visible)
        hint = f" Did you mean {_quoted(close)}?" if close else ""
        return ModelNotFound(f"The model {_quoted(model)} does not exist.{hint}", param="model")


def resolve(graph: Graph, model: str, visible: Callable[[str], bool] | None = None) -> Resolved:
    """Resolve one name without a memory: for explain and tests; traffic goes through a Resolver."""
    return Resolver(graph).resolve(model, visible)


def direct_route(provider: Provider) -> Route:
    """Build the route of every `provider/<model>`: one target; its name has no part of what clients make up."""
    return Route(
        name=f"{provider.name}/*",
        chain=(Step(targets=(Target(provider=provider.name, model="{1}", timeouts=provider.timeouts),)),),
        pattern=Pattern.parse(f"{provider.name}/*"),
        failover=provider.failover,
        retry=provider.retry,
    )


def offered_names(graph: Graph) -> list[str]:
    """Return every plain name and alias a client could ask for: no pattern, nothing disabled."""
    names = [route.name for route in graph.routes.values() if route.enabled and route.pattern is None]
    names += [alias for alias, name in graph.aliases.items() if name in graph.routes and graph.routes[name].enabled]
    return names


def _quoted(name: str) -> str:
    """Quote a client's text for a message: short, and without control characters."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
