"""`budgets:` to records, and what `price` a budget in USD would miss.

Dollars become whole nano-dollars here. A target without a price costs nothing as far as a budget knows: that is warned
about, but for the simulator, which is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from routerd.config.compile.context import Build
from routerd.config.tree import Path
from routerd.graph import Budget, Client, Pattern, Price, Provider, Route

CALENDAR = frozenset({"hour", "day", "week", "month"})
KINDS = ("requests", "tokens", "usd", "concurrency")
NANO = 1_000_000_000
SHOWN = 5


def compile_budgets(build: Build) -> dict[str, Budget]:
    """Compile all budgets."""
    return {name: _budget(build, name, body) for name, body in build.entries("budgets")}


def _budget(build: Build, name: str, body: Mapping[str, Any]) -> Budget:
    path: Path = ("budgets", name)
    kind = next(word for word in KINDS if word in body)
    limit = max(1, round(body[kind] * NANO)) if kind == "usd" else int(body[kind])
    window_s, calendar = _window(build, path, kind, body)
    queue = body.get("queue", {})
    queue_path = (*path, "queue")
    wait_s = build.seconds((*queue_path, "wait"), queue["wait"]) if "wait" in queue else 10.0
    shadow = body.get("mode") == "shadow"
    if shadow and "queue" in body:
        build.error(queue_path, "conflicting-keys", "in shadow mode nobody ever waits", "remove one of the two", at_key=True)
    return Budget(
        name=name,
        kind=kind,
        limit=limit,
        window_s=window_s,
        calendar=calendar,
        burst=_burst(build, path, kind, body),
        scope=body.get("scope", "global"),
        models=tuple(Pattern.parse(text) for text in body.get("models", ())),
        queue_max=int(queue.get("max", 64)) if "queue" in body else 0,
        queue_wait_s=(wait_s or 0.0) if "queue" in body else 0.0,
        shadow=shadow,
    )


def _window(build: Build, path: Path, kind: str, body: Mapping[str, Any]) -> tuple[float, str]:
    """Return the length of a sliding window and the word of a calendar one; concurrency has neither."""
    if kind == "concurrency":
        if "per" in body:
            build.error((*path, "per"), "conflicting-keys", "concurrency has no window", "remove `per`", at_key=True)
        return 0.0, ""
    if body["per"] in CALENDAR:
        return 0.0, body["per"]
    return build.seconds((*path, "per"), body["per"]) or 0.0, ""


def _burst(build: Build, path: Path, kind: str, body: Mapping[str, Any]) -> int:
    if "burst" not in body:
        return 0
    here = (*path, "burst")
    if kind not in ("requests", "tokens"):
        build.error(here, "conflicting-keys", f"a budget of {kind} has no burst", "remove it", at_key=True)
    elif body["per"] in CALENDAR:
        hint = f"write a length, such as `per: {'30d' if body['per'] == 'month' else '1' + body['per'][0]}`"
        build.error(here, "conflicting-keys", "a calendar window has no even rate", hint, at_key=True)
    elif body["burst"] > body[kind]:
        message = f"a burst of {build.tree.shown(here)} is more than the {build.tree.shown((*path, kind))} of the whole window"
        build.error(here, "out-of-range", message, "make it smaller, or remove it")
    return int(body["burst"])


def price(body: Mapping[str, Any] | None) -> Price | None:
    """Compile a `price` block."""
    if body is None:
        return None
    given = body["input_usd_per_mtok"]
    return Price(
        input_nano_usd=round(given * NANO),
        output_nano_usd=round(body["output_usd_per_mtok"] * NANO),
        cached_input_nano_usd=round(body.get("cached_input_usd_per_mtok", given) * NANO),
    )


def check_prices(
    build: Build,
    budgets: Mapping[str, Budget],
    routes: Mapping[str, Route],
    providers: Mapping[str, Provider],
    clients: Mapping[str, Client] | None,
) -> None:
    """Warn about targets that a budget in USD would count as free."""
    of_all = {name for client in (clients or {}).values() for name in client.budgets}
    for budget in budgets.values():
        if budget.kind == "usd":
            name = budget.name
            free = [
                label
                for route, provider, label in _free(routes, providers)
                if name in of_all or name in route.budgets or name in provider.budgets
            ]
            _warn(build, ("budgets", name), f"budget {name!r} counts", free)
    for client in (clients or {}).values():
        if client.credits is not None and client.credits.kind == "usd":
            free = [label for route, _, label in _free(routes, providers) if client.may_use(route.name)]
            _warn(build, ("clients", client.name, "credits"), f"the credit of {client.name!r} counts", free)


def _free(routes: Mapping[str, Route], providers: Mapping[str, Provider]) -> Iterator[tuple[Route, Provider, str]]:
    """Yield what has no price and should have one."""
    for route in routes.values():
        for target in (target for step in (*route.chain, *route.overflow) for target in step.targets):
            provider = providers.get(target.provider)
            if provider is not None and target.price is None and provider.simulator is None:
                yield route, provider, target.label


def _warn(build: Build, path: Path, who: str, free: list[str]) -> None:
    names = [*dict.fromkeys(free)]
    if names:
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        hint = "give the model or the target a `price`"
        build.warn(path, "no-price", f"{who} nothing for what has no price: {shown}", hint, at_key=True)
