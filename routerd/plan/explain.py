"""The whole decision for one model name, as facts: what `routerd explain` prints, and nothing of how.

It runs the code that serves: Resolver for the name, RoutePlan for the order. What is added here is only the why: where each value
was written (`origins`: path in the file -> place), why a target is where it is, and what a client that sets nothing would send.
Chance is fixed (a seeded draw), so the same question has the same answer; the text says where traffic is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from routerd.errors import Forbidden
from routerd.graph import Balance, Client, Graph, Params, Price, Route, Step, SystemPrompt, Target, Timeouts
from routerd.messages import DOWN, DRAINED, FREE, FULL, RANKS, Standing
from routerd.plan.order import HealthView, Planned, RoutePlan, offers
from routerd.plan.resolve import Resolver

Origins = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value that applies. `origin` is file:line:column, or where a value comes from that nobody wrote."""

    name: str
    value: object
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLine:
    """One target of the chain. `position` counts from 1 in the order of trying; 0: it is not in the plan."""

    label: str  # provider/model, filled from the pattern
    endpoint: str
    step: int
    position: int
    rank: str  # free | full | cooling | open | down | drained; empty for a target that cannot be used
    why: tuple[str, ...]
    origin: str
    params: tuple[Setting, ...]  # its own overrides
    sends: tuple[Setting, ...]  # the parameters of a request in which the client set none
    timeouts: tuple[Setting, ...]
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The decision for one asked name."""

    asked: str
    client: str | None
    route: Route
    via: str
    captured: tuple[str, ...]
    origin: str  # of the route
    alias_origin: str  # of the alias that was asked for
    system_prompt: SystemPrompt | None
    system_prompt_origin: str
    failover: tuple[Setting, ...]
    retry: tuple[Setting, ...]
    params: tuple[Setting, ...]  # of the route: kind.name
    targets: tuple[TargetLine, ...]  # in the order of trying, then the skipped ones
    overflow: tuple[TargetLine, ...]  # those for a prompt that is too long for the others
    budgets: tuple[str, ...]  # names: of the client, then of the route


class _Nothing:
    """A HealthView that has seen nothing."""

    def standing(self, _endpoint_name: str, _now_s: float, /) -> Standing | None:
        return None

    def reasons(self, _endpoint_name: str, _now_s: float, /) -> Sequence[str]:
        return ()

    def inflight(self, _endpoint_name: str, /) -> int:
        return 0

    def load(self, _endpoint_name: str, _now_s: float, /) -> int | None:
        return None

    def latency(self, _endpoint_name: str, _now_s: float, /) -> float:
        return 0.0


class ThoughtAway:
    """A HealthView in which some endpoints are down for good. `health` None: nothing is known of the others."""

    def __init__(self, health: HealthView | None, down: Iterable[str]) -> None:
        known: HealthView = health or _Nothing()
        self._health = known
        self._down = frozenset(down)
        self.inflight = known.inflight
        self.load = known.load
        self.latency = known.latency

    def standing(self, endpoint_name: str, now_s: float, /) -> Standing | None:
        return Standing(DOWN) if endpoint_name in self._down else self._health.standing(endpoint_name, now_s)

    def reasons(self, endpoint_name: str, now_s: float, /) -> Sequence[str]:
        return ("thought away",) if endpoint_name in self._down else self._health.reasons(endpoint_name, now_s)


def explain(
    graph: Graph,
    model: str,
    *,
    client: Client | None = None,
    down: Sequence[str] = (),
    health: HealthView | None = None,
    now_s: float = 0.0,
    origins: Origins | None = None,
    operation: str = "chat",
    key: int = 0,
) -> Explanation:
    """Decide for `model` as for a request, with some endpoints thought away. Raises what the request would be answered with.

    `key`: what belongs together (plan.affinity), for groups that balance by it.
    """
    resolved = Resolver(graph).resolve(model, client.may_use if client else None)
    route = resolved.route
    if client is not None and not client.may_use(model, route.name):
        raise Forbidden(f"This key may not use the model '{model}'.", param="model")
    view = ThoughtAway(health, down)
    plan = RoutePlan(graph, route)
    writer = _Lines(route, resolved.captured, resolved.via, origins or {}, view, now_s)
    planned = plan.order(resolved.captured, view, random.Random(0), now_s, operation, key)
    lines, overflow = _listed(writer, plan, planned, operation), []
    if plan.overflow is not None:
        instead = plan.order(resolved.captured, view, random.Random(0), now_s, operation, key, overflow=True)
        overflow = _listed(writer.of_overflow(), plan.overflow, instead, operation)
    return Explanation(
        asked=model,
        client=client.name if client else None,
        route=route,
        via=resolved.via,
        captured=resolved.captured,
        origin=writer.origin(writer.path),
        alias_origin=writer.alias(model) if resolved.via == "alias" else "",
        system_prompt=route.system_prompt,
        system_prompt_origin=writer.origin(*(f"{writer.path}.system_prompt{end}" for end in (".text", ".file", ""))),
        failover=writer.settings("failover", route.failover),
        retry=writer.settings("retry", route.retry),
        params=writer.params(route.params, f"{writer.path}.params"),
        targets=tuple(lines),
        overflow=tuple(overflow),
        budgets=(*(client.budgets if client else ()), *route.budgets),
    )


def _listed(writer: _Lines, plan: RoutePlan, planned: Sequence[Planned], operation: str) -> list[TargetLine]:
    """Describe the targets of a chain: in the order of trying, then those that are not tried."""
    lines = [writer.planned(entry, place) for place, entry in enumerate(planned, start=1)]
    tried = {(id(entry.target), entry.endpoint.name) for entry in planned}
    left = [entry for entry in plan.entries if (id(entry.target), entry.endpoint.name) not in tried]
    lines += [writer.planned(entry, 0) for entry in left if offers(entry.provider, operation)]
    lines += [writer.skipped(skip.target, skip.reason) for skip in plan.skipped]
    unable = {id(entry.target): entry for entry in left if not offers(entry.provider, operation)}
    lines += [writer.skipped(e.target, f"provider '{e.provider.name}' does not offer {operation}") for e in unable.values()]
    return lines


class _Lines:
    """Writes the lines of one route."""

    def __init__(
        self, route: Route, captured: tuple[str, ...], via: str, origins: Origins, view: ThoughtAway, now_s: float
    ) -> None:
        self.path = f"providers.{route.name.partition('/')[0]}.direct" if via == "direct" else f"models.{route.name}"
        self._route = route
        self._captured = captured
        self._origins = origins
        self._view = view
        self._now_s = now_s
        self._chain = route.chain
        self._chain_path = f"{self.path}.chain"

    def of_overflow(self) -> _Lines:
        """Return a writer of the chain for prompts that are too long: the model's own, or that of the defaults."""
        found = copy(self)
        found._chain = self._route.overflow
        own = f"{self.path}.failover.context_overflow"
        found._chain_path = own if f"{own}[0]" in self._origins else "defaults.failover.context_overflow"
        return found

    def origin(self, *paths: str) -> str:
        """Return where the first of these paths that stands in the file was written, or nothing."""
        return next((str(self._origins[path]) for path in paths if path in self._origins), "")

    def planned(self, entry: Planned, position: int) -> TargetLine:
        """Describe an entry of the plan."""
        rank, against = self._rank(entry)
        why = [*self._sharing(entry), *against]
        if position > self._route.failover.max_attempts:
            why.append(f"max_attempts {self._route.failover.max_attempts} are used up before it")
        return self._line(entry.target, f"{entry.target.provider}/{entry.model}", entry.endpoint.name, position, why, rank)

    def skipped(self, target: Target, reason: str) -> TargetLine:
        """Describe a target that cannot be used."""
        return self._line(target, target.label, target.endpoint or "", 0, [reason])

    def params(self, params: Params, path: str) -> tuple[Setting, ...]:
        """List the rules of a `params` block in the order in which they apply."""
        found = [Setting(name=f"drop.{name}", value=None, origin=self.origin(f"{path}.drop")) for name in params.drop]
        for kind, rules in (("defaults", params.defaults), ("clamp", params.clamp), ("force", params.force)):
            for name, value in rules.items():
                place = self.origin(f"{path}.{kind}.{name}", f"{path}.{kind}", path)
                found.append(Setting(name=f"{kind}.{name}", value=value, origin=place))
        return tuple(found)

    def alias(self, alias: str) -> str:
        """Return where an alias of the route was written: under the model, or in the table."""
        place = next((i for i, name in enumerate(self._route.aliases) if name == alias), None)
        return self.origin(f"aliases.{alias}" if place is None else f"{self.path}.aliases[{place}]")

    def settings(self, block: str, values: object) -> tuple[Setting, ...]:
        """List the fields of `failover` or `retry`, each with the most specific place that set it."""
        found: list[Setting] = []
        for one in fields(values):  # type: ignore[arg-type]
            key, value = one.name.removesuffix("_s"), getattr(values, one.name)
            if is_dataclass(value):
                found += self.settings(f"{block}.{key}", value)
            else:
                origin = self.origin(*(f"{place}.{block}.{key}" for place in (self.path, "defaults"))) or "built in"
                name = ".".join([*block.split(".")[1:], key]).removesuffix("_ratio")
                found.append(Setting(name=name, value=value, origin=origin))
        return tuple(found)

    def _line(
        self, target: Target, label: str, endpoint: str, position: int, why: list[str], rank: str = ""
    ) -> TargetLine:
        number, step = self._step(target)
        link = f"{self._chain_path}[{number}]"
        member = next(i for i, one in enumerate(step.targets) if one is target)
        path = f"{link}.any_of[{member}]" if f"{link}.any_of" in self._origins else link
        own = self.params(target.params, f"{path}.params")
        route = self.params(self._route.params, f"{self.path}.params")
        return TargetLine(
            label=label,
            endpoint=endpoint,
            step=number + 1,
            position=position,
            rank=rank,
            why=tuple(why),
            origin=self.origin(path, link),
            params=own,
            sends=_sends(route, own),
            timeouts=self._timeouts(target, path),
            price=target.price,
        )

    def _step(self, target: Target) -> tuple[int, Step]:
        return next((i, step) for i, step in enumerate(self._chain) if any(one is target for one in step.targets))

    def _sharing(self, entry: Planned) -> list[str]:
        """Say how the target and the endpoint came to be where they are among their equals."""
        _, step = self._step(entry.target)
        why = []
        if len(step.targets) > 1:
            why.append(_share("of the group", step.balance, entry.target.weight, [t.weight for t in step.targets]))
        if entry.endpoint.labels:
            why.append("labels " + ", ".join(f"{name}={value}" for name, value in entry.endpoint.labels.items()))
        equals = entry.provider.endpoints
        if len(equals) > 1 and entry.target.endpoint is None:
            why.append(_share("of the endpoints", entry.provider.balance, entry.endpoint.weight, [e.weight for e in equals]))
        return why

    def _rank(self, entry: Planned) -> tuple[str, list[str]]:
        """Return the rank of the endpoint, and what is known of it that puts it behind others."""
        name, most = entry.endpoint.name, entry.endpoint.max_concurrent
        standing = self._view.standing(name, self._now_s) or Standing()
        why = list(self._view.reasons(name, self._now_s))
        rank = standing.rank
        running = self._view.inflight(name)
        if rank == FREE and most is not None and running >= most:
            rank = FULL
            why.append(f"full, {running} of {most} in flight: goes behind what is free")
        elif FULL < rank < DRAINED and why:
            why[-1] += ": goes last"
        return RANKS[rank], why

    def _timeouts(self, target: Target, path: str) -> tuple[Setting, ...]:
        """List the timeouts of a target, each with the most specific place that set it."""
        found = []
        places = (path, self.path, f"providers.{target.provider}", "defaults")
        for field in Timeouts.__dataclass_fields__:
            key = field.removesuffix("_s")
            origin = self.origin(*(f"{place}.timeouts.{key}" for place in places)) or "built in"
            found.append(Setting(name=key, value=getattr(target.timeouts, field), origin=origin))
        return tuple(found)


