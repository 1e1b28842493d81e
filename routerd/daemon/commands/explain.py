"""`routerd explain`: what is asked, on the command line. `load.explained` has the facts, `explain_text` the screen."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from routerd.errors import ModelNotFound, RequestError

__all__ = ["add_explain", "explain"]


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
    from routerd.daemon.commands.live import Unanswered
    from routerd.daemon.commands.seen import seen_by
    from routerd.daemon.load.explained import explained
    from routerd.daemon.load.question import listed, question_of
    from routerd.plan import offered_names

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
    except ModelNotFound as exc:
        unknown = f"{config} has no model {question.model!r}; {listed(offered_names(graph), question.model)}"
        return complain(f"{exc.status} {exc.code}: {exc.message if exc.code == 'model_disabled' else unknown}", FAILED)
    except RequestError as exc:
        return complain(f"{exc.status} {exc.code or exc.type}: {exc.message}", FAILED)
    if flags["format"] == "json":
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print(render(told, paint_for(sys.stdout)), end="")
    return FINE if told["status"] == 200 else FAILED


def _headers(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise LookupError(f"--header {name!r} is not NAME=VALUE, such as x-session-id=s1")
    return {name.lower(): value for name, _, value in pairs}
