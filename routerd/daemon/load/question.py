"""What is asked of a forecast, by names: the client, what is thought away, how much of a budget is used.

The command line and the admin listener both take names from people; a name that the graph does not know is answered with the
closest one and with those there are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from routerd.daemon.load.forecast import Question
from routerd.graph import Client, Graph
from routerd.plan import Suggester

__all__ = ["listed", "question_of"]

NAMES_TOLD = 20


def question_of(
    graph: Graph, *, model: str, client: str | None = None, down: Sequence[str] = (), used: Sequence[str] = ()
) -> Question:
    """Return the question; LookupError for a name that is not known."""
    return Question(model=model, client=_client(graph, client), down=_down(graph, down), used=_used(graph, used))


def listed(names: Collection[str], name: str) -> str:
    """Return the known name that may be meant by `name`, and the first of those there are, as words for a person."""
    closest = Suggester(names).closest(name)
    meant = f"did you mean {closest!r}? " if closest else ""
    more = ", ..." if len(names) > NAMES_TOLD else ""
    return f"{meant}there are: {', '.join(list(names)[:NAMES_TOLD]) or 'none'}{more}"


def _client(graph: Graph, name: str | None) -> Client | None:
    if name is None:
        return None
    if name in graph.disabled_clients:
        raise LookupError(f"the client {name!r} is disabled: {graph.disabled_clients[name]}")
    found: Client = _known(graph.clients or {}, name, "client")
    return found


def _down(graph: Graph, names: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        if name in graph.providers and name not in graph.endpoints:
            found.update(endpoint.name for endpoint in graph.providers[name].endpoints)
        else:
            found.add(_known({**graph.endpoints, **graph.providers}, name, "endpoint").name)
    return frozenset(found)


def _used(graph: Graph, texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, part = text.partition("=")
        try:
            found[name] = float(part)
        except ValueError:
            equals = ""
        if not equals or not 0 <= found[name] < float("inf"):
            raise LookupError(f"--used {text!r} is not BUDGET=PART, such as team-tokens=0.9")
        _known(graph.budgets, name, "budget")
    return found


def _known(names: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in names:
        raise LookupError(f"no {what} is called {name!r}; {listed(names, name)}")
    return names[name]
