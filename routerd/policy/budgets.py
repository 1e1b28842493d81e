"""Budgets: which apply to a request, and the lease on what it may use.

- A charge is a budget with the subject it is counted for. What a request is charged is known before it runs: its client's and its
  route's budgets at once, those of a provider when a target there is tried.
- All charges of a reservation are checked before any is taken. Tokens are reserved by an estimate and settled by real usage; a
  request that was admitted stays counted; concurrency is held until the lease is released.
- Limits come from the graph of the request, what was used from the counters: an edit changes the limit and keeps the use.
- A refusal names the budget and what it allows, never what others used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from routerd.errors import BudgetExceeded
from routerd.graph import Budget, Client, Graph, Provider, Route
from routerd.messages import Taken

BYTES_PER_TOKEN = 4  # English text in common vocabularies; JSON around it makes the estimate err on the high side
OUTPUT_TOKENS = 512  # reserved for an answer whose length the client did not bound; settled by real usage in any case


@dataclass(frozen=True, slots=True)
class Charge:
    """A budget for one subject: "" (global), or the name of a client, a route or a provider. Build it once, not per request."""

    budget: Budget
    subject: str
    key: bytes = field(init=False, repr=False, compare=False)
    limit: int = field(init=False, repr=False, compare=False)
    window_s: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        identity = "\0".join((self.budget.name, self.budget.kind, self.budget.scope, self.subject))
        digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        object.__setattr__(self, "key", digest)
        object.__setattr__(self, "limit", self.budget.limit)
        object.__setattr__(self, "window_s", 0.0 if self.budget.kind == "concurrency" else self.budget.window_s)


class Counters(Protocol):
    """What budgets need counted; `state` has the implementations. A handle names what one take of one charge left behind."""

    @property
    def overflows(self) -> int:
        """How often a charge passed uncounted because there was no room for it."""

    def take(self, charges: Sequence[Charge], amounts: Sequence[int], now_s: float, /) -> Taken:
        """Take all amounts or none, atomically over all processes. Keys are distinct."""

    def settle(self, charge: Charge, handle: tuple[int, int], taken: int, used: int, now_s: float, /) -> None:
        """Correct what a windowed take counted."""

    def free(self, charge: Charge, handle: tuple[int, int], amount: int, /) -> None:
        """Give back what a concurrency take holds."""


class Lease:
    """What one reservation holds. Settle once with real usage, release whatever happens; both are idempotent, in any order."""

    __slots__ = ("_charges", "_counters", "_handles", "_released", "_settled", "_tokens")

    def __init__(self, counters: Counters, charges: Sequence[Charge], handles: Sequence[tuple[int, int]], tokens: int) -> None:
        self._counters = counters
        self._charges = charges
        self._handles = handles
        self._tokens = tokens
        self._settled = self._released = not charges

    def settle(self, tokens_used: int, now_s: float) -> None:
        """Put the real number of tokens in the place of the estimate; 0 gives all of them back."""
        if self._settled:
            return
        self._settled = True
        for charge, handle in zip(self._charges, self._handles, strict=True):
            if charge.budget.kind == "tokens":
                self._counters.settle(charge, handle, self._tokens, max(0, tokens_used), now_s)

    def release(self, now_s: float) -> None:  # noqa: ARG002 - counters on other hosts will want to know when
        """Give concurrency back. Tokens that nobody settled stay counted as estimated."""
        if self._released:
            return
        self._released = True
        for charge, handle in zip(self._charges, self._handles, strict=True):
            if charge.budget.kind == "concurrency":
                self._counters.free(charge, handle, 1)


def reserve(counters: Counters, charges: Sequence[Charge], *, tokens: int, now_s: float) -> Lease:
    """Take every charge or none; raise BudgetExceeded for the one that makes the request wait longest."""
    if not charges:
        return Lease(counters, (), (), 0)
    amounts = [tokens if charge.budget.kind == "tokens" else 1 for charge in charges]
    taken = counters.take(charges, amounts, now_s)
    if taken.refused >= 0:
        raise _exceeded(charges[taken.refused], taken.retry_after_s)
    return Lease(counters, charges, taken.handles, tokens)


def charges(graph: Graph, *, client: Client | None, route: Route, captured_model: str) -> tuple[Charge, ...]:
    """Return what a request is charged before a target is chosen: its client's and its route's budgets, each once.

    A budget with `models` counts the route if it covers any name of it, aliases too: the answer is the same for each alias, and
    another name is no way around. `captured_model` is the model as asked for; it matters for patterns only. A budget of scope
    `provider` has no subject yet: `provider_charges` has it.
    """
    names = (*(client.budgets if client else ()), *route.budgets)
    models = (route.name, captured_model) if route.pattern else _names(graph, route)
    chosen = (b for b in _budgets(graph, names) if b.scope != "provider" and _counts(b, *models))
    return _distinct(Charge(budget, _subject(budget, client, route.name, "")) for budget in chosen)


def provider_charges(
    graph: Graph, provider: Provider, upstream_model: str, client: Client | None, route: Route | None = None
) -> tuple[Charge, ...]:
    """Return what an attempt at `provider` is charged: its own budgets, and its client's and route's of scope `provider`.

    `models` of a budget match the upstream's name of the model, or the route's. Give the route where there is one: its name is
    the subject of scope `model` (else it is the upstream's name, which a `direct` provider lets clients make up).
    """
    model = route.name if route else upstream_model
    outer = _budgets(graph, (*(client.budgets if client else ()), *(route.budgets if route else ())))
    candidates = (*_budgets(graph, provider.budgets), *(budget for budget in outer if budget.scope == "provider"))
    chosen = (budget for budget in candidates if _counts(budget, upstream_model, model))
    return _distinct(Charge(budget, _subject(budget, client, model, provider.name)) for budget in chosen)


def estimate_tokens(size_bytes: int, max_tokens: int | None) -> int:
    """Return the tokens to reserve: the body's by its size, and as many as the answer may have."""
    output = OUTPUT_TOKENS if max_tokens is None else max(0, max_tokens)
    return max(1, -(-size_bytes // BYTES_PER_TOKEN)) + output


def _names(graph: Graph, route: Route) -> list[str]:
    return [route.name, *(alias for alias, name in graph.aliases.items() if name == route.name)]


def _budgets(graph: Graph, names: Iterable[str]) -> list[Budget]:
    return [graph.budgets[name] for name in names if name in graph.budgets]


def _counts(budget: Budget, *models: str) -> bool:
    """Tell whether the budget is about this model, by any of its names."""
    return not budget.models or any(pattern.covers(name) for pattern in budget.models for name in models)


def _subject(budget: Budget, client: Client | None, model: str, provider: str) -> str:
    """Return for whom a budget counts. Without a `clients` block all callers are one client, whose name is empty."""
    match budget.scope:
        case "client":
            return client.name if client else ""
        case "model":
            return model
        case "provider":
            return provider
        case _:
            return ""


def _distinct(found: Iterable[Charge]) -> tuple[Charge, ...]:
    """Drop what is attached twice: a request is charged once."""
    return tuple({charge.key: charge for charge in found}.values())


def _exceeded(charge: Charge, retry_after_s: float) -> BudgetExceeded:
    budget = charge.budget
    allows = f"Budget '{budget.name}' allows {budget.limit} {_UNITS.get(budget.kind, budget.kind)}"
    if budget.window_s and budget.kind != "concurrency":
        allows += f" in {_length(budget.window_s)}"
    if math.isinf(retry_after_s):
        error = BudgetExceeded(f"{allows}; this request alone needs more.")
    else:
        error = BudgetExceeded(f"{allows}; retry in {math.ceil(retry_after_s)} s.", retry_after_s=retry_after_s)
    error.budget, error.scope = budget.name, budget.scope
    return error


_UNITS = {"concurrency": "requests at a time"}


def _length(window_s: float) -> str:
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if window_s >= unit_s and window_s % unit_s == 0:
            return f"{window_s / unit_s:.0f}{unit}"
    return f"{window_s:g}s"
