"""What would come of a request, without sending one: the order of `server.chat` with the functions that serve traffic.

Route, permission, edits, budgets, order, budgets at the provider: each step is the package's own function. Three things are
pretended: what is down (its endpoints cool for ever), how much of the budgets is used, and that chance always falls the same way.
Used by the `tests:` of a configuration and by `routerd explain`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from routerd.errors import BudgetExceeded, ErrorType, Forbidden, RequestError
from routerd.graph import Client, Graph, Price, Route
from routerd.messages import ModelRequest, Taken
from routerd.plan import SESSION, Planned, Resolved, Resolver, RoutePlan, ThoughtAway, affinity_key
from routerd.policy import Bill, Charge, Need, allowed, charges, dearest, estimate, provider_charges, reserve
from routerd.wire import apply_params, encode_body, parse_request, prepare_body
from routerd.wire.openai.body import max_tokens_of

__all__ = ["UNREACHABLE", "Question", "Forecast", "Rung", "Stage", "refusals", "reserved"]

NeedOf = Callable[[Price | None], Need]
UNREACHABLE = (502, str(ErrorType.UPSTREAM_CONNECT))  # what server.render answers when no attempt found anybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request, and what is the matter meanwhile. `client` None: somebody whom nothing restricts."""

    model: str
    client: Client | None = None
    down: frozenset[str] = frozenset()  # endpoints
    used: Mapping[str, float] = field(default_factory=dict)  # budget -> part of its limit
    params: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # of the client, names in lower case


@dataclass(frozen=True, slots=True)
class Rung:
    """One place to try, of step `step` (from 0) of the chain."""

    planned: Planned
    step: int

    @property
    def label(self) -> str:
        """Return provider/model, as asked of the upstream."""
        return f"{self.planned.provider.name}/{self.planned.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What came of it. `plan`: what can be tried, in order: nothing that is down or over its budget."""

    status: int = 200
    code: str = ""
    message: str = ""
    resolved: Resolved | None = None
    plan: tuple[Rung, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict)  # what the first of the plan is sent, in the words of OpenAI

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the labels that can be asked first: of a balanced group, each member that chance can choose."""
        if not self.plan:
            return ()
        first = self.plan[0]
        group = [rung for rung in self.plan if rung.step == first.step and rung.planned.target.weight > 0]
        return tuple(dict.fromkeys(rung.label for rung in group or [first]))

    def steps(self) -> tuple[tuple[str, ...], ...]:
        """Return the labels of each step in the order of trying; inside a step in file order."""
        out: list[list[Rung]] = []
        for rung in self.plan:
            if not out or out[-1][0].step != rung.step:
                out.append([])
            out[-1].append(rung)
        ordered = (sorted(step, key=lambda rung: rung.planned.index) for step in out)
        return tuple(tuple(dict.fromkeys(rung.label for rung in step)) for step in ordered)


class Stage:
    """Where requests to one graph are foretold. `complete`: providers that are disabled for want of a credential take part."""

    def __init__(self, graph: Graph, *, complete: bool = False) -> None:
        if complete:
            providers = {name: replace(one, disabled="") for name, one in graph.providers.items()}
            graph = replace(graph, providers=providers)
        self.graph = graph
        self._resolver = Resolver(graph)

    def foretell(self, question: Question) -> Forecast:
        """Return what would come of it; a refusal is an outcome, too."""
        try:
            return self._foretell(question)
        except RequestError as exc:
            return Forecast(status=exc.status, code=exc.code or exc.type, message=exc.message)

    def _foretell(self, question: Question) -> Forecast:
        client = question.client
        request = parse_request(_body(question), "chat", "chat/completions")
        resolved = self._resolver.resolve(question.model, None if client is None else lambda name: allowed(client, name))
        route = resolved.route
        if client is not None and not allowed(client, question.model, route.name):
            raise Forbidden(f"This key may not use the model '{question.model}'.", param="model")
        body = prepare_body(request, system_prompt=route.system_prompt, params=route.params)
        need = _need_of(request, body)
        asked = charges(self.graph, client=client, route=route, captured_model=question.model)
        compiled = RoutePlan(self.graph, route)
        price = dearest(planned.target.price for planned in compiled.every)
        reserve(_Used(question.used), Bill(asked), need(price), 0.0)
        key = affinity_key(question.headers.get(SESSION), request.body)
        order = compiled.order(resolved.captured, ThoughtAway(None, question.down), random.Random(0), 0.0, key=key)
        rungs = [Rung(planned, _step(route, planned)) for planned in order if planned.endpoint.name not in question.down]
        plan, refused = self._affordable(rungs, question, route, need)
        if not plan:
            if refused is not None:
                raise refused
            (status, code), why = UNREACHABLE, "no target of this model can be used now"
            return Forecast(status=status, code=code, message=why, resolved=resolved, body=_decoded(body, None))
        return Forecast(resolved=resolved, plan=tuple(plan), body=_decoded(body, plan[0].planned))

    def _affordable(
        self, rungs: Sequence[Rung], question: Question, route: Route, need: NeedOf
    ) -> tuple[list[Rung], BudgetExceeded | None]:
        """Return the rungs that the providers' budgets allow, and the last refusal: `attempt.loop` goes on to the next target."""
        plan: list[Rung] = []
        refused: BudgetExceeded | None = None
        for rung in rungs:
            planned = rung.planned
            where = (planned.provider, planned.endpoint.name)
            asked = provider_charges(self.graph, where, planned.model, question.client, route)
            try:
                reserve(_Used(question.used), Bill(asked), need(planned.target.price), 0.0)
            except BudgetExceeded as exc:
                refused = exc
            else:
                plan.append(rung)
        return plan, refused


