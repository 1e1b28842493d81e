"""Somebody else's YAML with the line of every key, and what of it could not be carried over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from routerd.errors import ConfigError, Problem

__all__ = ["Left", "Section", "env_name", "read"]


@dataclass(slots=True)
class Left:
    """What could not be carried over: (line, what, why)."""

    file: str
    lines: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, line: int, what: str, why: str) -> None:
        """Remember one thing."""
        self.lines.append((line, what, why))

    def texts(self) -> list[str]:
        """Return it as `file:line: what: why`, by line."""
        return [f"{self.file}:{line}: {what}: {why}" for line, what, why in sorted(self.lines)]


class Section:
    """A mapping whose keys are taken one by one."""

    def __init__(self, path: str, line: int, values: Mapping[str, Any], lines: Mapping[str, int]) -> None:
        self.path = path
        self.line = line
        self._values = dict(values)
        self._lines = lines

    def line_of(self, key: str) -> int:
        """Return where a key stands."""
        return self._lines.get(key, self.line)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, and count it as dealt with. A key without a value is as good as none."""
        found = self._values.pop(key, None)
        return default if found is None else found

    def text(self, key: str, default: str = "") -> str:
        """Take a text."""
        return str(self.take(key, default))

    def list(self, key: str) -> list[Any]:
        """Take a list; an empty one if it is none."""
        found = self.take(key)
        return found if isinstance(found, list) else []

    def number(self, key: str) -> float:
        """Take a number; 0 if it is none."""
        try:
            found = float(self.take(key, 0))
        except (TypeError, ValueError):
            return 0.0
        return found if 0 <= found < 1e12 else 0.0

    def section(self, key: str) -> Section:
        """Take a section; an empty one if there is none."""
        found = self._values.pop(key, None)
        return found if isinstance(found, Section) else Section(self._join(key), self.line_of(key), {}, {})

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Take every section in it."""
        for key in [key for key, value in self._values.items() if isinstance(value, Section)]:
            yield key, self._values.pop(key)

    def items(self) -> Sequence[tuple[str, Any]]:
        """Take everything."""
        found = list(self._values.items())
        self._values.clear()
        return found

    def plain(self) -> dict[str, Any]:
        """Take everything as plain values."""
        return {key: value.plain() if isinstance(value, Section) else value for key, value in self.items()}

    def report(self, left: Left, reasons: Mapping[str, str], other: str = "routerd has no such setting") -> None:
        """Say of what was not taken why not."""
        for key in self._values:
            left.add(self.line_of(key), self._join(key), reasons.get(key, other))
        self._values.clear()

    def _join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def read(file: str, text: str) -> Section:
    """Parse a file; ConfigError when it is no YAML or no mapping."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            found = _plain(loader, node, "", frozenset()) if node is not None else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        raise _wrong(file, mark.line + 1 if mark else 1, f"it is no YAML: {getattr(exc, 'problem', exc)}") from exc
    if not isinstance(found, Section):
        raise _wrong(file, 1, "it is no mapping")
    return found


def _wrong(file: str, line: int, message: str) -> ConfigError:
    return ConfigError((Problem(stage="yaml", code="bad-import", path="", message=message, file=file, line=line, column=1),))


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: str, above: frozenset[int]) -> Any:
    if id(node) in above:
        raise yaml.YAMLError("an anchor holds itself")
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        values, lines = {}, {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            values[key] = _plain(loader, value_node, f"{path}.{key}" if path else key, above)
            lines[key] = key_node.start_mark.line + 1
        return Section(path, node.start_mark.line + 1, values, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, one, f"{path}[{i}]", above) for i, one in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def env_name(value: str) -> str:
    """Return the variable that `os.environ/NAME` or `${env.NAME}` means, or an empty string."""
    if value.startswith("os.environ/"):
        return value.removeprefix("os.environ/")
    return value[6:-1] if value.startswith("${env.") and value.endswith("}") else ""
