"""Small graphs for the tests of plan, policy and health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.graph import Balance, Budget, Client, Endpoint, Graph, Pattern, Provider, Route, Step, Target
from routerd.messages import COOLING, RANKS, Standing


def endpoint(name: str, provider: str = "p", **more: Any) -> Endpoint:
    return Endpoint(name=name, provider=provider, url=f"http://{name}.test/v1", **more)


def provider(name: str, *endpoints: Endpoint, **more: Any) -> Provider:
    own = endpoints or (endpoint(name, name),)
    return Provider(name=name, dialect="openai", endpoints=own, **more)


def target(text: str, **more: Any) -> Target:
    name, _, model = text.partition("/")
    return Target(provider=name, model=model, **more)


def group(*targets: Target, balance: Balance = Balance.WEIGHTED) -> Step:
    return Step(targets=targets, balance=balance)


def route(name: str, *chain: str | Target | Step, **more: Any) -> Route:
    steps = []
    for link in chain:
        one = target(link) if isinstance(link, str) else link
        steps.append(one if isinstance(one, Step) else Step(targets=(one,)))
    pattern = Pattern.parse(name) if "*" in name else None
    return Route(name=name, chain=tuple(steps), pattern=pattern, **more)


def graph(
    *routes: Route,
    providers: tuple[Provider, ...] = (),
    budgets: tuple[Budget, ...] = (),
    clients: Mapping[str, Client] | None = None,
) -> Graph:
    named = {p.name: p for p in providers}
    for r in routes:
        for step in (*r.chain, *r.overflow):
            for t in step.targets:
                named.setdefault(t.provider, provider(t.provider))
    patterns = sorted((r for r in routes if r.pattern), key=lambda r: -(r.pattern.literal_chars if r.pattern else 0))
    return Graph(
        digest="d",
        providers=named,
        endpoints={e.name: e for p in named.values() for e in p.endpoints},
        routes={r.name: r for r in routes},
        aliases={alias: r.name for r in routes for alias in r.aliases},
        patterns=tuple(patterns),
        budgets={b.name: b for b in budgets},
        clients=clients,
    )


class Fixed:
    """A HealthView that says what the test says."""

    def __init__(
        self,
        cooling: Mapping[str, float] | None = None,
        inflight: Mapping[str, int] | None = None,
        *,
        standings: Mapping[str, Standing] | None = None,
        loads: Mapping[str, int] | None = None,
        latencies: Mapping[str, float] | None = None,
    ) -> None:
        self.until = dict(cooling or {})
        self.running = dict(inflight or {})
        self.standings = dict(standings or {})
        self.loads = dict(loads or {})
        self.latencies = dict(latencies or {})

    def standing(self, endpoint_name: str, now_s: float) -> Standing | None:
        if self.until.get(endpoint_name, 0.0) > now_s:
            return Standing(COOLING)
        return self.standings.get(endpoint_name)

    def reasons(self, endpoint_name: str, now_s: float) -> list[str]:
        left_s = self.until.get(endpoint_name, 0.0) - now_s
        standing = self.standings.get(endpoint_name)
        return [f"cools down for {left_s:.1f} s"] if left_s > 0 else [f"is {RANKS[standing.rank]}"] if standing else []

    def inflight(self, endpoint_name: str) -> int:
        return self.running.get(endpoint_name, 0)

    def load(self, endpoint_name: str, now_s: float) -> int | None:
        return self.loads.get(endpoint_name)

    def latency(self, endpoint_name: str, now_s: float) -> float:
        return self.latencies.get(endpoint_name, 0.0)
