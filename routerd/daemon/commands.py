"""What the commands other than `serve` do: check, schema, explain, reload, status.

Each returns an exit status: 0 fine, 1 a difference or a failing answer, 2 invalid, 3 cannot read or reach. What a command was
asked for goes to stdout, why it could not do it to stderr. They import only what they need: `status` must not load a schema.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd.daemon.report import is_unreadable, problem_as_json, report
from routerd.daemon.settings import Address
from routerd.errors import ConfigError, Problem, RequestError

if TYPE_CHECKING:
    from routerd.config import Loaded

__all__ = ["check", "explain", "reload", "schema", "status"]

FINE, FAILED, INVALID, CANNOT_REACH = 0, 1, 2, 3
RELOAD_TIMEOUT_S = 60.0


def check(file: Path, form: str) -> int:
    """Validate `file` exactly as the daemon does, and print every problem."""
    loaded, failed = _load(file)
    problems: tuple[Problem, ...] = failed.problems if failed else loaded.warnings if loaded else ()
    if form == "json":
        told = {
            "ok": failed is None,
            "result": failed.stage if failed else "ok",
            "file": str(file),
            "problems": [problem_as_json(problem) for problem in problems],
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        if problems:
            print(report(problems, sys.stdout))
        if loaded:
            models, providers = len(loaded.graph.routes), len(loaded.graph.providers)
            print(f"{file}: fine ({models} models, {providers} providers, digest {loaded.graph.digest[:16]})")
    return _status_of(failed)


def schema() -> int:
    """Print the JSON schema of routes.yaml."""
    from routerd.config import schema_json

    print(schema_json().rstrip("\n"))
    return FINE


def explain(file: Path, model: str, client: str | None, down: Sequence[str]) -> int:
    """Print the whole decision for a request to `model`, without sending one."""
    from routerd.plan import explain as explain_plan
    from routerd.plan import render_explanation

    loaded, failed = _load(file)
    if loaded is None:
        assert failed is not None
        print(report(failed.problems, sys.stderr), file=sys.stderr)
        return _status_of(failed)
    graph = loaded.graph
    caller = (graph.clients or {}).get(client) if client else None
    if client and caller is None:
        return _complain(f"no client is called {client!r}; there are: {', '.join(graph.clients or ()) or 'none'}", INVALID)
    if unknown := [name for name in down if name not in graph.endpoints]:
        return _complain(f"no endpoint is called {unknown[0]!r}; there are: {', '.join(graph.endpoints)}", INVALID)
    try:
        found = explain_plan(graph, model, client=caller, down=tuple(down), now_s=time.monotonic(), origins=loaded.origins)
    except RequestError as exc:
        return _complain(f"{exc.status} {exc.code or exc.type}: {exc.message}", FAILED)
    print(render_explanation(found).rstrip("\n"))
    return FINE


def reload(admin: Address, wait: bool) -> int:
    """Have the daemon read its configuration again; with `wait` return when every worker serves it."""
    code, answer = _ask(admin, "POST", "/-/reload")
    if answer is None:
        return code
    if code == 422:
        problems = [Problem(**problem) for problem in answer["problems"]]
        print(report(problems, sys.stderr), file=sys.stderr)
        return _complain(f"{answer['result']}: generation {answer['generation']} keeps serving", INVALID)
    if code != 200:
        return _complain(f"{admin} refused: {answer.get('error', code)}", FAILED)
    if wait and (why := _await_workers(admin, answer["digest"])):
        return _complain(why, FAILED)
    print(f"{answer['result']}: generation {answer['generation']}, digest {answer['digest'][:16]}")
    return FINE


def status(admin: Address, form: str) -> int:
    """Print what serves. 1 when it is not what the files say, or not ready."""
    code, answer = _ask(admin, "GET", "/-/status")
    if answer is None:
        return code
    if form == "json":
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_status_lines(answer)))
    return FINE if answer["ready"] and not answer["drift"] else FAILED


def _status_lines(told: Mapping[str, Any]) -> list[str]:
    last = told["last_reload"] or {}
    lines = [
        f"routerd {told['version']}, pid {told['pid']}, up {told['uptime_s']:.0f} s, {'ready' if told['ready'] else 'not ready'}",
        f"generation {told['generation']} of {told['config']}, digest {told['digest'][:16]}, {told['models']} models",
        f"drift: {'the files differ from what serves' if told['drift'] else 'none'}",
        f"last reload: {last.get('result', 'none')} ({last.get('trigger', '-')})",
    ]
    for problem in last.get("problems", ()):
        place = f"{problem['file']}:{problem['line']}:{problem['column']}: " if problem["file"] else ""
        lines.append(f"  {place}{problem['severity']}[{problem['code']}] {problem['path']}: {problem['message']}")
    lines.extend(f"disabled: {path}: {why}" for path, why in told["disabled"].items())
    lines.extend(
        f"worker {worker['worker']}: {'up' if worker['up'] else 'down'}, pid {worker['pid']}, "
        f"generation {worker['generation']}, {worker['inflight']} in flight, {worker['restarts']} restarts"
        for worker in told["workers"]
    )
    return lines


def _load(file: Path) -> tuple[Loaded | None, ConfigError | None]:
    from routerd.config import load

    try:
        return load(file, os.environ), None
    except ConfigError as exc:
        return None, exc


def _status_of(failed: ConfigError | None) -> int:
    if failed is None:
        return FINE
    return CANNOT_REACH if is_unreadable(failed.problems) else INVALID


def _ask(admin: Address, method: str, path: str) -> tuple[int, Any]:
    """Return status and decoded answer; (exit status, None) when nobody sensible answers."""
    connection = http.client.HTTPConnection(admin.host, admin.port, timeout=RELOAD_TIMEOUT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except TimeoutError:
        return _complain(f"{admin} did not answer within {RELOAD_TIMEOUT_S:g} s", CANNOT_REACH), None
    except OSError as exc:
        hint = "is the daemon running, and is this its --admin address?"
        return _complain(f"cannot reach {admin}: {exc.strerror or exc}; {hint}", CANNOT_REACH), None
    except (http.client.HTTPException, ValueError):
        return _complain(f"what answers at {admin} is not the admin listener of routerd", CANNOT_REACH), None
    finally:
        connection.close()


def _await_workers(admin: Address, digest: str) -> str:
    """Return when every worker serves `digest`, or why that is not so."""
    until_s = time.monotonic() + RELOAD_TIMEOUT_S
    while time.monotonic() < until_s:
        code, told = _ask(admin, "GET", "/-/status")
        if told is None or code != 200:
            return "the daemon went away"
        if told["digest"] != digest:
            return f"another reload came after this one: digest {told['digest'][:16]} serves"
        if all(worker["digest"] == digest for worker in told["workers"]):
            return ""
        time.sleep(0.05)
    return f"not every worker serves it after {RELOAD_TIMEOUT_S:g} s"


def _complain(why: str, code: int) -> int:
    print(f"routerd: {why}", file=sys.stderr)
    return code
