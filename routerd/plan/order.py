"""A route compiled for use: its targets with their endpoints, and the order in which one request tries them.

Rules, in the order of the code: a chain keeps its order; inside a step the group is balanced; inside a target the provider's
endpoints are balanced; then the ranks: free, full, cooling, open, down. Only what was drained by hand is dropped: when all are
bad, the least bad is still tried. Balancing looks only at what is usable, so that a failing member's share is spread.
An endpoint that comes back is drawn for: a half-open breaker counts as open for all but a growing share of the requests, and
one that starts slowly is the last of its group for all but such a share.
What a provider does not offer (embeddings, images) is not asked of it: its entries are left out of that request's plan.
The chain for prompts that are too long is a plan of its own, asked for only when it is needed; its entries are numbered on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from routerd.errors import BadRequest
from routerd.graph import Endpoint, Graph, Provider, Route, Target
from routerd.graph.pattern import fill
from routerd.messages import DRAINED, FREE, FULL, OPEN, Standing
from routerd.plan.balance import Group

# Of another API than OpenAI's: a provider without `offers` is not thought to have it. (Dialects that have it fill `offers`.)
NEVER_ASSUMED = frozenset({"count_tokens"})


class HealthView(Protocol):
    """What a plan asks about endpoints; `health.Health` answers it."""

    def standing(self, endpoint_name: str, now_s: float, /) -> Standing | None:
        """Return what stands against it; None, the usual case, when nothing does."""

    def reasons(self, endpoint_name: str, now_s: float, /) -> Sequence[str]:
        """Say the same in words."""

    def inflight(self, endpoint_name: str, /) -> int:
        """Return the requests that run there now."""

    def load(self, endpoint_name: str, now_s: float, /) -> int | None:
        """Return the requests that the engine itself counts; None when it was not asked lately."""

    def latency(self, endpoint_name: str, now_s: float, /) -> float:
        """Return the time to its first byte or token in seconds; 0.0: not known."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One place to try. `model` is the upstream's name for it; `index` its place in `RoutePlan.every`."""

    target: Target
    provider: Provider
    endpoint: Endpoint
    model: str
    index: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A target of the configuration that is in no plan, and why."""

    target: Target
    reason: str


class _Place:
    """A target with its endpoints: the numbers of its entries, and how they share."""

    __slots__ = ("entries", "group")

    def __init__(self, entries: tuple[int, ...], group: Group) -> None:
        self.entries = entries
        self.group = group


class _Look:
    """What one request sees: the rank of every entry, and who is held back in its group. None: all are free."""

    __slots__ = ("health", "held", "key", "now_s", "ranks", "rng")

    def __init__(self, health: HealthView, rng: random.Random, now_s: float, key: int) -> None:
        self.health = health
        self.rng = rng
        self.now_s = now_s
        self.key = key
        self.ranks: list[int] | None = None
        self.held: set[int] = set()

    def order(self, group: Group, members: Sequence[Sequence[int]], names: Sequence[str]) -> Sequence[int]:
        """Balance the best members of a group; the worse ones follow in file order, by rank. A member is one entry or several."""
        count = len(members)
        load: Sequence[float] = self._load(members, names) if group.needs_load else ()
        latency = self._latency(members, names) if group.needs_latency else ()
        ranks, held = self.ranks, self.held
        if ranks is None:
            return group.order(range(count), load, self.rng, latency, self.key)
        local = [min(2 * ranks[i] + (i in held) for i in entries) for entries in members]
        best = min(local)
        usable = [i for i in range(count) if local[i] == best]
        rest = sorted((i for i in range(count) if local[i] != best), key=local.__getitem__)
        return group.order(usable, load, self.rng, latency, self.key) + rest

    def _load(self, members: Sequence[Sequence[int]], names: Sequence[str]) -> list[int]:
        """Return the load of each member: the engines' own gauges where all have them, so that like is compared with like."""
        health, now_s = self.health, self.now_s
        told = [[health.load(names[i], now_s) for i in entries] for entries in members]
        if all(load is not None for loads in told for load in loads):
            return [sum(load or 0 for load in loads) for loads in told]
        return [sum(health.inflight(names[i]) for i in entries) for entries in members]

    def _latency(self, members: Sequence[Sequence[int]], names: Sequence[str]) -> list[float]:
        """Return the latency of each member: the best of its endpoints, which is the one that it would use."""
        health, now_s = self.health, self.now_s
        return [min(health.latency(names[i], now_s) for i in entries) for entries in members]


