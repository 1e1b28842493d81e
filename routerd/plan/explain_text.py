"""An Explanation as text for a terminal: the route, its rules, then every target in the order of trying, each with its why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from routerd.graph import Clamp
from routerd.plan.explain import Explanation, Setting, TargetLine

_VIA = {
    "exact": "by its name",
    "alias": "by an alias",
    "direct": "as provider/model of a direct provider",
    "pattern": "by its pattern",
}


def render_explanation(found: Explanation) -> str:
    """Return the explanation as lines; each value with the place where it was written."""
    lines = [f"model    {found.asked}", _placed(f"route    {found.route.name} ({_VIA[found.via]})", found.origin)]
    if found.captured:
        lines.append("         " + ", ".join(f"{{{i}}} = {part}" for i, part in enumerate(found.captured, start=1)))
    if found.route.description:
        lines.append(f"about    {found.route.description}")
    if found.client is not None:
        lines.append(f"client   {found.client}")
    if found.budgets:
        lines.append(f"budgets  {', '.join(found.budgets)}")
    if found.system_prompt is not None:
        lines.append(f"system   {found.system_prompt.mode}, {len(found.system_prompt.text)} characters")
    lines += [f"params   {line}" if i == 0 else f"         {line}" for i, line in enumerate(_rules(found.params))]
    lines += _policy(found)
    used = [line for line in found.targets if line.position]
    left_out = [line for line in found.targets if not line.position]
    lines += ["", "plan     tried in this order" if used else "plan     empty: no target can be used"]
    for line in used:
        lines += _target(line, f"  {line.position}.")
    if left_out:
        lines += ["", "skipped"]
    for line in left_out:
        lines.append(_placed(f"  -  {line.label}: {'; '.join(line.why)}", line.origin))
    return "\n".join(lines) + "\n"


def _policy(found: Explanation) -> list[str]:
    failover, retry = found.route.failover, found.route.retry
    deadline = f"within {failover.deadline_s:g} s" if failover.deadline_s is not None else "no deadline"
    return [
        f"failover at most {failover.max_attempts} attempts, {deadline}; on {', '.join(sorted(failover.on)) or 'nothing'}",
        f"retry    {retry.attempts} {'try' if retry.attempts == 1 else 'tries'} at each target",
    ]


def _target(line: TargetLine, mark: str) -> list[str]:
    indent = " " * (len(mark) + 1)
    at = f" at {line.endpoint}" if line.endpoint else ""
    rank = f", {line.rank}" if line.rank not in ("", "free") else ""
    lines = [_placed(f"{mark} {line.label}{at} (step {line.step} of the chain{rank})", line.origin)]
    lines += [f"{indent}{why}" for why in line.why]
    lines += [f"{indent}params {rule}" for rule in _rules(line.params)]
    lines += [_placed(f"{indent}sends {one.name} = {_shown(one.value)}", one.origin) for one in line.sends]
    times = (f"{one.name} {_length(one.value)} ({one.origin})" for one in line.timeouts)
    return [*lines, f"{indent}timeouts " + ", ".join(times)]


def _rules(settings: Iterable[Setting]) -> list[str]:
    shown = []
    for one in settings:
        kind, _, name = one.name.partition(".")
        text = f"drop {name}" if kind == "drop" else f"{kind} {name} = {_shown(one.value)}"
        shown.append(_placed(text, one.origin))
    return shown


def _placed(text: str, origin: str) -> str:
    return f"{text}  [{origin}]" if origin else text


def _length(value: object) -> str:
    return "none" if value is None else f"{value:g}s" if isinstance(value, int | float) else str(value)


def _shown(value: object) -> str:
    if isinstance(value, Clamp):
        low = "" if value.min is None else f"{value.min:g}"
        return f"{low}..{'' if value.max is None else f'{value.max:g}'}"
    plain = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(plain, ensure_ascii=False, default=str)
