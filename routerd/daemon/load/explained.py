"""The facts of `routerd explain` and of `/-/explain` as one plain document.

They come from `plan.explain` (route, order, origins) and from a forecast (permission, budgets, what would be answered). As JSON
the document is printed as it is; the text is made of it, so the two say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

from routerd.daemon.load.forecast import Question, Stage, refusals, reserved
from routerd.errors import Forbidden
from routerd.graph import Client, Graph, Route
from routerd.plan import SESSION, Explanation, HealthView, Origins, Setting, TargetLine, affinity_key
from routerd.plan import explain as explain_plan
from routerd.policy import CREDITS, Charge, charges, dearest, provider_charges

__all__ = ["explained"]

Told = dict[str, Any]


def explained(graph: Graph, origins: Origins, question: Question, view: tuple[HealthView | None, float] = (None, 0.0)) -> Told:
    """Return the decision as plain values; raise RequestError where there is no route to tell of.

    `view`: what is known of the endpoints, and the monotonic moment for which it counts.
    """
    client = question.client
    forecast = Stage(graph).foretell(question)
    may = True
    health, now_s = view
    key = affinity_key(question.headers.get(SESSION), {})
    down = tuple(question.down)
    ask = partial(explain_plan, graph, question.model, down=down, health=health, now_s=now_s, origins=origins, key=key)
    try:
        found = ask(client=client)
    except Forbidden:
        may = False
        found = ask()
    return {
        "model": question.model,
        "status": forecast.status,
        "code": forecast.code,
        "message": forecast.message,
        "route": _route(found),
        "client": _client_told(origins, client, may) if client else None,
        "key_needed": graph.clients is not None,
        "system_prompt": _prompt(found),
        "params": _settings(found.params),
        "budgets": _budgets(graph, origins, question, found),
        "failover": _settings(found.failover),
        "retry": _settings(found.retry),
        "targets": [_target(graph, question, found.route, line) for line in found.targets],
        "overflow": [_target(graph, question, found.route, line) for line in found.overflow],
    }


def _route(found: Explanation) -> Told:
    return {
        "name": found.route.name,
        "via": found.via,
        "captured": list(found.captured),
        "description": found.route.description,
        "origin": found.origin,
        "alias_origin": found.alias_origin,
    }


def _client_told(origins: Origins, client: Client, may: bool) -> Told:
    origin = str(origins.get(f"clients.{client.name}", ""))
    return {"name": client.name, "may_use": may, "models": [one.text for one in client.models], "origin": origin}


def _prompt(found: Explanation) -> Told | None:
    prompt = found.system_prompt
    if prompt is None:
        return None
    return {"mode": prompt.mode, "characters": len(prompt.text), "origin": found.system_prompt_origin}


def _settings(settings: Sequence[Setting]) -> list[Told]:
    return [{"name": one.name, "value": _plain(one.value), "origin": one.origin} for one in settings]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value


def _target(graph: Graph, question: Question, route: Route, line: TargetLine) -> Told:
    refused = refusals(_at_target(graph, question, route, line), question, route, line.price) if line.position else {}
    return {
        "position": line.position,
        "target": line.label,
        "endpoint": line.endpoint,
        "step": line.step,
        "why": [*line.why, *(f"budget {budget} refuses: passed over" for budget in refused)],
        "origin": line.origin,
        "params": _settings(line.params),
        "sends": _settings(line.sends),
        "timeouts": _settings(line.timeouts),
    }


def _budgets(graph: Graph, origins: Origins, question: Question, found: Explanation) -> list[Told]:
    """List what is attached to the client, the model and the providers of the plan: whom it counts, and what it would say."""
    client, route = question.client, found.route
    targets = (*found.targets, *found.overflow)
    price = dearest(line.price for line in targets)
    asked = [(charge, price) for charge in charges(graph, client=client, route=route, captured_model=question.model)]
    asked += [(charge, line.price) for line in targets for charge in _at_target(graph, question, route, line)]
    distinct = {charge.key: (charge, price) for charge, price in asked if not charge.pace}
    told = []
    for charge, price in distinct.values():
        budget = charge.budget
        told.append(
            {
                "name": budget.name,
                "of": _owner(graph, budget.name, client, route),
                "kind": budget.kind,
                "limit": _in_unit(charge.limit, budget.kind),
                "reserves": _in_unit(reserved(charge, question, route, price), budget.kind),
                "window_s": charge.window_s,
                "calendar": charge.calendar,
                "scope": budget.scope,
                "subject": charge.subject,
                "shadow": budget.shadow,
                "used_ratio": question.used.get(budget.name, 0.0),
                "refuses": refusals((charge,), question, route, price).get(budget.name, ""),
                "origin": str(origins.get(f"budgets.{budget.name}", "")),
            }
        )
    return told


def _in_unit(amount: int, kind: str) -> float:
    return amount / 1e9 if kind == "usd" else amount  # dollars are kept in nano-dollars


def _at_target(graph: Graph, question: Question, route: Route, line: TargetLine) -> tuple[Charge, ...]:
    name, _, model = line.label.partition("/")
    return provider_charges(graph, (graph.providers[name], line.endpoint), model, question.client, route)


def _owner(graph: Graph, budget: str, client: Client | None, route: Route) -> str:
    if client is not None and (budget in client.budgets or (budget == CREDITS and client.credits is not None)):
        return f"client {client.name}"
    if budget in route.budgets:
        return f"model {route.name}"
    providers = (graph.providers[target.provider] for step in (*route.chain, *route.overflow) for target in step.targets)
    return next((f"provider {provider.name}" for provider in providers if budget in provider.budgets), "")
