"""`routerd explain`: what is asked, on the command line. `explained` has the facts, `explain_text` the screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from routerd.daemon.commands.check import load_or_report
from routerd.daemon.commands.explain_text import render
from routerd.daemon.commands.syntax import (
    CANNOT_REACH,
    FAILED,
    FINE,
    INVALID,
    add_admin,
    add_config,
    add_format,
    admin_of,
    command,
    complain,
    config_of,
)
from routerd.daemon.output.terminal import paint_for
from routerd.errors import RequestError

if TYPE_CHECKING:
    from routerd.daemon.load.forecast import Question
    from routerd.graph import Client, Graph

__all__ = ["add_explain", "explain", "question_of"]

NAMES_TOLD = 20


def add_explain(commands: Any) -> None:
    """Declare `explain`."""
    example = "routerd explain --model gpt-4 --client mobile --down gpu-a --used team-tokens=0.9"
    parser = command(commands, "explain", "say where a request would go, and why", example, failed="it would be refused")
    parser.add_argument("--model", required=True, metavar="X", help="the model as a client writes it")
    parser.add_argument("--client", metavar="C", help="a name of the `clients` block")
    down = "an endpoint, or a provider with all of its own, to think away; may be repeated"
    parser.add_argument("--down", action="append", default=[], metavar="NAME", help=down)
    used = "how much of a budget is used, 1 is all; may be repeated"
    parser.add_argument("--used", action="append", default=[], metavar="BUDGET=PART", help=used)
    header = "a header of the client, such as x-session-id=s1, which `balance: prefix_hash` looks at; may be repeated"
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help=header)
    health = (
        "what is known of the endpoints: `live`, by the daemon at --admin; `none`; `auto` (default): live if it runs this file"
    )
    parser.add_argument("--health", choices=("auto", "live", "none"), default="auto", help=health)
    add_config(parser)
    add_admin(parser)
    add_format(parser)


def explain(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Print the decision."""
    config, admin = config_of(flags["config"], environ), admin_of(flags, environ)
    loaded, status = load_or_report(config)
    if loaded is None:
        return status
    from routerd.daemon.commands.explained import explained
    from routerd.daemon.commands.live import Unanswered
    from routerd.daemon.commands.seen import seen_by

    graph = loaded.graph
    try:
        question = question_of(graph, model=flags["model"], client=flags["client"], down=flags["down"], used=flags["used"])
        question = replace(question, headers=_headers(flags["header"]))
    except LookupError as exc:
        return complain(str(exc.args[0]), INVALID)
    try:
        seen, whose = seen_by(admin, config, flags["health"])
        told = {**explained(graph, loaded.origins, question, (seen, 0.0)), "health": whose}
    except Unanswered as exc:
        return complain(str(exc), CANNOT_REACH)
    except RequestError as exc:
        return complain(f"{exc.status} {exc.code or exc.type}: {exc.message}", FAILED)
    if flags["format"] == "json":
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print(render(told, paint_for(sys.stdout)), end="")
    return FINE if told["status"] == 200 else FAILED


# ── what is asked ──


def question_of(
    graph: Graph, *, model: str, client: str | None = None, down: Sequence[str] = (), used: Sequence[str] = ()
) -> Question:
    """Return the question; LookupError for a name that is not known."""
    from routerd.daemon.load.forecast import Question

    return Question(model=model, client=_client(graph, client), down=_down(graph, down), used=_used(graph, used))


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


def _headers(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise LookupError(f"--header {name!r} is not NAME=VALUE, such as x-session-id=s1")
    return {name.lower(): value for name, _, value in pairs}


def _known(names: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in names:
        from routerd.plan import Suggester

        closest = Suggester(names).closest(name)
        meant = f"did you mean {closest!r}? " if closest else ""
        more = ", ..." if len(names) > NAMES_TOLD else ""
        listed = f"there are: {', '.join(list(names)[:NAMES_TOLD]) or 'none'}{more}"
        raise LookupError(f"no {what} is called {name!r}; {meant}{listed}")
    return names[name]
