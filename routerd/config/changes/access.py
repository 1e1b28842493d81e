"""What changes of clients and budgets: who may ask what, how much of it, and what is kept of that which is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from routerd.config.changes.leaves import Change, attached, by_name, differences, listed, number
from routerd.config.compile.units import duration_text
from routerd.graph import Budget, Client, Graph

_IDENTITY = ("kind", "scope")  # with name and subject: what a counter is kept under


def diff_clients(old: Graph, new: Graph) -> Iterator[Change]:
    """Yield the changes of `clients:`; who loses access is named."""
    if old.clients is None and new.clients is not None:
        text = f"a key is asked for: only {listed(new.clients) or 'nobody'} may call"
        yield Change(path="clients", kind="added", text=text)
        return
    if old.clients is not None and new.clients is None:
        yield Change(path="clients", kind="removed", text="no key is asked for: anybody may call")
        return
    disabled = dict(_reasons(old, new))
    for name, before, after in by_name(old.clients or {}, new.clients or {}):
        path = f"clients.{name}"
        if before is None:
            yield Change(path=path, kind="added", text=f"client {name} gets access")
        elif after is None:
            why = f" ({disabled.pop(name)})" if name in disabled else ""
            yield Change(path=path, kind="removed", text=f"client {name} loses access: its key is refused{why}")
        else:
            yield from _client(path, old, new, before, after)
    for name, why in disabled.items():
        if name not in (new.clients or {}):
            yield Change(path=f"clients.{name}", kind="changed", text=f"client {name} has no access: {why}")


def _reasons(old: Graph, new: Graph) -> Iterator[tuple[str, str]]:
    """Yield clients that are disabled now, for another reason than before or for the first time."""
    for name, before, after in by_name(old.disabled_clients, new.disabled_clients):
        if before != after:
            yield name, after or "it is not in the file any more"


def _client(path: str, old: Graph, new: Graph, before: Client, after: Client) -> Iterator[Change]:
    name = after.name
    if before.key_sha256 != after.key_sha256:
        yield Change(path=f"{path}.key", kind="changed", text=f"credential of client {name} changed: the old key is refused")
    if before.models != after.models:
        yield _models(path, old, new, before, after)
    yield from attached(path, f"client {name}", before.budgets, after.budgets)
    for field, words in differences(before, after, ("name", "key_sha256", "models", "budgets")):
        yield Change(path=f"{path}.{field}", kind="changed", text=f"client {name}: {field} {words}")


def _models(path: str, old: Graph, new: Graph, before: Client, after: Client) -> Change:
    """Say which of the names that stay offered are lost or won; the patterns themselves where no name tells it."""
    names = [(name, route) for name, route in _names(new) if name in old.routes or name in old.aliases]
    lost = [name for name, route in names if before.may_use(name, route) and not after.may_use(name, route)]
    won = [name for name, route in names if after.may_use(name, route) and not before.may_use(name, route)]
    said = [f"may not use {listed(lost)} any more" if lost else "", f"may use {listed(won)} now" if won else ""]
    words = " and ".join(filter(None, said)) or f"may use [{', '.join(one.text for one in after.models) or '*'}] now"
    return Change(path=f"{path}.models", kind="changed", text=f"client {after.name} {words}")


def _names(graph: Graph) -> Iterator[tuple[str, str]]:
    yield from ((name, name) for name in graph.routes)
    yield from graph.aliases.items()


def diff_budgets(old: Graph, new: Graph) -> Iterator[Change]:
    """Yield the changes of `budgets:`."""
    for name, before, after in by_name(old.budgets, new.budgets):
        path = f"budgets.{name}"
        if before is None:
            yield Change(path=path, kind="added", text=f"adds budget {name}: {_allows(after)}")
        elif after is None:
            state = "" if before.kind == "concurrency" else "used is remembered until its window ends"
            yield Change(path=path, kind="removed", text=f"drops budget {name}: {_allows(before)}", state=state)
        elif before != after:
            yield from _budget(path, before, after)


def _budget(path: str, before: Budget, after: Budget) -> Iterator[Change]:
    anew = any(getattr(before, field) != getattr(after, field) for field in _IDENTITY)
    kept = "running requests keep their place" if after.kind == "concurrency" else "used is kept"
    state = "counting starts from zero" if anew else kept
    told = ["name", "limit"]
    if before.kind != after.kind:
        told += ["kind", "window_s"]
        text = f"budget {after.name}: {_allows(before)} -> {_allows(after)}"
        yield Change(path=path, kind="changed", text=text, state=state)
    elif before.limit != after.limit:
        text = f"budget {after.name}: limit {_limit(before)} -> {_limit(after)}"
        yield Change(path=f"{path}.{after.kind}", kind="changed", text=text, state=state)
    for field, words in differences(before, after, told):
        shown = "per" if field == "window" else field
        yield Change(path=f"{path}.{shown}", kind="changed", text=f"budget {after.name}: {shown} {words}", state=state)


def _allows(budget: Budget) -> str:
    unit = "requests at a time" if budget.kind == "concurrency" else budget.kind
    window: Any = getattr(budget, "calendar", "") or (duration_text(budget.window_s) if budget.window_s else "")
    whom = f" for each {budget.scope}" if budget.scope != "global" else ""
    return f"{_limit(budget)} {unit}{f' per {window}' if window else ''}{whom}"


def _limit(budget: Budget) -> str:
    return number(budget.limit / 1e9) if budget.kind == "usd" else number(budget.limit)  # kept in nano-dollars
