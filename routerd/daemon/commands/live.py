"""`routerd reload`, `rollback`, `history`, `status`, `drain` and `undrain`: talk to the admin listener of a running daemon."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from routerd import VERSION_HEADER
from routerd.daemon.commands.syntax import CANNOT_REACH, FAILED, FINE, INVALID, complain, count
from routerd.daemon.output.report import report
from routerd.daemon.settings import Address
from routerd.errors import Problem

__all__ = ["Unanswered", "ask", "ask_quietly", "drain", "history", "reload", "rollback", "status"]

RELOAD_TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 15.0  # for a question: a daemon that is only busy answers sooner
HELD = {  # why the files do not serve though nothing is wrong with them
    "rollback": ": what they hold was rolled back; `routerd reload` applies it all the same",
    "probation": ": probation rolled back what they hold; change them, or `routerd rollback N`",
}
NOT_ADMIN = "what answers at {} is not the admin listener of routerd; `serve` says its address, tell it with --admin"


def reload(admin: Address, *, wait: bool, allow_removal: bool) -> int:
    """Have the daemon read its configuration again; with `wait` return when every worker serves it."""
    code, answer = ask(admin, "POST", "/-/reload?allow_removal=1" if allow_removal else "/-/reload")
    return _told(admin, code, answer, wait=wait)


def rollback(admin: Address, to: int | None) -> int:
    """Have the daemon serve an earlier generation again."""
    code, answer = ask(admin, "POST", "/-/rollback" if to is None else f"/-/rollback?to={to}")
    return _told(admin, code, answer, wait=True)


def _told(admin: Address, code: int, answer: Any, *, wait: bool) -> int:
    if answer is None:
        return code
    if code == 422:
        problems = [Problem(**problem) for problem in answer["problems"]]
        print(report(problems, sys.stderr), file=sys.stderr)
        return complain(f"refused, {answer['result']}: generation {answer['generation']} keeps serving", INVALID)
    if code != 200:
        return complain(f"{admin} refused: {answer.get('error', code)}", FAILED)
    if wait and (why := _await_workers(admin, answer["digest"])):
        return complain(why, FAILED)
    back = f", as generation {answer['rolled_back_to']} was" if answer.get("rolled_back_to") else ""
    print(f"{answer['result']}: generation {answer['generation']}{back}, digest {answer['digest'][:16]}")
    return FINE


def history(admin: Address, form: str) -> int:
    """Print the last generations that served, newest first."""
    code, answer = ask(admin, "GET", "/-/history")
    if answer is None:
        return code
    if form == "json":
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return FINE
    for one in answer["generations"]:
        notes = [count(one["models"], "model"), count(one["providers"], "provider"), f"by {one['trigger']}"]
        notes += ["from the kept copy"] * (one["source"] == "last_good")
        notes += [f"as {one['rollback_of']} was"] * bool(one["rollback_of"])
        notes += ["rolled back"] * one["reverted"] + ["serves"] * one["serving"]
        print(f"{one['generation']:>5}  {_moment(one['at_unix_s'])}  {one['digest'][:16]}  {', '.join(notes)}")
        print("".join(f"       {change}\n" for change in one["changes"]), end="")
    return FINE


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def drain(admin: Address, endpoint: str, what: str) -> int:
    """Drain or undrain an endpoint; 1 when there is none of that name."""
    code, answer = ask(admin, "POST", f"/-/endpoints/{quote(endpoint, safe='')}/{what}")
    if answer is None:
        return code
    if code != 200:
        return complain(str(answer.get("error", code)), FAILED)
    print(f"{what}ed: {endpoint}, {answer['inflight']} in flight")
    return FINE


def status(admin: Address, form: str) -> int:
    """Print what serves. 1 when it is not what the files say, or not ready."""
    code, answer = ask(admin, "GET", "/-/status")
    if answer is None:
        return code
    if form == "json":
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_status_lines(answer)))
    return FINE if answer["ready"] and not answer["drift"] else FAILED


def _status_lines(told: Mapping[str, Any]) -> list[str]:
    last = told["last_reload"] or {}
    held = HELD[told["held"]] if told.get("held") else ""
    serves = [
        f"generation {told['generation']} of {told['config']}, digest {told['digest'][:16]}, {count(told['models'], 'model')}",
        f"drift: the files differ from what serves{held}" if told["drift"] else "drift: none",
    ]
    lines = [
        f"routerd {told['version']}, pid {told['pid']}, up {told['uptime_s']:.0f} s, {'ready' if told['ready'] else 'not ready'}",
        *(serves if told["generation"] else ()),
        *_notes(told),
        f"last reload: {_ended(last)} ({last.get('trigger', '-')})",
    ]
    lines.extend(line for problem in last.get("problems", ()) for line in _problem_lines(problem))
    lines.extend(f"disabled: {path}: {why}" for path, why in told["disabled"].items())
    lines.extend(
        f"worker {worker['worker']}: {'up' if worker['up'] else 'down'}, pid {worker['pid']}, "
        f"generation {worker['generation']}, {worker['inflight']} in flight, {count(worker['restarts'], 'restart')}"
        for worker in told["workers"]
    )
    lines.extend(
        f"endpoint {one['endpoint']}: {one['rank']}, {one['inflight']} in flight"
        + "".join(f"; {why}" for why in one["reasons"])
        + (f"; since {_moment(one['drained_since_unix_s'])}" if one.get("drained_since_unix_s") else "")
        for one in told["endpoints"]
        if one["rank"] != "free" or one["reasons"]
    )
    return lines


def _problem_lines(problem: Mapping[str, Any]) -> list[str]:
    """Return a problem in a line, and its hint in another."""
    at = f":{problem['line']}:{problem['column']}" if problem["line"] else ""
    place = f"{problem['file']}{at}: " if problem["file"] else ""
    path = f" {problem['path']}:" if problem["path"] else ""
    hint = [f"    = {problem['hint']}"] if problem["hint"] else []
    return [f"  {place}{problem['severity']}[{problem['code']}]{path} {problem['message']}", *hint]


def _ended(last: Mapping[str, Any]) -> str:
    """Return the result of a reload in words; a stage is where it was refused."""
    result: str = last.get("result", "none")
    errors = sum(problem["severity"] == "error" for problem in last.get("problems", ()))
    return f"refused, {result}: {count(errors, 'problem')}" if errors else result


def _notes(told: Mapping[str, Any]) -> list[str]:
    """What is not as usual, a line each."""
    lines = []
    if told.get("not_ready"):
        lines.append(f"not ready: {told['not_ready']}")
    if told.get("source") == "last_good":
        lines.append("source: the last good configuration, as it was kept on disk")
    if (good := told.get("last_good")) and good["error"]:
        lines.append(f"last good: not kept: {good['error']}")
    drains = told.get("drains") or {"not_configured": (), "error": ""}
    if drains["error"]:
        lines.append(f"drains: they do not outlast the daemon: {drains['error']}")
    lines.extend(f"endpoint {name}: drained by hand, and not configured now" for name in drains["not_configured"])
    if trial := told.get("probation"):
        lines.append(
            f"probation: generation {trial['generation']} for another {trial['left_s']:.0f} s, {trial['failed']} of "
            f"{trial['ended']} requests failed"
        )
    if (pace := told.get("throttle")) and pace["storm"]:
        lines.append(f"throttle: changes come fast, builds are {pace['interval_s']:g} s apart")
    return lines


def ask(admin: Address, method: str, path: str) -> tuple[int, Any]:
    """Return status and decoded answer; (exit status, None), and a complaint on stderr, when nobody sensible answers."""
    try:
        return ask_quietly(admin, method, path, LOOK_TIMEOUT_S if method == "GET" else RELOAD_TIMEOUT_S)
    except Unanswered as exc:
        return complain(str(exc), CANNOT_REACH), None


class Unanswered(Exception):
    """Nobody answers at the admin address, or somebody else; the message says so."""


def ask_quietly(admin: Address, method: str, path: str, timeout_s: float) -> tuple[int, dict[str, Any]]:
    """Return status and decoded answer; raise Unanswered.

    Others have a `POST /-/reload`, too, Prometheus for one: an order is given only to what has said that it is routerd.
    """
    connection = http.client.HTTPConnection(admin.host, admin.port, timeout=timeout_s)
    try:
        for step in (("GET", "/-/live"), (method, path)) if method != "GET" else ((method, path),):
            connection.request(*step)
            response = connection.getresponse()
            text = response.read()
            if response.headers[VERSION_HEADER] is None:
                raise Unanswered(NOT_ADMIN.format(admin))
        answer = json.loads(text)
    except TimeoutError:
        raise Unanswered(f"{admin} did not answer within {timeout_s:g} s") from None
    except OSError as exc:
        hint = "is the daemon running, and is this its --admin address?"
        raise Unanswered(f"cannot reach {admin}: {exc.strerror or exc}; {hint}") from None
    except (http.client.HTTPException, ValueError):
        raise Unanswered(NOT_ADMIN.format(admin)) from None
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise Unanswered(NOT_ADMIN.format(admin))
    return response.status, answer


def _await_workers(admin: Address, digest: str) -> str:
    """Return when every worker serves `digest`, or why that is not so."""
    until_s = time.monotonic() + RELOAD_TIMEOUT_S
    while time.monotonic() < until_s:
        code, told = ask(admin, "GET", "/-/status")
        if told is None or code != 200:
            return "the daemon went away"
        if told["digest"] != digest:
            return f"another reload came after this one: digest {told['digest'][:16]} serves"
        if all(worker["digest"] == digest for worker in told["workers"]):
            return ""
        time.sleep(0.05)
    return f"not every worker serves it after {RELOAD_TIMEOUT_S:g} s"