def refusals(asked: Sequence[Charge], question: Question, route: Route, price: Price | None) -> dict[str, str]:
    """Return budget -> why it would refuse, of these charges taken one by one."""
    need = _need(question, route, price)
    out: dict[str, str] = {}
    for charge in asked:
        try:
            reserve(_Used(question.used), Bill((charge,)), need, 0.0)
        except BudgetExceeded as exc:
            out[charge.budget.name] = exc.message
    return out


def reserved(charge: Charge, question: Question, route: Route, price: Price | None) -> int:
    """Return what the request takes of a charge before it is known what it uses, in the unit of the budget."""
    return Bill((charge,)).amounts(_need(question, route, price))[0]


def _need(question: Question, route: Route, price: Price | None) -> Need:
    request = parse_request(_body(question), "chat", "chat/completions")
    return _need_of(request, prepare_body(request, system_prompt=route.system_prompt, params=route.params))(price)


def _need_of(request: ModelRequest, body: Mapping[str, Any]) -> NeedOf:
    """Return what the request may use, at a price."""
    size_bytes, max_tokens = request.size_bytes, max_tokens_of(body)
    return lambda price: estimate(size_bytes, max_tokens, price)


class _Used:
    """Counters of which a part of every limit is used; nothing is kept."""

    overflows = 0

    def __init__(self, used: Mapping[str, float]) -> None:
        self._used = used

    def take(self, asked: Sequence[Charge], amounts: Sequence[int], _now_s: float, /) -> Taken:
        """Refuse what does not fit beside the part that is used."""
        for i, (charge, amount) in enumerate(zip(asked, amounts, strict=True)):
            if charge.enforced and self.used(charge, 0.0) + amount > charge.limit:
                return Taken((), i, charge.window_s or 1.0)
        return Taken(tuple((0, 0) for _ in asked))

    def used(self, charge: Charge, _now_s: float, /) -> int:
        """Return the part of the limit; the bucket of a budget with `burst` is empty."""
        return 0 if charge.pace else round(self._used.get(charge.budget.name, 0.0) * charge.limit)

    def settle(self, *_what: object) -> None:
        """Keep nothing."""


def _body(question: Question) -> bytes:
    system = [{"role": "system", "content": question.system_prompt}] if question.system_prompt else []
    messages = [*system, {"role": "user", "content": "hello"}]
    return json.dumps({"model": question.model, "messages": messages, **question.params}).encode()


def _decoded(body: Mapping[str, Any], planned: Planned | None) -> Mapping[str, Any]:
    """Return the body as plain values, with what the target and its provider add."""
    if planned is None:
        found = json.loads(encode_body(body, model="", extra={}, include_usage=False))
    else:
        own = apply_params(body, planned.target.params) if planned.target.params else body
        found = json.loads(encode_body(own, model=planned.model, extra=planned.provider.body, include_usage=False))
    assert isinstance(found, dict)
    return found


def _step(route: Route, planned: Planned) -> int:
    return next(i for i, step in enumerate(route.chain) if any(one is planned.target for one in step.targets))
