"""The endpoints as control sees them: gauges, status, drains by hand, and a notice of every change.

Control owns the memory that the workers share, so it needs no message from them: it looks twice a second and compares.
A state shorter than that is not told; breakers and cooldowns last a second or more. It takes up what serves by itself.
A drain belongs to the endpoint while that is known (a rename takes it along), and to its name when another machine or credential
stands there, or the daemon has begun anew: it holds until it is taken back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from routerd.daemon.endpoints.drains import Drains
from routerd.daemon.tasks import to_mark
from routerd.graph import Provider
from routerd.health import EndpointState, Health, breaker_state, reasons
from routerd.messages import RANKS, Standing
from routerd.observe import Metrics

__all__ = ["LOOK_S", "Notify", "Serving", "Vitals", "log_notice"]

log = logging.getLogger("routerd.health")

LOOK_S = 0.5
BREAKER = ("closed", "half_open", "open")
WELL = ("closed", False, False, False)
GAUGES = (
    "routerd_inflight_requests",
    "routerd_endpoint_cooldown_seconds",
    "routerd_endpoint_healthy",
    "routerd_endpoint_drained",
    "routerd_breaker_state",
)

Notify = Callable[[str, Mapping[str, Any]], None]


class Serving(Protocol):
    """What serves: `workers.generation.Package` is one."""

    @property
    def providers(self) -> Mapping[str, Provider]: ...


class Vitals:
    """Looks at the endpoints of what serves. `notify(kind, fields)` is told of every change, `follow` of new providers."""

    def __init__(
        self,
        health: Health,
        metrics: Metrics,
        *,
        current: Callable[[], Serving | None],
        clock: Callable[[], float],
        notify: Notify,
        drains: Drains,
        follow: Callable[[Mapping[str, Provider]], None] = lambda _providers: None,
    ) -> None:
        self.health = health
        self._metrics = metrics
        self._current = current
        self._clock = clock
        self._notify = notify
        self.drains = drains
        self._follow = follow
        self._serving: Serving | None = None
        self._owners: dict[str, str] = {}
        self._seen: dict[str, tuple[str, bool, bool, bool]] = {}  # of those that are not well

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.watch()
            await asyncio.sleep(to_mark(LOOK_S, self._clock()))

    def watch(self) -> None:
        """Tell what has changed."""
        self._take_up()
        now_s, ill = self._clock(), self._seen
        for name, state in self.health.items():
            if name in ill or not state.is_well:
                self._tell(name, state, now_s)

    def look(self) -> None:
        """Bring the gauges up to date, for somebody who reads them now, and tell what has changed."""
        self.watch()
        now_s = self._clock()
        for name, state in self.health.items():
            breaker, cooling_s = breaker_state(state, now_s), max(0.0, state.cooling(now_s) - now_s)
            values = (state.inflight, cooling_s, float(not state.is_down), float(state.is_drained), breaker)
            for gauge, value in zip(GAUGES, values, strict=True):
                self._metrics.gauge(gauge, name).set(value)

    def drain(self, name: str, drained: bool) -> Mapping[str, Any] | None:
        """Drain an endpoint, or let it come back; return how it stands then, None when there is none of that name."""
        self._take_up()
        state = self.health.get(name)
        if state is None and (drained or name not in self.drains):
            return None
        self.drains.change(name, drained)
        if state is None:
            return {"endpoint": name, "inflight": 0, "drained": False}
        state.drain(drained, self._clock())
        self.look()
        return self._status(name, state)

    def expect(self, providers: Mapping[str, Provider]) -> None:
        """These are about to serve: what is drained by name gets nothing from the first request on."""
        self._take_up()
        self.health.drain_ahead(providers, self.drains, self._clock())

    def drained_elsewhere(self) -> list[str]:
        """Return the drained names that are not configured now."""
        return sorted(name for name in self.drains if self.health.get(name) is None)

    def status(self) -> list[Mapping[str, Any]]:
        """Return how every endpoint stands, as plain values."""
        self._take_up()
        return [self._status(name, state) for name, state in self.health.items()]

    def _status(self, name: str, state: EndpointState) -> Mapping[str, Any]:
        now_s = self._clock()
        standing = state.standing(now_s) or Standing()
        outcomes, failures = state.outcomes(now_s)
        return {
            "endpoint": name,
            "provider": self._owners.get(name, ""),
            "rank": RANKS[standing.rank],
            "reasons": reasons(state, now_s),
            "inflight": state.inflight,
            "load": state.load(now_s),
            "latency_s": round(self.health.latency(name, now_s), 6),
            "cache_used_ratio": state.cache_ratio(now_s),
            "breaker": BREAKER[breaker_state(state, now_s)],
            "outcomes": outcomes,
            "failures": failures,
            "cooldown_s": round(max(0.0, state.cooling(now_s) - now_s), 3),
            "healthy": not state.is_down,
            "drained": state.is_drained,
            "drained_since_unix_s": self.drains.since(name),
        }

    def _take_up(self) -> None:
        serving = self._current()
        if serving is None or serving is self._serving:
            return
        self._serving = serving
        before = dict(self.health.items())
        self.health.take_up(serving.providers, self._clock())
        self._keep_drains(before)
        self._owners = {one.name: provider.name for provider in serving.providers.values() for one in provider.endpoints}
        self._follow(serving.providers)
        for name in before.keys() - self._owners.keys():
            self._seen.pop(name, None)
            for gauge in GAUGES:
                self._metrics.drop(gauge, name)

    def _keep_drains(self, before: Mapping[str, EndpointState]) -> None:
        """Have the names say what the endpoints are; one that was not known is what its name says."""
        names, known = dict(self.health.items()), {id(state): name for name, state in before.items()}
        moved = {
            known[id(state)]: name
            for name, state in names.items()
            if state.is_drained and known.get(id(state), name) != name and known[id(state)] in self.drains
        }
        self.drains.rename(moved)
        for name, state in names.items():
            if id(state) not in known and state.is_drained != (name in self.drains):
                state.drain(name in self.drains, self._clock())
            elif not state.is_drained and name in self.drains:  # the name is another's now
                self.drains.change(name, False)

    def _tell(self, name: str, state: EndpointState, now_s: float) -> None:
        """Compare with the last look. What was so when the daemon or the endpoint was first seen is news only if it is bad."""
        until_s = state.cooling(now_s)
        now = (BREAKER[breaker_state(state, now_s)], until_s > 0, state.is_down, state.is_drained)
        before = self._seen.get(name, WELL)
        if now == WELL:
            self._seen.pop(name, None)
        else:
            self._seen[name] = now
        if now == before:
            return
        fields: dict[str, Any] = {"endpoint": name, "provider": self._owners.get(name, ""), "reasons": reasons(state, now_s)}
        if now[0] != before[0]:
            self._notify("breaker", fields | {"state": now[0]})
        if now[1] and not before[1]:
            self._notify("cooldown", fields | {"state": "begun", "cooldown_s": round(until_s - now_s, 3)})
        if now[2] != before[2]:
            self._notify("endpoint", fields | {"state": "down" if now[2] else "up"})
        if now[3] != before[3]:
            self._notify("endpoint", fields | {"state": "drained" if now[3] else "undrained"})


def log_notice(kind: str, fields: Mapping[str, Any]) -> None:
    """Log a notice: what makes an endpoint worse as a warning."""
    level = logging.WARNING if fields["state"] in ("open", "down") else logging.INFO
    said = "; ".join(fields["reasons"])
    log.log(level, "%s: %s %s%s", fields["endpoint"], kind, fields["state"], f" ({said})" if said else "")
