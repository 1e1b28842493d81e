"""The order inside a group: a pure choice among members that are all fit to be used.

A group is what shares load: the targets of an `any_of`, or the endpoints of a provider. Every member appears once in the answer:
the first gets the request, the rest are its failover.
- weighted: a random permutation as if drawn by weight without putting back (Efraimidis and Spirakis: sort by u ** (1/w));
- round_robin: nginx's smooth weighted rotation; equal weights give a plain rotation;
- least_busy: requests per weight, ties by chance, so that idle members share;
- latency: two members by chance, the cheaper first: latency (a peak-sensitive mean) times requests, per weight. Two choices, not
  the best of all: what is known is a moment old, and everybody would run to the same member;
- prefix_hash: weighted rendezvous hashing of the request's key (Thaler and Ravishankar; weights by -w/ln(u)): a key stays with
  its member, and 1/n of the keys move when a member comes or goes. A member with more than 1.25 times its fair share of the
  requests (bounded loads; Mirrokni, Thorup, Zadimoghaddam) goes behind those below it, so that no conversation drowns an engine.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

from routerd.graph import Balance

__all__ = ["LOAD_BOUND", "Group"]

LOAD_BOUND = 1.25  # lower moves more keys than needed, higher lets one member queue; the paper's own example
_ALL = 0xFFFF_FFFF_FFFF_FFFF
_LOADED = frozenset({Balance.LEAST_BUSY, Balance.LATENCY, Balance.PREFIX_HASH})


class Group:
    """The members of one group by number, with the memory that a rotation needs. One per compiled plan."""

    __slots__ = ("_balance", "_credit", "_seeds", "_weights", "needs_key", "needs_latency", "needs_load")

    def __init__(self, balance: Balance, weights: Sequence[int], names: Sequence[str] = ()) -> None:
        self._balance = balance
        self._weights = tuple(weights)
        self._credit = [0.0] * len(self._weights)
        several = len(self._weights) > 1
        self.needs_key = several and balance is Balance.PREFIX_HASH
        self.needs_latency = several and balance is Balance.LATENCY
        self.needs_load = several and balance in _LOADED
        self._seeds = [_seed(name) for name in names] if self.needs_key else []

    def order(
        self, usable: Sequence[int], load: Sequence[float], rng: random.Random, latency: Sequence[float] = (), key: int = 0
    ) -> list[int]:
        """Return `usable` (member numbers) in the order to try them.

        `load` (requests) and `latency` (seconds, 0: unknown) are indexed by member number and looked at where they are needed;
        `key` is what requests that belong together have in common, 64 bits; 0: nothing, they are spread by chance.
        """
        if len(usable) < 2:
            return list(usable)
        if self._balance is Balance.ROUND_ROBIN:
            return self._rotate(usable)
        if self._balance is Balance.LEAST_BUSY:
            keys = {i: (_per_weight(load[i], self._weights[i]), rng.random()) for i in usable}
            return sorted(usable, key=keys.__getitem__)
        if self._balance is Balance.LATENCY:
            return self._two_choices(usable, load, latency, rng)
        if self._balance is Balance.PREFIX_HASH:
            return self._by_hash(usable, load, key or rng.getrandbits(64))
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

    def _two_choices(
        self, usable: Sequence[int], load: Sequence[float], latency: Sequence[float], rng: random.Random
    ) -> list[int]:
        known = [latency[i] for i in usable if latency[i] > 0]
        typical = sum(known) / len(known) if known else 1.0  # what was never measured is taken for average, and so is measured
        cost = {i: _per_weight((latency[i] or typical) * (load[i] + 1), self._weights[i]) for i in usable}
        one = int(rng.random() * len(usable))
        other = (one + 1 + int(rng.random() * (len(usable) - 1))) % len(usable)
        first = min(usable[one], usable[other], key=cost.__getitem__)
        return [first, *sorted((i for i in usable if i != first), key=cost.__getitem__)]

    def _by_hash(self, usable: Sequence[int], load: Sequence[float], key: int) -> list[int]:
        weights, seeds = self._weights, self._seeds
        score = {i: _draw(_mix(key ^ seeds[i]) / _ALL, weights[i]) for i in usable}
        ordered = sorted(usable, key=score.__getitem__, reverse=True)
        total, share = sum(load[i] for i in usable) + 1, sum(weights[i] for i in usable) or 1
        bound = LOAD_BOUND * total / share
        over = [i for i in ordered if load[i] >= math.ceil(bound * weights[i])]
        return [i for i in ordered if i not in over] + over if over else ordered


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _mix(x: int) -> int:
    """Spread 64 bits evenly (the finalizer of splitmix64): the same on every host, which Python's own hash is not."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _ALL
    return x ^ (x >> 31)


def _draw(chance: float, weight: int) -> float:
    """Return log(u) / w, which sorts like u ** (1/w); a member of weight 0 comes last."""
    return math.log(chance or 5e-324) / weight if weight > 0 else -math.inf


def _per_weight(cost: float, weight: int) -> float:
    return cost / weight if weight > 0 else math.inf
