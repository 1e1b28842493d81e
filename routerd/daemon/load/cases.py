"""The `tests:` of a configuration, run: each expectation that fails is a Problem at its own line.

Every key of `expect` is compared by itself, in the order of the file. A group of the chain is balanced by chance, so a plan is
compared step by step: members of a group in file order, or in any order where the expectation is a list of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routerd.config import Case, Loaded
from routerd.daemon.load.forecast import Forecast, Question, Stage
from routerd.errors import Problem

__all__ = ["Result", "run_tests"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one test ended: without a problem it passed."""

    name: str
    problems: tuple[Problem, ...]


def run_tests(loaded: Loaded) -> tuple[Result, ...]:
    """Run every test of a configuration, in the order of the file."""
    if not loaded.tests:
        return ()
    stage = Stage(loaded.graph, complete=True)
    return tuple(_run(loaded, stage, case) for case in loaded.tests)


def _run(loaded: Loaded, stage: Stage, case: Case) -> Result:
    question = Question(
        model=case.model, client=case.client, down=case.down, used=case.used, params=case.params, system_prompt=case.system_prompt
    )
    found = stage.foretell(question)
    return Result(name=case.name, problems=tuple(_problems(loaded, case, found)))


def _problems(loaded: Loaded, case: Case, found: Forecast) -> list[Problem]:
    def failed(path: tuple[str, ...], message: str) -> Problem:
        hint = f"the plan is {_flow(_plan(found))}" if found.plan and path != ("plan",) else ""
        return loaded.problem("tests", "test-failed", case.path("expect", *path), f"{case.name}: {message}", hint=hint)

    if found.status != 200 and not {"status", "code"} & set(case.expect):
        wanted = ", ".join(case.expect)
        return [failed((), f"expected an answer ({wanted}), got {found.status} {found.code}: {found.message}")]
    out: list[Problem] = []
    for key, wanted in case.expect.items():
        if key == "params":
            out += [failed(("params", name), text) for name, text in _params(wanted, found.body)]
        elif not (check := _CHECKS[key](wanted, found)).fine:
            out.append(failed((key,), f"expected {key} {check.wanted}, got {check.got}"))
    return out


@dataclass(frozen=True, slots=True)
class _Check:
    fine: bool
    wanted: str
    got: str


def _target(wanted: str, found: Forecast) -> _Check:
    return _Check(wanted in found.heads, wanted, " or ".join(found.heads) or "none")


def _plan_check(wanted: Sequence[str | Sequence[str]], found: Forecast) -> _Check:
    return _Check(_same_plan(wanted, found.steps()), _flow(wanted), _flow(_plan(found)))


def _same_plan(wanted: Sequence[str | Sequence[str]], steps: Sequence[Sequence[str]]) -> bool:
    """Match label by label; a list stands for all members of one step that are there."""
    at = 0
    left = [list(step) for step in steps]
    for one in wanted:
        while at < len(left) and not left[at]:
            at += 1
        if at == len(left):
            return False
        if isinstance(one, str):
            if left[at].pop(0) != one:
                return False
        elif sorted(one) == sorted(left[at]):
            left[at] = []
        else:
            return False
    return not any(left)


def _plan(found: Forecast) -> list[str | list[str]]:
    """Return the plan as it would be written in `expect`."""
    return [step[0] if len(step) == 1 else list(step) for step in found.steps()]


def _system_prompt(wanted: str, found: Forecast) -> _Check:
    sent = system_prompt_of(found.body)
    fine = wanted in sent if wanted else not sent
    return _Check(fine, f"with {_flow(wanted)}" if wanted else "to be none", _short(sent) if sent else "none")


def system_prompt_of(body: Mapping[str, Any]) -> str:
    """Return the system (or developer) messages of a body as one text."""
    texts: list[str] = []
    for message in body.get("messages", ()):
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts += [str(part.get("text") or "") for part in parts if isinstance(part, dict)]
    return "\n\n".join(text for text in texts if text)


def _params(wanted: Mapping[str, Any], body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and complaint for each parameter that is sent otherwise."""
    out = []
    for name, value in wanted.items():
        got = body.get(name)
        if not _equal(value, got):
            out.append((name, f"expected {name} {'not to be sent' if value is None else _flow(value)}, got {_got(got)}"))
    return out


def _equal(one: Any, two: Any) -> bool:
    """Compare as JSON does: 1 is 1.0, but true is not 1."""
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_equal, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_equal(value, two[key]) for key, value in one.items())
    return bool(one == two)


def _got(value: Any) -> str:
    return "nothing" if value is None else _flow(value)


def _route(wanted: str, found: Forecast) -> _Check:
    name = found.resolved.route.name if found.resolved else "none"
    return _Check(name == wanted, wanted, name)


def _status(wanted: int, found: Forecast) -> _Check:
    return _Check(found.status == wanted, str(wanted), _answer(found))


def _code(wanted: str, found: Forecast) -> _Check:
    return _Check(found.code == wanted, wanted, _answer(found))


def _answer(found: Forecast) -> str:
    return "200" if found.status == 200 else f"{found.status} {found.code}: {found.message}"


_CHECKS: Mapping[str, Callable[[Any, Forecast], _Check]] = {
    "target": _target,
    "plan": _plan_check,
    "system_prompt": _system_prompt,
    "route": _route,
    "status": _status,
    "code": _code,
}


def _flow(value: Any) -> str:
    """Write a value as YAML's flow style has it, where a label needs no quotes."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str) and value and not set(value) & set("[]{},\"'#&*!|>%@` \n"):
        return value
    return _short(value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