def _share(among: str, balance: Balance, weight: int, weights: Sequence[int]) -> str:
    total = sum(weights)
    match balance:
        case Balance.WEIGHTED:
            return f"drawn first in {100 * weight / total if total else 0:.0f} % {among}"
        case Balance.ROUND_ROBIN:
            return f"takes turns, {weight} in {total} {among}"
        case Balance.LATENCY:
            return f"the faster of two drawn {among} goes first (weight {weight})"
        case Balance.PREFIX_HASH:
            return f"requests of one conversation stay together, {100 * weight / total if total else 0:.0f} % {among}"
        case _:
            return f"the least busy {among} goes first (weight {weight})"


def _sends(*levels: Sequence[Setting]) -> tuple[Setting, ...]:
    """Apply the rules of the route, then of the target, to a request that sets nothing."""
    sent: dict[str, Setting] = {}
    for rules in levels:
        for rule in rules:
            kind, _, name = rule.name.partition(".")
            if kind == "drop":
                sent.pop(name, None)
            elif kind == "force" or (kind == "defaults" and name not in sent):
                sent[name] = Setting(name=name, value=rule.value, origin=rule.origin)
            elif kind == "clamp" and name in sent:
                sent[name] = Setting(name=name, value=_clamped(sent[name].value, rule.value), origin=sent[name].origin)
    return tuple(sent.values())


def _clamped(value: Any, clamp: Any) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    low = value if clamp.min is None else max(value, clamp.min)
    bounded: int | float = low if clamp.max is None else min(low, clamp.max)
    return int(bounded) if isinstance(value, int) and bounded == int(bounded) else bounded
