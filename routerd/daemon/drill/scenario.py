"""A scenario file: read, checked as a whole, every mistake told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from routerd.config.compile.units import duration_s

__all__ = ["EXPECTATIONS", "Fault", "Load", "Phase", "Scenario", "ScenarioError", "parse"]

EXPECTATIONS = ("min_ok", "max_errors", "min_failed_over", "max_failed_over", "max_p50", "max_p99", "answered_by")
KINDS = ("refuse", "reset", "hang", "cut")
MOST_REQUESTS = 100_000


class ScenarioError(Exception):
    """Everything that is wrong with a scenario."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What an endpoint does instead of answering. `kind`: refuse, reset, hang, cut, status or empty: only late."""

    kind: str = ""
    status: int = 0
    retry_after_s: float = 0.0
    late_s: float = 0.0
    ratio: float = 1.0  # of its requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who asks for what, how often a second."""

    model: str
    per_s: float
    client: str = ""
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of time. `expect`: expectation -> what was written; parts of all requests end in %."""

    name: str
    for_s: float
    load: tuple[Load, ...]
    faults: Mapping[str, Fault] = field(default_factory=dict)  # endpoint, or provider for all of its own
    expect: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All of it. `routes` is empty when the command line names the configuration."""

    routes: str
    speed: float
    phases: tuple[Phase, ...]


def parse(text: str) -> Scenario:
    """Return the scenario; raise ScenarioError with one line for each mistake."""
    try:
        told = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ScenarioError(f"it is no YAML: {exc}") from exc
    reader = _Reader()
    found = reader.scenario(told)
    if reader.wrong:
        raise ScenarioError("\n".join(reader.wrong))
    return found


class _Reader:
    def __init__(self) -> None:
        self.wrong: list[str] = []

    def scenario(self, told: Any) -> Scenario:
        top = self._keys("scenario", told, ("routes", "speed", "load", "phases"))
        common = self._loads("load", top.get("load", []))
        speed = self._number("speed", top.get("speed", 1), least=0.1, most=1000)
        listed = top.get("phases")
        if not isinstance(listed, list) or not listed:
            self.wrong.append("phases: a list of at least one phase is needed")
            listed = []
        phases = tuple(self._phase(f"phases[{i}]", one, common) for i, one in enumerate(listed))
        if sum(load.per_s * phase.for_s for phase in phases for load in phase.load) > MOST_REQUESTS:
            self.wrong.append(f"phases: more than {MOST_REQUESTS} requests")
        return Scenario(routes=str(top.get("routes", "")), speed=speed, phases=phases)

    def _phase(self, path: str, told: Any, common: tuple[Load, ...]) -> Phase:
        one = self._keys(path, told, ("name", "for", "load", "faults", "expect"))
        load = self._loads(f"{path}.load", one["load"]) if "load" in one else common
        if not load:
            self.wrong.append(f"{path}.load: nobody asks; for example `load: {{model: chat, per_s: 10}}`")
        faults = one.get("faults") or {}
        if not isinstance(faults, dict):
            self.wrong.append(f"{path}.faults: endpoint or provider to fault, for example `gpu-a: refuse`")
            faults = {}
        return Phase(
            name=str(one.get("name", path)),
            for_s=self._length(f"{path}.for", one.get("for")),
            load=load,
            faults={str(name): self._fault(f"{path}.faults.{name}", fault) for name, fault in faults.items()},
            expect=self._expect(f"{path}.expect", one.get("expect") or {}),
        )

    def _loads(self, path: str, told: Any) -> tuple[Load, ...]:
        found = []
        for i, one in enumerate(told if isinstance(told, list) else [told]):
            keys = self._keys(f"{path}[{i}]", one, ("model", "per_s", "client", "stream"))
            if not keys.get("model"):
                self.wrong.append(f"{path}[{i}]: missing key 'model'")
            per_s = self._number(f"{path}[{i}].per_s", keys.get("per_s", 10), least=0.01, most=5000)
            stream = keys.get("stream") is True
            found.append(Load(model=str(keys.get("model", "")), per_s=per_s, client=str(keys.get("client", "")), stream=stream))
        return tuple(found)

    def _fault(self, path: str, told: Any) -> Fault:
        if isinstance(told, str) and told in KINDS:
            return Fault(kind=told)
        if isinstance(told, int) and not isinstance(told, bool) and 400 <= told <= 599:
            return Fault(kind="status", status=told)
        if not isinstance(told, dict):
            self.wrong.append(f"{path}: one of {', '.join(KINDS)}, a status from 400 to 599, or a mapping")
            return Fault()
        keys = self._keys(path, told, ("kind", "status", "retry_after", "late", "ratio"))
        kind = str(keys.get("kind", "status" if "status" in keys else ""))
        if kind not in ("", "status", *KINDS):
            self.wrong.append(f"{path}.kind: one of {', '.join(KINDS)}")
        status = self._number(f"{path}.status", keys["status"], least=400, most=599) if "status" in keys else 0
        retry_after_s = self._length(f"{path}.retry_after", keys["retry_after"]) if "retry_after" in keys else 0.0
        late_s = self._length(f"{path}.late", keys["late"]) if "late" in keys else 0.0
        ratio = self._number(f"{path}.ratio", keys.get("ratio", 1), least=0, most=1)
        return Fault(kind=kind, status=int(status), retry_after_s=retry_after_s, late_s=late_s, ratio=ratio)

    def _expect(self, path: str, told: Any) -> Mapping[str, Any]:
        found = self._keys(path, told, EXPECTATIONS)
        for key, value in found.items():
            if key in ("max_p50", "max_p99"):
                self._length(f"{path}.{key}", value)
            elif key == "answered_by":
                if not isinstance(value, list):
                    self.wrong.append(f"{path}.{key}: a list of endpoints")
            elif part(value) is None:
                self.wrong.append(f"{path}.{key}: {value!r} is neither a count nor a part such as 99%")
        return found

    def _keys(self, path: str, told: Any, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(told, dict):
            self.wrong.append(f"{path}: it is no mapping")
            return {}
        self.wrong += [f"{path}: unknown key {key!r}; there are: {', '.join(known)}" for key in told if key not in known]
        return {str(key): value for key, value in told.items() if key in known}

    def _length(self, path: str, told: Any) -> float:
        found = duration_s(str(told))
        if found is None:
            self.wrong.append(f"{path}: {told!r} is no duration such as 300ms or 10s")
        return found or 0.0

    def _number(self, path: str, told: Any, *, least: float, most: float) -> float:
        if isinstance(told, bool) or not isinstance(told, int | float) or not least <= told <= most:
            self.wrong.append(f"{path}: {told!r} is no number from {least:g} to {most:g}")
            return least
        return float(told)


def part(told: Any) -> tuple[float, bool] | None:
    """Return (number, whether it is a part of all), or None if `told` is neither."""
    text = str(told)
    try:
        return (float(text.removesuffix("%")) / 100, True) if text.endswith("%") else (float(text), False)
    except ValueError:
        return None
