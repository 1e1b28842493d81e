"""Which budgets apply to a request, and for whom each is counted.

A charge is a budget with the subject it is counted for. What a request is charged is known before it runs: its client's and its
route's budgets at once, those of a provider (scopes `provider` and `endpoint` too) when a target there is tried. A budget with
`burst` is two charges: its window, and a bucket of `burst` that drains at the even rate. Everything is prepared once a generation
and kind of request; only amounts change from request to request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from routerd.graph import Budget, Client, Credits, Graph, Provider, Route
from routerd.messages import Taken

__all__ = ["CREDITS", "EVER", "Bill", "Charge", "charges", "credit_charge", "provider_charges"]

CREDITS = "credits"  # what a client's credits are called where budgets have their names
EVER = "ever"  # the window of credits: it never begins anew

_AT_TARGET = frozenset({"provider", "endpoint"})  # scopes that have their subject when a target is tried
_TOKENS, _USD, _REQUESTS, _HELD = range(4)  # places in a Need (`budgets`)
_PICKS = {"tokens": _TOKENS, "usd": _USD}  # what a budget counts of a need when it is taken; else one request


@dataclass(frozen=True, slots=True)
class Charge:
    """A budget for one subject: "" (global), or the name of a client, a route, a provider or an endpoint.

    `pace`: the bucket of a budget with `burst`, not its window. How it is counted: `drain_s` > 0 as a bucket of `limit` that
    drains in so long, else in a `calendar` window, else in a sliding one of `window_s` > 0, else held until given back.
    """

    budget: Budget
    subject: str
    pace: bool = False
    key: bytes = field(init=False, repr=False, compare=False)
    limit: int = field(init=False, repr=False, compare=False)
    window_s: float = field(init=False, repr=False, compare=False)
    calendar: str = field(init=False, repr=False, compare=False)
    drain_s: float = field(init=False, repr=False, compare=False)
    enforced: bool = field(init=False, repr=False, compare=False)
    settled: bool = field(init=False, repr=False, compare=False)  # reserved by an estimate

    def __post_init__(self) -> None:
        budget = self.budget
        identity = "\0".join((budget.name, budget.kind, budget.scope, self.subject) + (("pace",) if self.pace else ()))
        if budget.calendar == EVER:  # other credits, even of a budget that has the same name
            identity += f"\0{EVER}\0{budget.since}"
        digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        windowed = budget.kind != "concurrency" and not self.pace
        object.__setattr__(self, "key", digest)
        object.__setattr__(self, "limit", budget.burst if self.pace else budget.limit)
        object.__setattr__(self, "window_s", budget.window_s if windowed else 0.0)
        object.__setattr__(self, "calendar", budget.calendar if windowed else "")
        object.__setattr__(self, "drain_s", budget.burst * budget.window_s / budget.limit if self.pace else 0.0)
        object.__setattr__(self, "enforced", not budget.shadow)
        object.__setattr__(self, "settled", budget.kind in _PICKS)


class Bill:
    """The charges of one kind of request, prepared: which amounts they count, which of them are settled, held, queued for.

    `amounts` picks from what a request may use what each charge takes, `left` from what it used what stays of that at its end.
    """

    __slots__ = ("amounts", "charges", "credited", "ends", "held", "left", "lines", "queues", "settled", "told")

    def __init__(self, charges: Iterable[Charge], *, tell: bool = True) -> None:
        self.lines: Callable[[Taken], str] | None = None  # writes what the client is told, where the server has prepared that
        self.charges: Sequence[Charge] = tuple(charges)
        picks = [_PICKS.get(charge.budget.kind, _REQUESTS) for charge in self.charges]
        self.settled = tuple(i for i, charge in enumerate(self.charges) if charge.settled)
        self.held = tuple(i for i, charge in enumerate(self.charges) if charge.budget.kind == "concurrency")
        self.ends = bool(self.settled or self.held)  # whether there is anything to do when a request ends
        self.amounts = _picking(picks)
        self.left = _picking([_HELD if i in self.held else pick for i, pick in enumerate(picks)])
        self.credited = any(charge.calendar == EVER for charge in self.charges)
        self.queues = any(charge.budget.queue_max for charge in self.charges)
        # What a client may be told the state of: windows that count nobody but this client. None unless `tell`.
        self.told = tuple(
            i
            for i, charge in enumerate(self.charges)
            if tell and charge.budget.kind in ("requests", "tokens") and charge.budget.scope == "client" and not charge.pace
            and charge.calendar != EVER
        )

    def __bool__(self) -> bool:
        return bool(self.charges)


def _picking(picks: Sequence[int]) -> Callable[[tuple[int, ...]], Sequence[int]]:
    """Return what picks these of a tuple, as a tuple, without a line of Python."""
    return itemgetter(*picks) if len(picks) > 1 else itemgetter(slice(picks[0], picks[0] + 1) if picks else slice(0))


def charges(graph: Graph, *, client: Client | None, route: Route, captured_model: str) -> tuple[Charge, ...]:
    """Return what a request is charged before a target is chosen: its client's and its route's budgets, each once.

    A budget with `models` counts the route if it covers any name of it, aliases too: the answer is the same for each alias, and
    another name is no way around. `captured_model` is the model as asked for; it matters for patterns only. A budget of scope
    `provider` or `endpoint` has no subject yet: `provider_charges` has it.
    """
    names = (*(client.budgets if client else ()), *route.budgets)
    models = (route.name, captured_model) if route.pattern else _names(graph, route)
    chosen = (b for b in _budgets(graph, names) if b.scope not in _AT_TARGET and _counts(b, *models))
    found = _distinct((budget, _subject(budget, client, route.name, "", "")) for budget in chosen)
    if client is None or client.credits is None:
        return found
    return (*found, credit_charge(client.name, client.credits))


def credit_charge(client: str, credits: Credits) -> Charge:
    """Return the charge of a client's credits: a budget that never begins anew."""
    kind, limit, since = credits.kind, credits.limit, credits.since
    return Charge(Budget(name=CREDITS, kind=kind, limit=limit, calendar=EVER, since=since, scope="client"), client)