class RoutePlan:
    """The compiled chain of one route. Belongs to one generation and one thread (rotations remember their turn).

    `needs_key`: some group wants to know what belongs together; `needs_latency`: some group wants latencies to be measured.
    `overflow`: the plan for prompts that are too long, or None; `every`: the entries of both.
    """

    __slots__ = (
        "_balanced",
        "_chosen",
        "_names",
        "_offering",
        "_picky",
        "_single",
        "_steps",
        "_templated",
        "_watched",
        "entries",
        "every",
        "needs_key",
        "needs_latency",
        "overflow",
        "route",
        "skipped",
    )

    def __init__(self, graph: Graph, route: Route) -> None:
        self.route = route
        self.skipped = skipped(graph, route)
        left_out = {id(skip.target) for skip in self.skipped}
        entries: list[Planned] = []
        self._steps: list[tuple[tuple[_Place, ...], Group]] = []
        for step in route.chain:
            targets = [target for target in step.targets if id(target) not in left_out]
            places = tuple(_place(graph, target, entries) for target in targets)
            if places:
                names = [f"{target.label}@{target.endpoint or ''}" for target in targets]
                self._steps.append((places, Group(step.balance, [target.weight for target in targets], names)))
        self.entries: tuple[Planned, ...] = tuple(entries)
        self._templated = any("{" in planned.model for planned in entries)
        self._balanced = any(len(places) > 1 or len(places[0].entries) > 1 for places, _ in self._steps)
        self._single = len(entries) < 2
        # Who is first is not the file's order alone: groups are balanced, who is full goes behind.
        self._chosen = self._balanced or any(planned.endpoint.max_concurrent is not None for planned in entries)
        self._picky = any(planned.provider.offers for planned in entries)
        self._offering: dict[str, frozenset[int]] = {}  # operation -> entries that offer it; as many as there are operations
        self._names = tuple(planned.endpoint.name for planned in entries)
        self._watched = tuple((planned.endpoint.name, planned.endpoint.max_concurrent) for planned in entries)
        groups = [group for places, group in self._steps for group in (group, *(place.group for place in places))]
        more = RoutePlan(graph, replace(route, chain=route.overflow, overflow=())) if route.overflow else None
        self.overflow: RoutePlan | None = more
        self.every: tuple[Planned, ...] = self.entries
        if more is not None:
            self.every += tuple(replace(entry, index=len(entries) + entry.index) for entry in more.entries)
        self.needs_key: bool = any(group.needs_key for group in groups) or (more is not None and more.needs_key)
        self.needs_latency: bool = any(group.needs_latency for group in groups) or (more is not None and more.needs_latency)

    def order(
        self,
        captured: tuple[str, ...],
        health: HealthView,
        rng: random.Random,
        now_s: float,
        operation: str = "chat",
        key: int = 0,
        *,
        overflow: bool = False,
    ) -> Sequence[Planned]:
        """Return the entries that offer `operation` (empty: whatever it is), in the order to try them, all but the drained.

        `captured` is what the pattern of the route matched; `key` is looked at where `needs_key` (plan.affinity).
        Raises BadRequest where there are entries, but none offers it. `overflow`: the order for a prompt that is too long;
        nobody where there is no such chain, or none there offers it.
        """
        if overflow:
            if self.overflow is None:
                return ()
            try:
                more = self.overflow.order(captured, health, rng, now_s, operation, key)
            except BadRequest:
                return ()
            return [replace(entry, index=len(self.entries) + entry.index) for entry in more]
        planned: Sequence[Planned] = self.entries
        if self._single:
            standing = health.standing(self._names[0], now_s) if planned else None
            if standing is not None and standing.rank == DRAINED:
                planned = ()
        elif self._chosen:
            planned = self._by_rank(_Look(health, rng, now_s, key))
        else:
            for name in self._names:
                if health.standing(name, now_s) is not None:
                    planned = self._by_rank(_Look(health, rng, now_s, key))
                    break
        if operation and (self._picky or operation in NEVER_ASSUMED):
            able = self._able(operation)
            if len(able) < len(self.entries):
                planned = [entry for entry in planned if entry.index in able]
        if self._templated and captured:
            return [_filled(entry, captured) for entry in planned]
        return planned

    def _by_rank(self, look: _Look) -> Sequence[Planned]:
        """Return the entries, balanced, the worse ones behind the better, without the drained."""
        self._rank(look)
        planned, ranks = self.entries, look.ranks
        if self._balanced:
            planned = self._balance(look)
        elif ranks is not None:
            planned = tuple(sorted(planned, key=lambda entry: ranks[entry.index]))
        if ranks is not None and ranks[planned[-1].index] == DRAINED:
            planned = tuple(entry for entry in planned if ranks[entry.index] != DRAINED)
        return planned

    def _able(self, operation: str) -> frozenset[int]:
        """Return the numbers of the entries that offer an operation."""
        able = self._offering.get(operation)
        if able is None:
            able = frozenset(entry.index for entry in self.entries if offers(entry.provider, operation))
            if not able and self.entries:
                asked = f"No target of the model '{self.route.name}' offers what was asked ({operation})."
                message = f"{asked} A provider that can do it says so in its `offers`."
                raise BadRequest(message, code="unsupported_operation", param="model")
            self._offering[operation] = able
        return able

    def _rank(self, look: _Look) -> None:
        """Find the rank of every entry; nothing is noted when all are free, which is the usual case."""
        health, now_s = look.health, look.now_s
        for index, (name, most) in enumerate(self._watched):
            standing = health.standing(name, now_s)
            rank = FREE if standing is None else _drawn(standing, look, index)
            if rank == FREE and most is not None and health.inflight(name) >= most:
                rank = FULL
            if rank == FREE and not look.held:
                continue
            if look.ranks is None:
                look.ranks = [FREE] * len(self._watched)
            look.ranks[index] = rank

    def _balance(self, look: _Look) -> tuple[Planned, ...]:
        names = self._names
        order: list[int] = []
        for places, group in self._steps:
            if len(places) == 1:
                chosen: Sequence[_Place] = places
            else:
                chosen = [places[i] for i in look.order(group, [place.entries for place in places], names)]
            for place in chosen:
                entries = place.entries
                if len(entries) == 1:
                    order += entries
                else:
                    order += [entries[i] for i in look.order(place.group, [(i,) for i in entries], names)]
        if look.ranks is not None:
            order.sort(key=look.ranks.__getitem__)
        return tuple([self.entries[i] for i in order])


