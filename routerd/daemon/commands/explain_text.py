"""The document of `explain` as one screen: a column of names, aligned values, and where each was written, dimmed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from routerd.daemon.output.terminal import Paint

Told = Mapping[str, Any]
_VIA = {
    "exact": "by its name",
    "alias": "by an alias",
    "direct": "as provider/model of a direct provider",
    "pattern": "by its pattern",
}
_UNITS = {"concurrency": "requests at a time"}


def render(told: Told, paint: Paint) -> str:
    """Return the screen."""
    page = _Page(paint)
    _head(page, told)
    _rules(page, told)
    targets, overflow = told["targets"], told["overflow"]
    tried = any(one["position"] for one in targets)
    page.line("health", told["health"])
    _targets(page, "plan     tried in this order" if tried else "plan     empty: no target can be used", targets)
    if overflow:
        _targets(page, "overflow tried instead when the prompt is too long", overflow)
    _sent(page, [one for one in (*targets, *overflow) if one["position"]])
    return "\n".join(page.lines) + "\n"


class _Page:
    """Lines under construction: a label of nine columns, then what is said."""

    def __init__(self, paint: Paint) -> None:
        self.lines: list[str] = []
        self.paint = paint
        self._label = ""

    def line(self, label: str, text: str, origin: str = "") -> None:
        """Add a line; the same label again is not repeated."""
        shown = "" if label == self._label else label
        self._label = label
        self.lines.append(f"{self.paint('strong', shown)}{' ' * (9 - len(shown))}{text}{self.place(origin)}")

    def place(self, origin: str) -> str:
        """Return where something was written, as the end of a line."""
        return f"  {self.paint('place', f'[{origin}]')}" if origin else ""

    def rows(self, label: str, rows: Sequence[tuple[str, str, str]]) -> None:
        """Add lines of a name, a text and an origin, the texts in one column."""
        width = max((len(name) for name, _, _ in rows), default=0)
        for name, text, origin in rows:
            self.line(label, f"{name:<{width}} {text}", origin)


def _head(page: _Page, told: Told) -> None:
    paint, route = page.paint, told["route"]
    page.line("model", told["model"], route["alias_origin"])
    refused = f"{told['status']} {told['code']}: {told['message']}"
    page.line("answer", paint("good", "200") if told["status"] == 200 else paint("bad", refused))
    page.line("route", f"{route['name']} ({_VIA[route['via']]})", route["origin"])
    if route["captured"]:
        page.line("route", ", ".join(f"{{{i}}} = {part}" for i, part in enumerate(route["captured"], start=1)))
    if route["description"]:
        page.line("about", route["description"])
    if client := told["client"]:
        may = paint("good", "may use it") if client["may_use"] else paint("bad", "may not use it")
        models = f" ({', '.join(client['models'])})" if client["models"] else " (every model)"
        page.line("client", f"{client['name']} {may}{models}", client["origin"])
    elif told["key_needed"]:
        page.line("client", "none named: without a key it is a 401; --client asks for one of the file")
    if prompt := told["system_prompt"]:
        page.line("prompt", f"{prompt['mode']}, {prompt['characters']} characters", prompt["origin"])


def _rules(page: _Page, told: Told) -> None:
    page.rows("params", [_rule(one) for one in told["params"]])
    page.rows("budgets", [_budget(page, one) for one in told["budgets"]])
    by_name = {one["name"]: one for one in told["failover"]}
    most, deadline = by_name["max_attempts"], by_name["deadline"]
    limit = f" within {_length(deadline['value'])}" if deadline["value"] is not None else ", no deadline"
    rest = f"on {', '.join(by_name['on']['value']) or 'nothing'}"
    origins = _origins(told["failover"])
    page.line("failover", f"at most {most['value']} attempts{limit}", origins)
    page.line("failover", rest)
    retry = {one["name"]: one["value"] for one in told["retry"]}
    tries = retry["attempts"]
    wait = f", waiting {_length(retry['backoff.first'])} to {_length(retry['backoff.max'])}" if tries > 1 else ""
    text = "once at each target" if tries == 1 else f"up to {tries} times at each target{wait}"
    page.line("tries", text, _origins(told["retry"]))


def _rule(one: Told) -> tuple[str, str, str]:
    kind, _, name = one["name"].partition(".")
    value = one["value"]
    if kind == "drop":
        return name, "dropped", one["origin"]
    if kind == "clamp":
        low, high = ("" if bound is None else f"{bound:g}" for bound in (value["min"], value["max"]))
        return name, f"clamped to {low}..{high}", one["origin"]
    return name, f"{_json(value)} {'always' if kind == 'force' else 'by default'}", one["origin"]


def _a(calendar: str) -> str:
    return "all" if calendar == "ever" else f"a {calendar}"


def _budget(page: _Page, one: Told) -> tuple[str, str, str]:
    window = f" in {_a(one['calendar'])}" if one["calendar"] else f" in {_length(one['window_s'])}" if one["window_s"] else ""
    whom = f"for {one['scope']} {one['subject'] or 'anybody'}" if one["scope"] != "global" else "for all"
    used = f", {one['used_ratio']:.0%} used" if one["used_ratio"] else ""
    used += ", only counted" if one["shadow"] else ""
    if one["refuses"] and one["kind"] in ("tokens", "usd"):  # a part may be left, and be too little
        left = max(0, round(one["limit"] * (1 - one["used_ratio"]), 9))
        used += f", {left:,g} left and a request of {one['reserves']:,g} at most"
    verdict = page.paint("bad", "refuses") if one["refuses"] else page.paint("good", "passes")
    text = f"{one['limit']:,} {_UNITS.get(one['kind'], one['kind'])}{window} {whom}, of {one['of']}{used}: {verdict}"
    return one["name"], text, one["origin"]


def _targets(page: _Page, title: str, targets: Sequence[Told]) -> None:
    paint = page.paint
    page.lines += ["", paint("strong", title[:8].rstrip()) + title[len(title[:8].rstrip()) :]]
    names = [f"{one['target']} at {one['endpoint']}" if one["endpoint"] else one["target"] for one in targets]
    width = min(60, max(map(len, names), default=0))
    for one, name in zip(targets, names, strict=True):
        number = f"{one['position']}." if one["position"] else "-"
        role = "good" if one["position"] and not any("goes last" in why for why in one["why"]) else "warning"
        text = f"  {number:>3} {paint(role, f'{name:<{width}}')}  step {one['step']}"
        page.lines.append(text + page.place(one["origin"]))
        page.lines += [f"      {why}" for why in one["why"]]


def _sent(page: _Page, used: Sequence[Told]) -> None:
    """Tell parameters and timeouts once where they are the same for all targets, else for each."""
    page.lines.append("")
    for label, key, show in (("sends", "sends", _json), ("timeouts", "timeouts", _length)):
        groups: dict[str, list[Told]] = {}
        for one in used:
            groups.setdefault(json.dumps(one[key]), []).append(one)
        for group in groups.values():
            if group[0][key]:
                whom = "" if len(groups) == 1 else ", ".join(dict.fromkeys(one["target"] for one in group))
                if whom:
                    page.line(label, f"{whom}:")
                page.rows(label, [(one["name"], show(one["value"]), one["origin"]) for one in group[0][key]])


def _origins(settings: Iterable[Told]) -> str:
    """Return the places of a block's settings, each once; what is built in is worth telling only alone."""
    places = list(dict.fromkeys(one["origin"] for one in settings))
    written = [place for place in places if place != "built in"]
    return ", ".join(written) or "built in"


def _length(value: object) -> str:
    from routerd.config import duration_text

    return duration_text(value) if isinstance(value, int | float) else "none"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
