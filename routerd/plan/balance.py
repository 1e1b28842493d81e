"""The order inside a group: a pure choice among members that are all fit to be used.

A group is what shares load: the targets of an `any_of`, or the endpoints of a provider. Every member appears once in the answer:
the first gets the request, the rest are its failover.
- weighted: a random permutation as if drawn by weight without putting back (Efraimidis and Spirakis: sort by u ** (1/w));
- round_robin: nginx's smooth weighted rotation; equal weights give a plain rotation;
- least_busy: requests in flight per weight, ties by chance, so that idle members share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from routerd.graph import Balance


class Group:
    """The members of one group by number, with the memory that a rotation needs. One per compiled plan."""

    __slots__ = ("_balance", "_credit", "_weights")

    def __init__(self, balance: Balance, weights: Sequence[int]) -> None:
        self._balance = balance
        self._weights = tuple(weights)
        self._credit = [0.0] * len(self._weights)

    def order(self, usable: Sequence[int], inflight: Sequence[int], rng: random.Random) -> list[int]:
        """Return `usable` (member numbers) in the order to try them. `inflight` is indexed by member number."""
        if len(usable) < 2:
            return list(usable)
        if self._balance is Balance.ROUND_ROBIN:
            return self._rotate(usable)
        if self._balance is Balance.LEAST_BUSY:
            keys = {i: (_per_weight(inflight[i], self._weights[i]), rng.random()) for i in usable}
            return sorted(usable, key=keys.__getitem__)
        drawn = {i: _draw(rng.random(), self._weights[i]) for i in usable}
        return sorted(usable, key=drawn.__getitem__, reverse=True)

    def _rotate(self, usable: Sequence[int]) -> list[int]:
        """Give every usable member its weight in credit; the richest goes first and pays for all of them."""
        credit, weights = self._credit, self._weights
        total = 0
        for i in usable:
            credit[i] += weights[i]
            total += weights[i]
        ordered = sorted(usable, key=lambda i: -credit[i])
        credit[ordered[0]] -= total
        return ordered


def _draw(chance: float, weight: int) -> float:
    """Return log(u) / w, which sorts like u ** (1/w); a member of weight 0 comes last."""
    return math.log(chance or 5e-324) / weight if weight > 0 else -math.inf


def _per_weight(inflight: int, weight: int) -> float:
    return inflight / weight if weight > 0 else math.inf
