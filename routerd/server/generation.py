"""One generation as a worker serves it: the frozen graph and what is compiled from it lazily, plus a count of its requests.

A request takes the generation once and keeps it to its end, so route, provider, budget and header all belong together; an old
generation is freed when its last request ends. Nothing here outlives a generation: pools, health, counters and metrics do not
live here.
"""

from __future__ import annotations

from routerd.attempt import Lane
from routerd.graph import Client, Graph, Price, Route
from routerd.health import View
from routerd.plan import Planned, Resolver
from routerd.policy import Bill, Charge, ClientIndex, charges, dearest, provider_charges
from routerd.server.http.render import safe
from routerd.server.shared import Shared
from routerd.server.tally import Tally

__all__ = ["Generation"]

NO_BILL = Bill(())
MAX_BILLS_CACHED = 20_000  # names that clients make up come to no end
MAX_LANES_CACHED = 20_000  # more routes than that are compiled again when asked for


class Generation:
    """A graph with its lazily compiled lanes. `number` is what `x-routerd-generation` says."""

    __slots__ = (
        "_bills",
        "_dearest",
        "_lanes",
        "_provider_bills",
        "_shared",
        "_tallies",
        "charges",
        "clients",
        "ended",
        "failed",
        "graph",
        "has_provider_budgets",
        "health",
        "inflight",
        "lists",
        "number",
        "resolver",
    )

    def __init__(self, number: int, graph: Graph, shared: Shared) -> None:
        self.number = number
        self.graph = graph
        self.inflight = 0
        self.ended = 0  # requests that reached a target and ended: ok, upstream_error or truncated
        self.failed = 0  # of these: upstream_error or truncated
        self.health: View = View({})  # set by the swap: what is known of this generation's endpoints
        self.resolver = Resolver(graph)
        self.resolver.warm()
        self.clients = ClientIndex(graph.clients)
        self.has_provider_budgets = any(provider.budgets for provider in graph.providers.values()) or any(
            budget.scope in ("provider", "endpoint") for budget in graph.budgets.values()
        )
        self._shared = shared
        self._lanes: dict[str, Lane] = {}
        self.charges: dict[bytes, Charge] = {}  # every one that was charged, by key
        self.lists: dict[object, tuple[object, bytes]] = {}  # what server.models has encoded
        self._bills: dict[tuple[str, ...], Bill] = {}
        self._provider_bills: dict[tuple[str, str, int, str], Bill] = {}
        self._dearest: dict[str, Price | None] = {}
        self._tallies: dict[tuple[str, str, str, int], Tally] = {}

    def lane(self, route: Route) -> Lane:
        """Return the lane of a route, compiled at its first request."""
        lane = self._lanes.get(route.name)
        if lane is None:
            if len(self._lanes) >= MAX_LANES_CACHED:
                self._lanes.clear()
            lane = self._lanes[route.name] = Lane(self.graph, route, self._shared, self._shared.metrics)
        return lane

    def bill(self, client: Client | None, route: Route, asked: str) -> Bill:
        """Return the budgets of the client and the route that this request counts against."""
        if not route.budgets and (client is None or not (client.budgets or client.credits)):
            return NO_BILL
        key: tuple[str, ...] = (client.name if client is not None else "", route.name)
        if route.pattern is not None:  # a budget's own model filter may look at the asked name
            key = (*key, asked)
        found = self._bills.get(key)
        if found is None:
            found = self._prepared(charges(self.graph, client=client, route=route, captured_model=asked))
            if len(self._bills) >= MAX_BILLS_CACHED:
                self._bills.clear()
            self._bills[key] = found
        return found

    def provider_bill(self, planned: Planned, client: Client | None, route: Route) -> Bill:
        """Return what an attempt at this provider counts against, besides what the request does."""
        key = (client.name if client is not None else "", route.name, planned.index, planned.model)
        found = self._provider_bills.get(key)
        if found is None:
            where = (planned.provider, planned.endpoint.name)
            found = self._prepared(provider_charges(self.graph, where, planned.model, client, route))
            if len(self._provider_bills) >= MAX_BILLS_CACHED:
                self._provider_bills.clear()
            self._provider_bills[key] = found
        return found

    def dearest(self, lane: Lane) -> Price | None:
        """Return the highest price of all that may answer: what a request is reserved at before a target is chosen."""
        name = lane.route.name
        if name not in self._dearest:
            self._dearest[name] = dearest(planned.target.price for planned in lane.plan.every)
        return self._dearest[name]

    def _prepared(self, found: tuple[Charge, ...]) -> Bill:
        if not found:
            return NO_BILL
        self.charges.update((charge.key, charge) for charge in found)
        return Bill(found, tell=self.graph.response_headers)

    def tally(self, operation: str, route: str, client: str, planned: Planned) -> Tally:
        """Return the cells of requests of this kind."""
        key = (operation, route, client, planned.index)
        found = self._tallies.get(key)
        if found is None:
            fields = "" if "{" in planned.target.model else self.fields(route, planned)
            found = self._tallies[key] = Tally(self._shared.metrics, (operation, route, client), planned, fields)
        return found

    def fields(self, route: str, planned: Planned | None) -> str:
        """Return the x-routerd-* lines that say where a request went; none when they are switched off."""
        if not self.graph.response_headers:
            return ""
        fields = f"x-routerd-generation: {self.number}\r\n"
        if route:
            fields += f"x-routerd-route: {safe(route)}\r\n"
        if planned is not None:
            fields += f"x-routerd-target: {safe(planned.provider.name)}/{safe(planned.model)}\r\n"
        return fields
