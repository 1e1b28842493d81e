"""`routerd explain`: the whole decision for a request, without sending one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from routerd.daemon.commands.check import load_or_report
from routerd.daemon.commands.syntax import FAILED, FINE, INVALID, add_config, command, complain, config_of
from routerd.errors import RequestError

__all__ = ["add_explain", "explain"]


def add_explain(commands: Any) -> None:
    """Declare `explain`."""
    example = "routerd explain --model gpt-4 --client mobile --down gpu-a"
    parser = command(commands, "explain", "say where a request would go, and why", example, failed="it would be refused")
    parser.add_argument("--model", required=True, metavar="X", help="the model as a client writes it")
    parser.add_argument("--client", metavar="C", help="a name of the `clients` block")
    parser.add_argument("--down", action="append", default=[], metavar="E", help="an endpoint to think away; may be repeated")
    add_config(parser)


def explain(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Print the decision."""
    from routerd.plan import explain as explain_plan
    from routerd.plan import render_explanation

    loaded, status = load_or_report(config_of(flags["config"], environ))
    if loaded is None:
        return status
    graph, client, down = loaded.graph, flags["client"], flags["down"]
    caller = (graph.clients or {}).get(client) if client else None
    if client and caller is None:
        return complain(f"no client is called {client!r}; there are: {', '.join(graph.clients or ()) or 'none'}", INVALID)
    if unknown := [name for name in down if name not in graph.endpoints]:
        return complain(f"no endpoint is called {unknown[0]!r}; there are: {', '.join(graph.endpoints)}", INVALID)
    try:
        found = explain_plan(
            graph, flags["model"], client=caller, down=tuple(down), now_s=time.monotonic(), origins=loaded.origins
        )
    except RequestError as exc:
        return complain(f"{exc.status} {exc.code or exc.type}: {exc.message}", FAILED)
    print(render_explanation(found).rstrip("\n"))
    return FINE
