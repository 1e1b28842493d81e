"""Which targets a request may use, and in what order. Pure: no clock, no I/O, no log.

Model
    A name resolves to a Route (and what its pattern captured). A Route compiles to a RoutePlan: entries, one for each pair of
    target and endpoint, in file order. One request gets an order of these entries: its plan.
Compilation
    `Resolver(graph)` and `RoutePlan(graph, route)` are built lazily, once a generation. Unusable targets (their provider is
    disabled) are left out and kept in `RoutePlan.skipped`, with the reason.
Runtime
    `Resolver.resolve(model)` then `RoutePlan.order(captured, health, rng, now_s, key)`. Health is asked through HealthView: free
    entries first, then full, cooling, open and down ones; only the drained are dropped. `explain` runs this very code.
Cost and concurrency
    An exact name with one target: under 1 us for both calls. Memory is bounded by the configuration plus CACHE_NAMES names.
    One thread: a round-robin remembers its turn, everything else is read-only.
"""

from routerd.plan.affinity import SESSION, affinity_key
from routerd.plan.discovered import ModelNews, found_names
from routerd.plan.explain import Explanation, Origins, Setting, TargetLine, ThoughtAway, explain
from routerd.plan.order import HealthView, Planned, RoutePlan, Skipped, offers, skipped
from routerd.plan.resolve import Resolved, Resolver, direct_route, offered_names, resolve
from routerd.plan.suggest import Suggester

__all__ = [
    "SESSION",
    "ModelNews",
    "found_names",
    "Explanation",
    "HealthView",
    "Origins",
    "Planned",
    "Resolved",
    "Resolver",
    "RoutePlan",
    "Setting",
    "Skipped",
    "Suggester",
    "TargetLine",
    "ThoughtAway",
    "affinity_key",
    "direct_route",
    "explain",
    "offered_names",
    "offers",
    "resolve",
    "skipped",
]
