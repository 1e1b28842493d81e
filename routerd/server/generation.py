"""One generation as a worker serves it: the frozen graph and what is compiled from it lazily, plus a count of its requests.

A request takes the generation once and keeps it to its end, so route, provider, budget and header all belong together; an old
generation is freed when its last request ends. Nothing here outlives a generation: pools, health, counters and metrics do not
live here.
"""

from __future__ import annotations

from typing import Any

from routerd.attempt import Lane, Setting, place_of
from routerd.errors import Forbidden
from routerd.graph import Client, Graph, Price, Route
from routerd.health import View
from routerd.plan import Planned, Resolved, Resolver
from routerd.policy import Bill, Charge, ClientIndex, allowed, charges, dearest, provider_charges
from routerd.server.budget.limits import lines_of
from routerd.server.http.render import safe
from routerd.server.shared import Shared
from routerd.server.tally import Tally

__all__ = ["Generation", "Permit"]

NO_BILL = Bill(())
MAX_BILLS_CACHED = 20_000  # names that clients make up come to no end
MAX_PERMITS_CACHED = 20_000
SHED_AT_ONCE = 25  # lanes of 15 us each: well below 1 ms
MAX_LANES_CACHED = 20_000  # more routes than that are compiled again when asked for


class Permit:
    """What one client's requests for one model have in common, prepared once: the route, its lane, the budgets."""

    __slots__ = ("bill", "captured", "dearest", "lane", "route")

    def __init__(self, lane: Lane, captured: tuple[str, ...], bill: Bill, dearest: Price | None) -> None:
        self.route = lane.route
        self.lane = lane
        self.captured = captured  # by the route's pattern
        self.bill = bill  # what a request is charged before a target is chosen
        self.dearest = dearest  # the highest price of all that may answer: what is reserved


class Generation:
    """A graph with its lazily compiled lanes. `number` is what `x-routerd-generation` says."""

    __slots__ = (
        "_bills",
        "_dearest",
        "_joint_bills",
        "_lanes",
        "_permits",
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
        "places",
        "resolver",
        "setting",
    )

    def __init__(self, number: int, graph: Graph, shared: Shared) -> None:
        self._shared = shared
        self.number = number
        self.graph = graph
        self.places = frozenset([place_of(endpoint) for endpoint in graph.endpoints.values() if endpoint.url])  # of its pools
        self.inflight = 0
        self.ended = 0  # requests that reached a target and ended: ok, upstream_error or truncated
        self.failed = 0  # of these: upstream_error or truncated
        self.serve(View({}))
        self.resolver = Resolver(graph)
        self.resolver.warm()
        self.clients = ClientIndex(graph.clients)
        self.has_provider_budgets = any(provider.budgets for provider in graph.providers.values()) or any(
            budget.scope in ("provider", "endpoint") for budget in graph.budgets.values()
        )
        self._lanes: dict[str, Lane] = {}
        self.charges: dict[bytes, Charge] = {}  # every one that was charged, by key
        self.lists: dict[object, tuple[object, bytes]] = {}  # what server.models has encoded
        self._bills: dict[tuple[str, ...], Bill] = {}
        self._provider_bills: dict[tuple[str, str, int, str], Bill] = {}
        self._joint_bills: dict[tuple[Bill, Bill], Bill | None] = {}
        self._permits: dict[tuple[str, str], Permit] = {}
        self._tallies: dict[tuple[str, str, str, int], Tally] = {}

    def serve(self, health: View) -> None:
        """Take up what is known of this generation's endpoints: done by the swap, before the first request."""
        self.health = health
        self.setting = Setting(health, self._shared.rng, self.graph.limits.response_body_bytes)

    def permit(self, client: Client | None, model: str) -> Permit:
        """Return what this client needs to use a model. Raises ModelNotFound, Forbidden; who may once, may in this generation."""
        key = (client.name if client is not None else "", model)
        found = self._permits.get(key)
        if found is None:
            resolved = self.resolver.resolve(model, None if client is None else lambda name: allowed(client, name))
            found = self.permit_of(client, resolved, model, model)
            if len(self._permits) >= MAX_PERMITS_CACHED:
                self._permits.clear()
            self._permits[key] = found
        return found

    def permit_of(self, client: Client | None, resolved: Resolved, model: str, name: str) -> Permit:
        """Return the same for a route that was found. `name` is what the client's list of models is asked about."""
        route = resolved.route
        if not allowed(client, name, route.name):
            raise Forbidden(f"This key may not use the model '{model}'.", param="model")
        lane, bill = self.lane(route), self.bill(client, route, model)
        price = dearest(planned.target.price for planned in lane.plan.every) if bill.settled else None
        return Permit(lane, resolved.captured, bill, price)

    def lane(self, route: Route) -> Lane:
        """Return the lane of a route, compiled at its first request."""
        lane = self._lanes.get(route.name)
        if lane is None:
            if len(self._lanes) >= MAX_LANES_CACHED:
                self._lanes.clear()
            lane = self._lanes[route.name] = Lane(self.graph, route, self._shared, self._shared.metrics)
        return lane

    def shed(self) -> bool:
        """Drop some of what was compiled, when nobody uses this any more; return whether there was any."""
        bills = (self._bills, self._provider_bills, self.charges)
        caches: tuple[dict[Any, Any], ...] = (self._permits, self._lanes, self._tallies, *bills, self.lists)
        found = next((cache for cache in caches if cache), None)
        if found is None:
            return False
        for _ in range(min(SHED_AT_ONCE, len(found))):
            found.popitem()
        return True

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

    def joint_bill(self, bill: Bill, target: Bill) -> Bill | None:
        """Return the charges of both as one bill; None where they have one in common, which is taken twice."""
        if (bill, target) not in self._joint_bills:
            keys = {charge.key for charge in (*bill.charges, *target.charges)}
            distinct = len(keys) == len(bill.charges) + len(target.charges)
            if len(self._joint_bills) >= MAX_BILLS_CACHED:
                self._joint_bills.clear()
            self._joint_bills[bill, target] = Bill((*bill.charges, *target.charges), tell=False) if distinct else None
        return self._joint_bills[bill, target]

    def _prepared(self, found: tuple[Charge, ...]) -> Bill:
        if not found:
            return NO_BILL
        self.charges.update((charge.key, charge) for charge in found)
        bill = Bill(found, tell=self.graph.response_headers)
        if bill.told:
            bill.lines = lines_of(bill)
        return bill

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
