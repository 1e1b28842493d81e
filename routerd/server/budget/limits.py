"""What clients and operators see of budgets: the x-ratelimit-* fields of answers, the gauge of how much is used.

The fields are OpenAI's (platform.openai.com/docs/guides/rate-limits): limit, remaining, and the time until all of the limit is
there again, for requests and for tokens. Only budgets of scope `client` are shown: others would tell what others use. Of several
the one with the least remaining is shown. Tokens remaining count this request as estimated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Protocol

from routerd.graph import Budget
from routerd.messages import Taken
from routerd.observe import Metrics
from routerd.policy import Bill, Charge
from routerd.state import period

__all__ = ["UsedRatio", "limit_fields", "lines_of"]

LOOKS = 500  # counters looked at in one call: below a millisecond
MOST_SEEN = 20_000


def limit_fields(bill: Bill, taken: Taken) -> dict[str, str]:
    """Return the header fields for the budgets of this bill that its client may see; none without such budgets."""
    lines = lines_of(bill)(taken).split("\r\n")[:-1]
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


def lines_of(bill: Bill) -> Callable[[Taken], str]:
    """Return what writes the same as lines of a head, for every answer: each ends with CRLF."""
    if len(bill.told) != 1 or bill.charges[bill.told[0]].calendar:
        return partial(_lines_of_all, bill)
    (i,) = bill.told
    charge = bill.charges[i]
    limit = charge.limit
    begin, used_up = _begin(charge.budget.kind, charge), _lines(charge.budget.kind, 0, charge)
    end = used_up[len(begin) + 1 :]

    def lines(taken: Taken) -> str:
        remaining = limit - taken.used[i]
        return f"{begin}{remaining}{end}" if 0 <= remaining < limit else _lines_of_all(bill, taken)

    return lines


def _lines_of_all(bill: Bill, taken: Taken) -> str:
    """Write them in every case; what is prepared is for one sliding window, of which some is used and some left."""
    least: dict[str, tuple[int, Charge]] = {}
    for i in bill.told:
        charge = bill.charges[i]
        remaining = max(0, charge.limit - taken.used[i])
        found = least.get(charge.budget.kind)
        if found is None or remaining < found[0]:
            least[charge.budget.kind] = (remaining, charge)
    return "".join([_lines(kind, *one) for kind, one in least.items()])


def _lines(kind: str, remaining: int, charge: Charge) -> str:
    return _begin(kind, charge) + f"{remaining}\r\nx-ratelimit-reset-{kind}: {_reset(charge, remaining)}\r\n"


def _begin(kind: str, charge: Charge) -> str:
    return f"x-ratelimit-limit-{kind}: {charge.limit}\r\nx-ratelimit-remaining-{kind}: "


def _reset(charge: Charge, remaining: int) -> str:
    """Return when nothing of what is used now counts any more: `1s`, `6m0s`, `24h0m0s`."""
    if remaining == charge.limit:
        return "0s"
    if charge.calendar:
        unix_s = int(time.time())
        return _length(period(charge.calendar, unix_s)[1] - unix_s)
    return _length(max(1, round(charge.window_s)))


@lru_cache(maxsize=256)
def _length(length_s: int) -> str:
    hours, rest = divmod(length_s, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


class Looking(Protocol):
    """Counters that can be asked what is used."""

    def used(self, charge: Charge, now_s: float, /) -> int: ...


class UsedRatio:
    """Publishes `routerd_budget_used_ratio`, some counters at a time; a budget's value changes when all were looked at.

    Subjects that were seen stay known over a reload, as what they used does, while their budget is there.
    """

    def __init__(self, counters: Looking, metrics: Metrics) -> None:
        self._counters = counters
        self._metrics = metrics
        self._budgets: Mapping[str, Budget] = {}
        self._seen: dict[bytes, Charge] = {}
        self._todo: list[Charge] = []
        self._largest: dict[tuple[str, str, str], float] = {}
        self._shown: set[tuple[str, str, str]] = set()

    def publish(self, charges: Mapping[bytes, Charge], budgets: Mapping[str, Budget], now_s: float) -> None:
        """Look at the next counters. `charges` are those that requests were charged, `budgets` all of the configuration."""
        if budgets is not self._budgets:
            self._renew(budgets)
        if not self._todo:
            if len(self._seen) < MOST_SEEN:
                self._seen.update(charges)
            self._todo = list(self._seen.values())
        for _ in range(min(LOOKS, len(self._todo))):
            charge = self._todo.pop()
            label = (charge.budget.name, charge.budget.scope, "enforce" if charge.enforced else "shadow")
            ratio = self._counters.used(charge, now_s) / charge.limit
            self._largest[label] = max(ratio, self._largest.get(label, 0.0))
        if self._todo:
            return
        for label in self._shown - self._largest.keys():
            self._metrics.drop("routerd_budget_used_ratio", *label)
        for label, ratio in self._largest.items():
            self._metrics.gauge("routerd_budget_used_ratio", *label).set(ratio)
        self._shown = set(self._largest)
        self._largest = {}

    def _renew(self, budgets: Mapping[str, Budget]) -> None:
        """Take up the limits of another generation; forget what it does not count any more."""
        self._budgets = budgets
        self._todo, self._largest = [], {}
        old, self._seen = self._seen, {}
        for key, charge in old.items():
            budget = budgets.get(charge.budget.name)
            if budget is None or (charge.pace and not budget.burst):
                continue
            renewed = Charge(budget, charge.subject, charge.pace)
            if renewed.key == key:
                self._seen[key] = renewed
