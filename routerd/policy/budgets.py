"""The lease on what a request may use: reserved up front, closed with what it really used, whatever happens.

- All charges of a bill are checked before any is taken. Tokens and dollars are reserved by an estimate and settled by real usage;
  a request that was admitted stays counted; concurrency is held until the lease is closed.
- Limits come from the graph of the request, what was used from the counters: an edit changes the limit and keeps the use.
- A budget in shadow mode counts and is reported (`Taken.over`), and never refuses.
- A refusal names the budget and what it allows, never what others used.
Counters of this host answer `take` at once (`reserve`); those of other hosts are asked elsewhere: `admit` judges their answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from routerd.errors import BudgetExceeded, CreditsExhausted
from routerd.graph import Price
from routerd.messages import Handle, Taken, Usage
from routerd.policy.charge import EVER, Bill, Charge
from routerd.policy.price import cost_nano_usd

__all__ = [
    "NOTHING",
    "Counters",
    "Lease",
    "Need",
    "Settling",
    "admit",
    "estimate",
    "reserve",
    "spent",
    "tokens_of",
    "turned_away",
]

BYTES_PER_TOKEN = 4  # English text in common vocabularies; JSON around it makes the estimate err on the high side
_make = tuple.__new__  # a NamedTuple without its slow way in
OUTPUT_TOKENS = 512  # reserved for an answer whose length the client did not bound; settled by real usage in any case


class Need(NamedTuple):
    """What a request uses, or may use; the rest is the same for each: it is one, and holds nothing when it is over."""

    tokens: int = 0
    nano_usd: int = 0
    requests: int = 1
    held: int = 0


NOTHING = Need()


class Settling(Protocol):
    """What a lease asks of counters."""

    def settle(
        self, charges: Sequence[Charge], handles: Sequence[Handle], taken: Sequence[int], used: Sequence[int], now_s: float, /
    ) -> None:
        """Correct what was taken to what was used, or say that it stays: the same. What was held: 0. Once for each take."""


class Counters(Settling, Protocol):
    """Counters that answer at once; `state` has the implementation."""

    @property
    def overflows(self) -> int:
        """How often a charge passed uncounted because there was no room for it."""

    def take(self, charges: Sequence[Charge], amounts: Sequence[int], now_s: float, /) -> Taken:
        """Take all amounts or none, atomically over all processes. Keys are distinct."""

    def used(self, charge: Charge, now_s: float, /) -> int:
        """Return what is used now."""


class Lease(msgspec.Struct):
    """What one reservation holds, until it is closed, which is to be done whatever happens; only the first time counts.

    `freed` is called when concurrency was given back: somebody may wait for it.
    """

    _counters: Settling
    bill: Bill
    _amounts: Sequence[int]
    taken: Taken
    freed: Callable[[], None] | None = None
    _closed: bool = False

    def split(self, first: Bill, second: Bill) -> tuple[Lease, Lease]:
        """Return two leases in the place of this one, which is on the charges of `first` and then those of `second`."""
        taken, at = self.taken, len(first.charges)
        over = tuple(i - at for i in taken.over if i >= at)
        return (
            Lease(self._counters, first, self._amounts[:at], taken._replace(
                handles=taken.handles[:at], used=taken.used[:at], over=tuple(i for i in taken.over if i < at))),
            Lease(self._counters, second, self._amounts[at:], taken._replace(
                handles=taken.handles[at:], used=taken.used[at:], over=over)),
        )  # fmt: skip

    def close(self, used: Need | None, now_s: float) -> None:
        """Give concurrency back, and put what was used in the place of the estimate: NOTHING gives all back; None: it stays."""
        bill = self.bill
        if self._closed or not bill.ends:
            return
        self._closed = True
        left = bill.left(used) if used is not None else self._estimated()
        self._counters.settle(bill.charges, self.taken.handles, self._amounts, left, now_s)
        if self.freed is not None and bill.held:
            self.freed()

    def _estimated(self) -> Sequence[int]:
        """Return what stays where nobody knows what was used."""
        left = list(self._amounts)
        for i in self.bill.held:
            left[i] = 0
        return left


def reserve(counters: Counters, bill: Bill, need: Need, now_s: float) -> Lease:
    """Take every charge or none; raise BudgetExceeded for the one that makes the request wait longest."""
    amounts = bill.amounts(need)
    taken = counters.take(bill.charges, amounts, now_s)
    return Lease(counters, bill, amounts, taken) if taken.refused < 0 else admit(counters, bill, amounts, taken)


def admit(counters: Settling, bill: Bill, amounts: Sequence[int], taken: Taken) -> Lease:
    """Return the lease on what was taken; raise BudgetExceeded if it was refused."""
    if taken.refused >= 0:
        raise _exceeded(bill.charges[taken.refused], taken)
    return Lease(counters, bill, amounts, taken)


def estimate(size_bytes: int, max_tokens: int | None, price: Price | None = None) -> Need:
    """Return what to reserve: the body's tokens by its size, and as many as the answer may have; at this price."""
    given = -(-size_bytes // BYTES_PER_TOKEN) or 1
    output = OUTPUT_TOKENS if max_tokens is None else max_tokens if max_tokens > 0 else 0
    cost = cost_nano_usd(Usage(input_tokens=given, output_tokens=output), price) if price is not None else 0
    return _make(Need, (given + output, cost, 1, 0))


def tokens_of(size_bytes: int) -> int:
    """Return how many tokens so much text is, about."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def spent(usage: Usage, price: Price | None) -> Need:
    """Return what an answer really used."""
    tokens = usage.input_tokens + usage.output_tokens
    return _make(Need, (tokens if tokens > 0 else 0, max(0, cost_nano_usd(usage, price)) if price is not None else 0, 1, 0))


def turned_away(charge: Charge, why: str) -> BudgetExceeded:
    """Return the refusal of a request that its budget's queue does not take, or no longer."""
    error = BudgetExceeded(f"{_allows(charge)}, and {why}; retry in 1 s.", retry_after_s=1.0)
    error.budget, error.scope = charge.budget.name, charge.budget.scope
    return error


def _exceeded(charge: Charge, taken: Taken) -> BudgetExceeded:
    budget, retry_after_s = charge.budget, taken.retry_after_s
    if budget.calendar == EVER:
        return _out_of_credit(charge, taken)
    allows = _allows(charge)
    if math.isinf(retry_after_s):
        error = BudgetExceeded(f"{allows}; this request alone needs more.")
    else:
        error = BudgetExceeded(f"{allows}; retry in {math.ceil(retry_after_s)} s.", retry_after_s=retry_after_s)
    error.budget, error.scope = budget.name, budget.scope
    error.taken = taken
    return error


def _out_of_credit(charge: Charge, taken: Taken) -> CreditsExhausted:
    """Return the refusal of a request that may need more than what its client has left."""
    kind, limit = charge.budget.kind, charge.limit
    left = _amount(kind, max(0, limit - taken.used[taken.refused]))
    error = CreditsExhausted(f"{left} of {_amount(kind, limit)} of credit are left, and this request may need more.")
    error.budget, error.scope = charge.budget.name, charge.budget.scope
    error.taken = taken
    return error


def _allows(charge: Charge) -> str:
    budget = charge.budget
    allows = f"Budget '{budget.name}' allows {_amount(budget.kind, budget.limit)}{_window(charge)}"
    return f"{allows}, {_amount(budget.kind, budget.burst)} at once over that rate" if charge.pace else allows


def _amount(kind: str, amount: int) -> str:
    if kind == "usd":
        return f"{amount / 1e9:.9f}".rstrip("0").rstrip(".") + " USD"
    return f"{amount} {'requests at a time' if kind == 'concurrency' else kind}"


def _window(charge: Charge) -> str:
    budget = charge.budget
    if budget.kind == "concurrency":
        return ""
    return f" in a calendar {budget.calendar} (UTC)" if budget.calendar else f" in {_length(budget.window_s)}"


def _length(window_s: float) -> str:
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if window_s >= unit_s and window_s % unit_s == 0:
            return f"{window_s / unit_s:.0f}{unit}"
    return f"{window_s:g}s"
