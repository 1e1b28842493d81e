"""The series that a configuration makes known before anything is counted: they stand at 0 from its first moment.

A rate over a counter that appears at 1 misses its first event, and the first event is the one that an alert waits for. So control
itself holds every counter whose labels the configuration names; the workers' counts are added to it in the scrape. That costs no
request and no worker anything. A pair of targets (failovers) or a kind of answer (histograms) has too many combinations: those
series begin when they are first counted. Beyond MOST_SERIES the same holds for all but budgets: 2,000 models of ten clients would
be 120,000 zeros in every scrape.

What is removed from the configuration keeps its series for KEPT_S, so that a scrape gets their last values and an edit that is
taken back goes on counting. Then they go, here and in the workers: names that come and go must not fill memory and scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product

from routerd.errors import ErrorType
from routerd.graph import Graph, Route, Target
from routerd.observe import Metrics
from routerd.plan import direct_route

__all__ = ["MOST_SERIES", "Known"]

MOST_SERIES = 5_000  # a tenth of a second of rendering in a scrape
KEPT_S = 600.0
OUTCOMES = ("ok", "client_error", "rejected", "upstream_error", "truncated", "client_gone")
INTERRUPTIONS = ("cut", "idle", "error_event", "deadline", "client_gone")
RESULTS = ("ok", ErrorType.CALLER_GONE.value, *(kind.value for kind in ErrorType if kind.value.startswith("upstream_")))
TOKEN_TYPES = ("input", "output")

_Series = tuple[str, tuple[str, ...]]


class Known:
    """The names of what serves, and those that went not long ago. `forget` is told of the ones that are over."""

    def __init__(
        self, metrics: Metrics, forget: Callable[[frozenset[tuple[str, str]]], None], clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._forget = forget
        self._clock = clock
        self._names: frozenset[tuple[str, str]] = frozenset()
        self._gone_at_s: dict[tuple[str, str], float] = {}

    def follow(self, graph: Graph) -> None:
        """`graph` serves: its counters stand at 0, those that are there already stay as they are."""
        now_s = self._clock()
        names = frozenset(_names(graph))
        self._gone_at_s.update((name, now_s) for name in self._names - names)
        for name in names & self._gone_at_s.keys():
            del self._gone_at_s[name]
        self._names = names
        self.look()
        _start_at_zero(self._metrics, graph)

    def look(self) -> None:
        """Forget what went so long ago that it is over."""
        since_s = self._clock() - KEPT_S
        over = frozenset(name for name, gone_at_s in self._gone_at_s.items() if gone_at_s <= since_s)
        if over:
            for name in over:
                del self._gone_at_s[name]
            self._metrics.forget(over)
            self._forget(over)


def _start_at_zero(metrics: Metrics, graph: Graph) -> None:
    for budget in graph.budgets.values():
        mode = "shadow" if budget.shadow else "enforce"
        metrics.counter("routerd_budget_rejections_total", budget.name, budget.scope, mode)
    series = list(islice(_of_requests(graph), MOST_SERIES + 1))
    if len(series) <= MOST_SERIES:
        for name, labels in series:
            metrics.counter(name, *labels)


def _names(graph: Graph) -> Iterator[tuple[str, str]]:
    """Yield each name that stands in a label, with the label."""
    yield from (("budget", name) for name in graph.budgets)
    yield from (("client", client.name) for client in (graph.clients or {}).values())
    yield from (("provider", name) for name in graph.providers)
    for route in _routes(graph):
        yield "route", route.name
        for target in (target for step in route.chain for target in step.targets):
            yield "target", target.label
            yield "response_model", target.model


def _routes(graph: Graph) -> Iterator[Route]:
    yield from graph.routes.values()
    yield from (direct_route(provider) for provider in graph.providers.values() if provider.direct and not provider.disabled)


def _of_requests(graph: Graph) -> Iterator[_Series]:
    for outcome in ("client_error", "rejected"):  # no key, no such model
        yield "routerd_requests_total", ("_other", "_anonymous", outcome)
    for route in _routes(graph):
        clients = _clients(graph, route)
        for client, outcome in product(clients, OUTCOMES):
            yield "routerd_requests_total", (route.name, client, outcome)
        for target in _targets(graph, route):
            yield from _of_target(target)
            for client, token_type in product(clients, TOKEN_TYPES):
                yield "routerd_tokens_total", (route.name, client, target.provider, token_type)
                if target.price is not None:
                    yield "routerd_cost_usd_total", (route.name, client, target.provider, token_type)


def _of_target(target: Target) -> Iterator[_Series]:
    for result in RESULTS:
        yield "routerd_attempts_total", (target.label, result)
    for reason in INTERRUPTIONS:
        yield "routerd_stream_interruptions_total", (target.label, reason)
    yield "routerd_stream_malformed_events_total", (target.label,)


def _clients(graph: Graph, route: Route) -> list[str]:
    """Return who may ask for the route, as labels."""
    if graph.clients is None:
        return ["_anonymous"]
    return [client.name for client in graph.clients.values() if client.may_use(route.name)]


def _targets(graph: Graph, route: Route) -> Iterator[Target]:
    if not route.enabled:
        return
    for target in (target for step in route.chain for target in step.targets):
        provider = graph.providers.get(target.provider)
        if provider is not None and not provider.disabled:
            yield target
