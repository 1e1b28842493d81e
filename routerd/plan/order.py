"""A route compiled for use: its targets with their endpoints, and the order in which one request tries them.

Rules, in the order of the code: a chain keeps its order; inside a step the group is balanced; inside a target the provider's
endpoints are balanced; then what is full goes behind what is free, and what cools down behind both. Nothing is dropped: when
all are bad, the least bad is still tried. Balancing looks only at what is usable, so that a failing member's share is spread.
What a provider does not offer (embeddings, images) is not asked of it: its entries are left out of that request's plan.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from routerd.errors import BadRequest
from routerd.graph import Endpoint, Graph, Provider, Route, Target
from routerd.graph.pattern import fill
from routerd.plan.balance import Group

FREE, FULL, COOLING = 0, 1, 2


class HealthView(Protocol):
    """What a plan asks about endpoints; `health.Health` answers it."""

    def cooling(self, endpoint_name: str, now_s: float, /) -> float:
        """Return the end of the cooldown (monotonic), or 0.0."""

    def inflight(self, endpoint_name: str, /) -> int:
        """Return the requests that run there now."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One place to try. `model` is the upstream's name for it; `index` its place in `RoutePlan.entries`."""

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


class RoutePlan:
    """The compiled chain of one route. Belongs to one generation and one thread (rotations remember their turn)."""

    __slots__ = ("_balanced", "_offering", "_picky", "_single", "_steps", "_templated", "_watched", "entries", "route", "skipped")

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
                self._steps.append((places, Group(step.balance, [target.weight for target in targets])))
        self.entries: tuple[Planned, ...] = tuple(entries)
        self._templated = any("{" in planned.model for planned in entries)
        self._balanced = any(len(places) > 1 or len(places[0].entries) > 1 for places, _ in self._steps)
        self._single = len(entries) < 2
        self._picky = any(planned.provider.offers for planned in entries)
        self._offering: dict[str, frozenset[int]] = {}  # operation -> entries that offer it; as many as there are operations
        self._watched = tuple((planned.endpoint.name, planned.endpoint.max_concurrent) for planned in entries)

    def order(
        self, captured: tuple[str, ...], health: HealthView, rng: random.Random, now_s: float, operation: str = "chat"
    ) -> Sequence[Planned]:
        """Return every entry that offers `operation` (empty: whatever it is), in the order to try it.

        `captured` is what the route's pattern matched. Raises BadRequest where there are entries, but none offers it.
        """
        planned: Sequence[Planned] = self.entries
        if not self._single:
            ranks = self._ranks(health, now_s)
            if self._balanced:
                planned = self._balance(ranks, health, rng)
            elif ranks is not None:
                planned = tuple(sorted(planned, key=lambda entry: ranks[entry.index]))
        if self._picky and operation:
            able = self._able(operation)
            if len(able) < len(planned):
                planned = [entry for entry in planned if entry.index in able]
        if self._templated and captured:
            return [_filled(entry, captured) for entry in planned]
        return planned

    def _able(self, operation: str) -> frozenset[int]:
        """Return the numbers of the entries that offer an operation."""
        able = self._offering.get(operation)
        if able is None:
            able = frozenset(entry.index for entry in self.entries if offers(entry.provider, operation))
            if not able and self.entries:
                message = f"No target of the model '{self.route.name}' offers what was asked ({operation})."
                raise BadRequest(message, code="unsupported_operation", param="model")
            self._offering[operation] = able
        return able

    def _ranks(self, health: HealthView, now_s: float) -> list[int] | None:
        """Return FREE, FULL or COOLING for every entry; None when all are free, which is the usual case."""
        ranks: list[int] | None = None
        for index, (name, most) in enumerate(self._watched):
            if health.cooling(name, now_s):
                rank = COOLING
            elif most is not None and health.inflight(name) >= most:
                rank = FULL
            else:
                continue
            if ranks is None:
                ranks = [FREE] * len(self._watched)
            ranks[index] = rank
        return ranks

    def _balance(self, ranks: list[int] | None, health: HealthView, rng: random.Random) -> tuple[Planned, ...]:
        load = [health.inflight(name) for name, _ in self._watched]
        order: list[int] = []
        for places, group in self._steps:
            if len(places) == 1:
                chosen: Sequence[_Place] = places
            else:
                best = [min(ranks[i] for i in place.entries) for place in places] if ranks else None
                busy = [sum(load[i] for i in place.entries) for place in places]
                chosen = [places[number] for number in _by_rank(len(places), best, busy, group, rng)]
            for place in chosen:
                if len(place.entries) == 1:
                    order += place.entries
                    continue
                local = [ranks[i] for i in place.entries] if ranks else None
                local_load = [load[i] for i in place.entries]
                order += [place.entries[j] for j in _by_rank(len(place.entries), local, local_load, place.group, rng)]
        if ranks is not None:
            order.sort(key=ranks.__getitem__)
        return tuple([self.entries[i] for i in order])


def offers(provider: Provider, operation: str) -> bool:
    """Tell whether a provider can be asked for an operation: by its word, or by its path where it has no word of its own."""
    return not provider.offers or operation in provider.offers or operation in provider.offers.values()


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
    return _Place(tuple(range(first, len(entries))), Group(provider.balance, [e.weight for e in endpoints]))


def _by_rank(count: int, ranks: Sequence[int] | None, load: Sequence[int], group: Group, rng: random.Random) -> Sequence[int]:
    """Balance the best members among themselves; the worse ones follow in file order, by rank. No ranks: all are free."""
    if ranks is None:
        return group.order(range(count), load, rng)
    best = min(ranks)
    usable = [i for i in range(count) if ranks[i] == best]
    rest = sorted((i for i in range(count) if ranks[i] != best), key=ranks.__getitem__)
    return group.order(usable, load, rng) + rest


def _filled(entry: Planned, captured: tuple[str, ...]) -> Planned:
    model = _suffixed(fill(entry.target.model, captured), entry.provider)
    return Planned(entry.target, entry.provider, entry.endpoint, model, entry.index)


def _suffixed(model: str, provider: Provider) -> str:
    """Return the upstream's name of a model, with the provider's suffix unless it is there; a template gets it when filled."""
    suffix = provider.model_suffix
    return model if not suffix or "{" in model or model.endswith(suffix) else model + suffix