def offers(provider: Provider, operation: str) -> bool:
    """Tell whether a provider can be asked for an operation: by its word, or by its path where it has no word of its own."""
    if not provider.offers:
        return operation not in NEVER_ASSUMED
    return operation in provider.offers or operation in provider.offers.values()


def _drawn(standing: Standing, look: _Look, index: int) -> int:
    """Return the rank for this request: the shares of what comes back are drawn."""
    if standing.slow_share < 1.0 and look.rng.random() >= standing.slow_share:
        look.held.add(index)
    if standing.open_share < 1.0 and look.rng.random() >= standing.open_share:
        return max(standing.rank, OPEN)
    return standing.rank


def skipped(graph: Graph, route: Route) -> tuple[Skipped, ...]:
    """Return the targets of `route` that cannot be used at all, with the reason in words."""
    found = []
    for step in route.chain:
        for target in step.targets:
            reason = _unusable(graph, target)
            if reason:
                found.append(Skipped(target, reason))
    return tuple(found)


def _unusable(graph: Graph, target: Target) -> str:
    provider = graph.providers.get(target.provider)
    if provider is None:
        return f"there is no provider '{target.provider}'"
    if provider.disabled:
        return f"provider '{provider.name}' is disabled: {provider.disabled}"
    if target.endpoint is not None and not any(e.name == target.endpoint for e in provider.endpoints):
        return f"provider '{provider.name}' has no endpoint '{target.endpoint}'"
    return "" if provider.endpoints else f"provider '{provider.name}' has no endpoint"


def _place(graph: Graph, target: Target, entries: list[Planned]) -> _Place:
    """Append the entries of one usable target and return where they are."""
    provider = graph.providers[target.provider]
    endpoints = [e for e in provider.endpoints if target.endpoint is None or e.name == target.endpoint]
    first = len(entries)
    for endpoint in endpoints:
        entries.append(Planned(target, provider, endpoint, _suffixed(target.model, provider), len(entries)))
    group = Group(provider.balance, [e.weight for e in endpoints], [e.name for e in endpoints])
    return _Place(tuple(range(first, len(entries))), group)


def _filled(entry: Planned, captured: tuple[str, ...]) -> Planned:
    model = _suffixed(fill(entry.target.model, captured), entry.provider)
    return Planned(entry.target, entry.provider, entry.endpoint, model, entry.index)


def _suffixed(model: str, provider: Provider) -> str:
    """Return the upstream's name of a model, with the provider's suffix unless it is there; a template gets it when filled."""
    suffix = provider.model_suffix
    return model if not suffix or "{" in model or model.endswith(suffix) else model + suffix
