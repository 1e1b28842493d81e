"""`preset: NAME` of a provider: the file of that name is the base, and any key of the provider overrides it.

The rule: `headers`, `body`, `offers` and `quirks` are joined key by key (header names whatever their case); every other key
replaces the preset's whole. `endpoints` take the place of a preset's `base_url`. What comes from a preset has its place there
(`preset openai:4:11`) for whoever asks where a value comes from; a complaint about it is shown at the provider.
The files are data beside this package: the same keys as a provider in routes.yaml, each fact with its source. One key is theirs
alone: `defaults`, what `health`, `load` and `discover` start from where a provider has them. So `health: true` is enough there.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterable, Mapping
from typing import Any

from routerd.config.report import Report
from routerd.config.source.parse import Limits, parse
from routerd.config.tree import Mark, Tree

__all__ = ["fill_in", "preset_names", "preset_text"]

JOINED = ("headers", "body", "offers", "quirks")
STARTED = ("health", "load", "discover")
_ONE_OF = frozenset({"path", "probe", "model"})  # of `health`: who says one of them says what is asked
PREFIX = "preset "  # of the name that a preset's values have as their file


def _folder() -> Any:
    return importlib.resources.files("routerd").joinpath("presets")


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(sorted(one.name.removesuffix(".yaml") for one in _folder().iterdir() if one.name.endswith(".yaml")))


def preset_text(name: str) -> bytes:
    """Return the file of a preset."""
    data: bytes = _folder().joinpath(f"{name}.yaml").read_bytes()
    return data


def fill_in(report: Report) -> None:
    """Complete every provider that has a known preset, in place. Anything else that stands there is for others to refuse."""
    providers = report.tree.root.get("providers")
    bases: dict[str, Any] = {}
    for body in providers.values() if isinstance(providers, dict) else ():
        name = body.get("preset") if isinstance(body, dict) else None
        if not isinstance(name, str) or name not in preset_names() or body.get("dialect") == "simulator":
            continue
        if name not in bases:
            file = PREFIX + name
            report.tree.presets.add(file)
            bases[name] = parse(file, preset_text(name), report, Limits())
        _complete(report.tree, body, bases[name])


def _complete(tree: Tree, body: dict[str, Any], base: Mapping[str, Any]) -> None:
    for key in base:
        if key == "defaults":
            _start(tree, body, base[key])
        elif key not in body:
            if not (key == "base_url" and "endpoints" in body):
                _take(tree, body, base, key)
        elif key in JOINED and isinstance(body[key], dict) and body[key] is not base[key]:
            plain = str.lower if key == "headers" else str
            there = {plain(name) for name in body[key]}
            body[key] = _joined(tree, body[key], base[key], [name for name in base[key] if plain(name) not in there])


def _start(tree: Tree, body: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Let the blocks that a provider has begin with what the preset knows."""
    for key in STARTED:
        if key not in defaults:
            continue
        own = {} if body.get(key) is True else body.get(key)
        if isinstance(own, dict):
            if not own:
                tree.marks[id(own)] = (own, {})
            said = own.keys() | _ONE_OF if key == "health" and _ONE_OF & own.keys() else own.keys()
            body[key] = _joined(tree, own, defaults[key], [name for name in defaults[key] if name not in said])


def _joined(tree: Tree, own: dict[str, Any], base: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `own` with these entries of `base`. Not in place: an anchor may stand in another provider too."""
    joined = dict(own)
    tree.marks[id(joined)] = (joined, dict(_marks(tree, own)))
    for places in (tree.raw, tree.plain, tree.unresolved):
        _copy(places, own, joined)
    for name in names:
        _take(tree, joined, base, name)
    return joined


def _take(tree: Tree, into: dict[str, Any], base: Mapping[str, Any], key: str) -> None:
    into[key] = base[key]
    _marks(tree, into)[key] = _marks(tree, base)[key]


def _marks(tree: Tree, container: Any) -> dict[Any, Mark]:
    return tree.marks[id(container)][1]


def _copy(places: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Let what is remembered of the entries of `old` hold for those of `new`."""
    for key in old:
        if (id(old), key) in places:
            if isinstance(places, set):
                places.add((id(new), key))
            else:
                places[id(new), key] = places[id(old), key]
