"""What changes of models and their aliases. Equal differences of many models (a default was changed) are one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from routerd.config.changes.leaves import Change, attached, by_name, differences, listed
from routerd.graph import Graph, Route, Step, Target

_TOLD = ("name", "pattern", "aliases", "chain", "overflow", "enabled", "system_prompt", "budgets")
_TOLD_OF_TARGETS = ("provider", "model")


def diff_routes(old: Graph, new: Graph) -> Iterator[Change]:
    """Yield the changes of `models:`."""
    shared: dict[tuple[str, str], list[str]] = {}  # (field, words) -> names of models
    for name, before, after in by_name(old.routes, new.routes):
        if before is None:
            yield Change(path=f"models.{name}", kind="added", text=f"offers {name}: {_order(after.chain)}")
        elif after is None:
            yield Change(path=f"models.{name}", kind="removed", text=f"drops {name}{_losers(old, name)}")
        elif before != after:
            yield from _changed(new, before, after)
            for field, words in _details(before, after):
                shared.setdefault((field, words), []).append(name)
    for (field, words), names in shared.items():
        path = f"models.{names[0]}.{field}" if len(names) == 1 else "models"
        yield Change(path=path, kind="changed", text=f"{listed(names)}: {field} {words}")
    yield from _new_order(old, new)


def _changed(new: Graph, before: Route, after: Route) -> Iterator[Change]:
    name, path = after.name, f"models.{after.name}"
    if before.enabled != after.enabled:
        text = f"{name} is offered again" if after.enabled else f"{name} is not offered any more: 404 model_disabled"
        yield Change(path=f"{path}.enabled", kind="changed", text=text)
    if _labels(before) != _labels(after):
        text = f"{name} now goes to {_order(after.chain)}"
        yield Change(path=f"{path}.chain", kind="changed", text=text, state=_moved(before, after))
    if before.overflow != after.overflow:
        goes = f"now go to {_order(after.overflow)}" if after.overflow else "are an error 400 again"
        text = f"prompts that are too long for {name} {goes}"
        yield Change(path=f"{path}.failover.context_overflow", kind="changed", text=text)
    if before.system_prompt != after.system_prompt:
        count = len(_endpoints(new, after))
        what = "is new" if before.system_prompt is None else "is gone" if after.system_prompt is None else "changed"
        cold = f"prefix caches of {count} endpoint{'' if count == 1 else 's'} go cold"
        yield Change(path=f"{path}.system_prompt", kind="changed", text=f"system_prompt of {name} {what}", state=cold)
    yield from attached(path, name, before.budgets, after.budgets)


def _details(before: Route, after: Route) -> Iterator[tuple[str, str]]:
    yield from differences(before, after, _TOLD)
    if _labels(before) != _labels(after):
        return
    seen: set[tuple[str, str]] = set()  # a timeout or price of the model is in each of its targets
    for one, two in zip(before.chain, after.chain, strict=True):
        found = [("balance", f"{one.balance.value} -> {two.balance.value}")] if one.balance != two.balance else []
        for a, b in zip(one.targets, two.targets, strict=True):
            for field, words in differences(a, b, _TOLD_OF_TARGETS):
                shared = field.startswith(("timeouts.", "price."))
                found.append((field, words) if shared else (f"{b.label}: {field}", words))
        yield from (item for item in found if item not in seen)
        seen.update(found)


def _labels(route: Route) -> list[list[str]]:
    return [[target.label for target in step.targets] for step in route.chain]


def _order(chain: Sequence[Step]) -> str:
    """Write a chain as a way: `gpu/x first, then a/y or b/y`."""
    steps = [_step(step) for step in chain]
    return f"{steps[0]} first, then {', then '.join(steps[1:])}" if len(steps) > 1 else steps[0]


def _step(step: Step) -> str:
    return listed((target.label for target in step.targets), most=6, last="or")


def _moved(before: Route, after: Route) -> str:
    """Say that caches are cold where the first target is another one."""
    return "" if _first(before) & _first(after) else "prefix caches of the first targets start cold"


def _first(route: Route) -> set[str]:
    return {target.label for target in route.chain[0].targets}


def _endpoints(graph: Graph, route: Route) -> set[str]:
    found: set[str] = set()
    for target in (target for step in route.chain for target in step.targets):
        found |= _endpoints_of(graph, target)
    return found


def _endpoints_of(graph: Graph, target: Target) -> set[str]:
    provider = graph.providers.get(target.provider)
    names = {endpoint.name for endpoint in provider.endpoints} if provider else set()
    return names & {target.endpoint} if target.endpoint else names


def _losers(old: Graph, name: str) -> str:
    """Name the clients that could ask for it."""
    clients = [client.name for client in (old.clients or {}).values() if client.may_use(name)]
    if not clients:
        return ""
    return f"; {listed(clients)} could use it" if len(clients) < len(old.clients or {}) else "; every client could use it"


def _new_order(old: Graph, new: Graph) -> Iterator[Change]:
    """Tell an order that decides: which pattern is tried first, and how models are listed."""
    before = [route.name for route in old.patterns if route.name in new.routes]
    after = [route.name for route in new.patterns if route.name in old.routes]
    if before != after:
        yield Change(path="models", kind="changed", text=f"patterns are tried in the order {listed(after, 8)}")
    elif [name for name in old.routes if name in new.routes] != [name for name in new.routes if name in old.routes]:
        yield Change(path="models", kind="changed", text="models are listed in another order")


def diff_aliases(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    """Yield the changes of all aliases, wherever they are written."""
    for alias, before, after in by_name(old, new):
        path = f"aliases.{alias}"
        if before is None:
            yield Change(path=path, kind="added", text=f"offers alias {alias} of {after}")
        elif after is None:
            yield Change(path=path, kind="removed", text=f"drops alias {alias}")
        elif before != after:
            yield Change(path=path, kind="changed", text=f"alias {alias} now means {after} instead of {before}")