def provider_charges(
    graph: Graph, where: tuple[Provider, str], upstream_model: str, client: Client | None, route: Route | None = None
) -> tuple[Charge, ...]:
    """Return what an attempt at (provider, endpoint name) is charged: the provider's own budgets, and its client's and route's
    of scope `provider` or `endpoint`.

    `models` of a budget match the upstream's name of the model, or the route's. Give the route where there is one: its name is
    the subject of scope `model` (else it is the upstream's name, which a `direct` provider lets clients make up).
    """
    provider, endpoint = where
    model = route.name if route else upstream_model
    outer = _budgets(graph, (*(client.budgets if client else ()), *(route.budgets if route else ())))
    candidates = (*_budgets(graph, provider.budgets), *(budget for budget in outer if budget.scope in _AT_TARGET))
    chosen = (budget for budget in candidates if _counts(budget, upstream_model, model))
    return _distinct((budget, _subject(budget, client, model, provider.name, endpoint)) for budget in chosen)


def _names(graph: Graph, route: Route) -> list[str]:
    return [route.name, *(alias for alias, name in graph.aliases.items() if name == route.name)]


def _budgets(graph: Graph, names: Iterable[str]) -> list[Budget]:
    return [graph.budgets[name] for name in names if name in graph.budgets]


def _counts(budget: Budget, *models: str) -> bool:
    """Tell whether the budget is about this model, by any of its names."""
    return not budget.models or any(pattern.covers(name) for pattern in budget.models for name in models)


def _subject(budget: Budget, client: Client | None, model: str, provider: str, endpoint: str) -> str:
    """Return for whom a budget counts. Without a `clients` block all callers are one client, whose name is empty."""
    match budget.scope:
        case "client":
            return client.name if client else ""
        case "model":
            return model
        case "provider":
            return provider
        case "endpoint":
            return endpoint
        case _:
            return ""


def _distinct(found: Iterable[tuple[Budget, str]]) -> tuple[Charge, ...]:
    """Return the charges, without what is attached twice: a request is charged once."""
    out: dict[bytes, Charge] = {}
    for budget, subject in found:
        for pace in (False, True) if budget.burst else (False,):
            charge = Charge(budget, subject, pace)
            out[charge.key] = charge
    return tuple(out.values())
