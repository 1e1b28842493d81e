"""What happens a second, from counters that only grow: for the page at /ui. It costs nothing while nobody looks.

Each look is kept for ten seconds; a rate is the growth since the oldest that is kept. So the first look knows no rates, and
several pages that look at once do not disturb each other.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

from routerd.observe import Snapshot

__all__ = ["Rates"]

KEPT_S = 10.0
CLOSEST_S = 1.0  # looks that follow each other faster are not kept: what they would divide by is too small

Sums = dict[str, defaultdict[str, float]]


class Rates:
    """Keeps the last looks. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looks: deque[tuple[float, Sums]] = deque()

    def look(self, now: Snapshot) -> Mapping[str, Any]:
        """Take the counters of now; return the rates by model and provider, and how much of the budgets is used."""
        at_s, sums = self._clock(), _sums(now)
        looks = self._looks
        while len(looks) > 1 and at_s - looks[0][0] > KEPT_S:
            looks.popleft()
        since_s, before = looks[0] if looks else (at_s, sums)
        told: dict[str, Any] = {"over_s": round(at_s - since_s, 3)}
        for name, totals in sums.items():
            told[name] = _growth(before[name], totals, at_s - since_s)
        told["budgets"] = _budgets(now)
        if not looks or at_s - looks[-1][0] >= CLOSEST_S:
            looks.append((at_s, sums))
        return told


def _sums(now: Snapshot) -> Sums:
    sums: Sums = {name: defaultdict(float) for name in ("model_requests", "model_errors", "model_tokens", "provider_tokens")}
    for (family, labels), value in now.values.items():
        if family == "routerd_requests_total":
            route, _, outcome = labels
            sums["model_requests"][route] += value
            if outcome in ("upstream_error", "truncated"):
                sums["model_errors"][route] += value
        elif family == "routerd_tokens_total" and labels[3] == "output":
            sums["model_tokens"][labels[0]] += value
            sums["provider_tokens"][labels[2]] += value
    return sums


def _growth(before: Mapping[str, float], now: Mapping[str, float], over_s: float) -> dict[str, float]:
    """Return what grew, a second; what stands still is left out."""
    if over_s <= 0:
        return {}
    grown = {name: round((total - before.get(name, 0)) / over_s, 3) for name, total in now.items()}
    return {name: rate for name, rate in grown.items() if rate > 0}


def _budgets(now: Snapshot) -> dict[str, float]:
    """Return the largest share of each budget that is used."""
    found: dict[str, float] = {}
    for (family, labels), value in now.values.items():
        if family == "routerd_budget_used_ratio":
            found[labels[0]] = max(found.get(labels[0], 0.0), value)
    return found
