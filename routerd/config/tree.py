"""The parsed document: plain dicts, lists and scalars, and beside them where each value stands in which file.

Positions are kept by container and key, not in the values: validators and compilers see ordinary Python data. An anchor that is
used five times is one container with one position, its own. Lines and columns count from 1, in characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Path = tuple[str | int, ...]

# What libyaml counts as the end of a line; line numbers must agree with it.
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value stands."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Mark(NamedTuple):
    """The places of one entry: of its key (for a list: of the item) and of its value."""

    file: str
    key_line: int
    key_column: int
    line: int
    column: int


class SourceFile:
    """The text of one file, for messages. Lines are split when the first message needs one."""

    __slots__ = ("_lines", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """Return line `number` (from 1), or an empty string."""
        if self._lines is None:
            self._lines = _LINE_END.split(self.text)
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""


@dataclass(slots=True, repr=False)
class Tree:
    """The document of all files, with positions. Its repr is the default one: values may hold secrets."""

    root: dict[str, Any] = field(default_factory=dict)
    files: dict[str, SourceFile] = field(default_factory=dict)
    # id of a container -> (the container, so that the id stays its own; key -> Mark)
    marks: dict[int, tuple[Any, dict[Any, Mark]]] = field(default_factory=dict)
    # (id of a container, key) -> the file's own text of a value that was interpolated
    raw: dict[tuple[int, Any], str] = field(default_factory=dict)
    # entries whose text has a `$` and no quotes: `${N}` may become a number where any type is allowed
    plain: set[tuple[int, Any]] = field(default_factory=set)
    # entries whose reference has no value: reported once, unknown to every later stage
    unresolved: set[tuple[int, Any]] = field(default_factory=set)
    # files that the user did not write: what stands there is shown at the nearest parent that the user wrote
    presets: set[str] = field(default_factory=set)
    main: str = ""

    def mark(self, container: Any, key: Any) -> Mark | None:
        """Return the places of one entry, or None for what no file holds."""
        known = self.marks.get(id(container))
        return known[1].get(key) if known else None

    def resolve(self, path: Path) -> tuple[Any, Mark | None]:
        """Walk to `path` as far as it exists; return the last value and the mark of the last entry."""
        value: Any = self.root
        last: Mark | None = None
        for key in path:
            if not has(value, key):
                break
            mark = self.mark(value, key)
            if mark is not None and mark.file not in self.presets:
                last = mark
            value = value[key]
        return value, last

    def place(self, path: Path, *, at_key: bool = False) -> Origin:
        """Return where `path` stands; where its nearest existing parent does, if it is not there itself."""
        mark = self.resolve(path)[1]
        if mark is None:
            return Origin(self.main, 1, 1)
        if at_key:
            return Origin(mark.file, mark.key_line, mark.key_column)
        return Origin(mark.file, mark.line, mark.column)

    def raw_text(self, path: Path) -> str | None:
        """Return the file's own text of an interpolated value, or None when the value is the text."""
        value: Any = self.root
        for key in path[:-1]:
            if not has(value, key):
                return None
            value = value[key]
        return self.raw.get((id(value), path[-1])) if path else None

    def is_unresolved(self, path: Path) -> bool:
        """Whether the value at `path` is unknown because a reference in it has no value."""
        if not self.unresolved or not path:
            return False
        value: Any = self.root
        for key in path[:-1]:
            if not has(value, key):
                return False
            value = value[key]
        return (id(value), path[-1]) in self.unresolved

    def shown(self, path: Path) -> str:
        """Return the value at `path` as a message may quote it: never what a variable was replaced by."""
        value = self.resolve(path)[0]
        text = self.raw_text(path)
        return describe(value if text is None else text)


def has(value: Any, key: str | int) -> bool:
    """Whether `value[key]` is there."""
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value)


def describe(value: Any) -> str:
    """Return a value as a message shows it: short, in the words of YAML."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return str(value)


def path_text(path: Path) -> str:
    """Write a path as people do: `models.gpt-4.chain[0].model`."""
    out = ""
    for key in path:
        if isinstance(key, int):
            out += f"[{key}]"
        else:
            out += f".{key}" if out else key
    return out


class Origins(Mapping[str, Origin]):
    """`models.gpt-4.params.defaults.temperature` -> where it was written. Built when first asked; then it holds no values."""

    __slots__ = ("_found", "_tree")

    def __init__(self, tree: Tree) -> None:
        self._tree: Tree | None = tree
        self._found: dict[str, Origin] = {}

    def _all(self) -> dict[str, Origin]:
        tree, self._tree = self._tree, None
        if tree is not None:
            self._collect(tree, (), tree.root)
        return self._found

    def _collect(self, tree: Tree, path: Path, value: Any) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, child in entries:
            mark = tree.mark(value, key)
            here = (*path, key)
            if mark is not None:
                self._found[path_text(here)] = Origin(mark.file, mark.line, mark.column)
            if isinstance(child, dict | list):
                self._collect(tree, here, child)

    def __getitem__(self, key: str) -> Origin:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return "Origins(...)"
