"""Records to their single values, so that a difference is found in any field, one that is added tomorrow, too.

A value is told with its unit; a credential, a key's digest and what headers or body fields hold are compared, but never shown.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routerd.config.compile.digest import encoder
from routerd.config.compile.units import duration_text
from routerd.graph import Pattern, Secret

SHOWN_CHARS = 80
_PRIVATE = re.compile(r"(?i)(.*[_-])?(api_?key|key|key_sha256|secret|token|password|authorization|cookie)")
_HIDDEN_BELOW = frozenset({"headers", "body", "system_prompt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference. `state`: what becomes of what was learnt, counted or cached; empty: it is not touched."""

    path: str  # models.m.chain, as in the file
    kind: str  # added | removed | changed
    text: str
    state: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.state}" if self.state else self.text

    def as_json(self) -> dict[str, str]:
        """Return it as plain values."""
        return {"path": self.path, "kind": self.kind, "text": self.text, "state": self.state}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value; `hidden`: not to be shown."""

    value: Any
    hidden: bool
    unit: str = ""

    def __str__(self) -> str:
        return _shown(self.value, self.unit)


def differences(old: Any, new: Any, skip: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield path and words for every value that differs: `retry.attempts`, `1 -> 2`. `skip`: fields told elsewhere."""
    encode = encoder()
    if encode(old) == encode(new):  # of 2,000 models nearly all are the same: a quarter of the time
        return
    before, after = dict(_leaves(old, "", skip, False)), dict(_leaves(new, "", skip, False))
    for path in {**before, **after}:
        one, two = before.get(path), after.get(path)
        if one is not None and two is not None and _same(one.value, two.value):
            continue
        if any(leaf is not None and leaf.hidden for leaf in (one, two)):
            yield path, "added" if one is None else "removed" if two is None else "changed"
        else:
            yield path, f"{one or _NOT_SET} -> {two or _NOT_SET}"


_NOT_SET = "not set"


def _leaves(value: Any, path: str, skip: Collection[str], hidden: bool) -> Iterator[tuple[str, Leaf]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, Pattern | type):
        for field, name, unit, private in _fields(type(value)):
            if path or field not in skip:
                yield from _entry(getattr(value, field), _joined(path, name), hidden or private, unit)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _entry(one, _joined(path, str(key)), hidden or bool(_PRIVATE.fullmatch(str(key))), "")


@functools.cache
def _fields(kind: type[Any]) -> tuple[tuple[str, str, str, bool], ...]:
    """Return name, shown name, unit and privacy of each field: the same for every value of a class, and asked for thousands."""
    names = [one.name for one in dataclasses.fields(kind)]
    return tuple((name, *_unit(name), name in _HIDDEN_BELOW or bool(_PRIVATE.fullmatch(name))) for name in names)


def _entry(value: Any, path: str, hidden: bool, unit: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, Pattern)):
        yield from _leaves(value, path, (), hidden)
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]) and not isinstance(value[0], Pattern):
        for i, one in enumerate(value):
            yield from _leaves(one, f"{path}[{getattr(one, 'name', i)}]", (), hidden)
    elif value is not None:
        yield path, Leaf(value, hidden or isinstance(value, Secret | bytes), unit)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unit(name: str) -> tuple[str, str]:
    """Return the name of a field as the file has it, and the unit of its value."""
    if name.endswith("_nano_usd"):
        return f"{name.removesuffix('_nano_usd')}_usd_per_mtok", "nano-dollars"
    for end, unit in (("_s", "s"), ("_bytes", "B"), ("_ratio", "")):
        if name.endswith(end):
            return name.removesuffix(end), unit
    return name, ""


def _same(one: Any, two: Any) -> bool:
    """Compare as the digest does: 1 and 1.0 are different JSON."""
    return type(one) is type(two) and bool(one == two)


def _shown(value: Any, unit: str = "") -> str:
    """Return a value as an operator reads it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, int | float):
        if unit == "nano-dollars":
            return number(value / 1e9)
        return duration_text(value) if unit == "s" else number(value) + unit
    if isinstance(value, Pattern):
        return value.text
    if isinstance(value, frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(_shown(one) for one in value) + "]"
    else:
        text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


def number(value: float) -> str:
    """Write a number with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def listed(names: Iterable[str], most: int = 4, last: str = "and") -> str:
    """Return `a, b and c`, or `a, b, c, d and 96 more`."""
    found = list(dict.fromkeys(names))
    if len(found) > most + 1:
        return f"{', '.join(found[:most])} {last} {len(found) - most} more"
    return f" {last} ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))


def attached(path: str, who: str, old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    """Yield the budgets that `who` counts against from now on, and those it does not any more."""
    for budget in dict.fromkeys((*old, *new)):
        if budget not in old:
            yield Change(path=f"{path}.budgets", kind="added", text=f"{who} counts against budget {budget}")
        elif budget not in new:
            yield Change(path=f"{path}.budgets", kind="removed", text=f"{who} does not count against budget {budget} any more")


def by_name(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old and new record: what is there or was in the order of the old file, then what is added."""
    for name in {**old, **new}:
        yield name, old.get(name), new.get(name)
