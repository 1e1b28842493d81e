"""`${NAME}` in values, after parsing: the syntax of Compose.

    ${V}            the variable; unset is an error
    ${V-default}    default when unset            ${V:-default}   when unset or empty; defaults may hold ${...} again
    ${V?message}    error when unset              ${V:?message}   when unset or empty
    $$              a dollar sign; a `$` before anything else is itself

Keys are never touched, nor is what stands under `x-*` at the top. A value that was replaced is remembered with the file's own
text: messages show that. Types come later (`cast`): where the schema wants a number, `${N}` becomes one; where it allows
anything, it becomes what the text would have been in the file, so quotes keep it text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from routerd.config.report import Report
from routerd.config.source.scalars import BadNumber, resolve
from routerd.config.tree import Origin, Path, Tree

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNBRACED = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_CLEAN = re.compile("[^\x00\ud800-\udfff]*")  # undecodable bytes of the environment arrive as lone surrogates
MAX_DEPTH = 8  # of defaults in defaults


@dataclass(frozen=True, slots=True)
class Filled:
    """An entry whose text was replaced and may have to change its type."""

    path: Path
    container: Any
    key: Any
    plain: bool


class _Bad(Exception):
    """A reference that cannot be replaced. `at` is the offset of its `$` in the text."""

    def __init__(self, code: str, message: str, at: int, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.at, self.hint = code, message, at, hint


def interpolate(root: dict[str, Any], environ: Mapping[str, str], report: Report) -> list[Filled]:
    """Replace every reference below `root` in place; return what was replaced."""
    walk = _Walk(environ, report)
    for key in root:
        if not key.startswith("x-"):
            walk.entry((), root, key)
    return walk.filled


def stand_in(filled: list[Filled], tree: Tree, example_at: Callable[[Path], str]) -> None:
    """Put something of the right form where a value is unknown, so that what stands around it can be checked.

    Not for names that others refer to (endpoints, aliases): those entries are left out as the schema refuses them.
    """
    for one in filled:
        if (id(one.container), one.key) in tree.unresolved and one.key != "name" and "aliases" not in one.path:
            one.container[one.key] = example_at(one.path)


def cast(filled: list[Filled], tree: Tree, types_at: Callable[[Path], frozenset[str]]) -> None:
    """Give replaced values the type that their place wants. `types_at`: the JSON types allowed at a path, empty for any."""
    for one in filled:
        if (id(one.container), one.key) in tree.unresolved:
            continue
        text = one.container[one.key]
        types = types_at(one.path)
        if not isinstance(text, str) or "string" in types or (not types and not one.plain):
            continue
        try:
            value = resolve(text)
        except BadNumber:
            continue
        wanted = {bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}}.get(type(value), set())
        if not types or wanted & types:
            one.container[one.key] = value


class _Walk:
    def __init__(self, environ: Mapping[str, str], report: Report) -> None:
        self._environ = environ
        self._report = report
        self._tree: Tree = report.tree
        self._seen: set[int] = set()
        self.filled: list[Filled] = []

    def entry(self, path: Path, container: Any, key: Any) -> None:
        """Replace in one entry of a mapping or list, and below it."""
        value = container[key]
        if isinstance(value, str):
            if "$" in value:
                self._text((*path, key), container, key, value)
        elif isinstance(value, dict | list) and id(value) not in self._seen:
            self._seen.add(id(value))
            for child in value if isinstance(value, dict) else range(len(value)):
                self.entry((*path, key), value, child)

    def _text(self, path: Path, container: Any, key: Any, text: str) -> None:
        try:
            whole = _UNBRACED.fullmatch(text)
            if whole:
                name = whole.group(1)
                hint = f"write ${{{name}}}, or $${name} for the text itself"
                raise _Bad("bad-interpolation", f"${name} is not replaced", 0, hint)
            new = self._replace(text, 0)
        except _Bad as bad:
            self._complain(path, container, key, bad, text)
            new = ""  # nothing of a half replaced value may stay
            self._tree.unresolved.add((id(container), key))
        self._tree.raw[id(container), key] = text
        container[key] = new
        self.filled.append(Filled(path, container, key, (id(container), key) in self._tree.plain))

    def _replace(self, text: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise _Bad("bad-interpolation", "defaults are nested too deep", 0)
        out: list[str] = []
        at = 0
        while (dollar := text.find("$", at)) >= 0:
            out.append(text[at:dollar])
            follows = text[dollar + 1 : dollar + 2]
            if follows == "$":
                out.append("$")
                at = dollar + 2
            elif follows == "{":
                end = _closing(text, dollar)
                out.append(self._reference(text[dollar + 2 : end], dollar, depth))
                at = end + 1
            else:
                out.append("$")
                at = dollar + 1
        out.append(text[at:])
        return "".join(out)

    def _reference(self, body: str, at: int, depth: int) -> str:
        """Return what `${body}` stands for."""
        found = _NAME.match(body)
        if found is None:
            raise _Bad("bad-interpolation", "${ must be followed by the name of a variable", at, "write $$ for a dollar sign")
        name, rest = found.group(), body[found.end() :]
        value = self._environ.get(name)
        if value is not None:
            if not _CLEAN.fullmatch(value):
                message = f"the environment variable {name} is not UTF-8, or has a NUL"
                raise _Bad("bad-interpolation", message, at)
            self._report.hide(value, f"${{{name}}}")
        if not rest:
            if value is None:
                hint = f"set it where the daemon starts (a running one does not see it), or give it a default: ${{{name}:-}}"
                raise _Bad("unset-variable", f"the environment variable {name} is not set", at, hint)
            return value
        usable = value is not None and not (rest.startswith(":") and value == "")
        operator, argument = rest[: 2 if rest.startswith(":") else 1], rest[2 if rest.startswith(":") else 1 :]
        if operator in ("-", ":-"):
            return value if usable and value is not None else self._replace(argument, depth + 1)
        if operator in ("?", ":?"):
            if usable and value is not None:
                return value
            state = "is not set" if value is None else "is empty"
            why = f": {argument}" if argument else ""
            raise _Bad("required-variable", f"the environment variable {name} {state}{why}", at)
        hint = "known are ${V}, ${V:-default}, ${V-default}, ${V:?message} and ${V?message}"
        raise _Bad("bad-interpolation", f"what follows {name} is not understood", at, hint)

    def _complain(self, path: Path, container: Any, key: Any, bad: _Bad, text: str) -> None:
        """Report at the reference itself where the text stands in the line as it is, else at the start of the value."""
        mark = self._tree.mark(container, key)
        if mark is None:
            self._report.add("interpolate", bad.code, path, bad.message, hint=bad.hint)
            return
        file = self._tree.files.get(mark.file)
        line = file.line(mark.line) if file else ""
        offset = line.find(text, mark.column - 1)
        column = offset + bad.at + 1 if offset >= 0 else mark.column
        self._report.at("interpolate", bad.code, Origin(mark.file, mark.line, column), bad.message, path=path, hint=bad.hint)


def _closing(text: str, start: int) -> int:
    """Return the offset of the `}` that ends the reference at `start`."""
    depth = 0
    at = start
    while at < len(text):
        if text.startswith("${", at):
            depth += 1
            at += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise _Bad("bad-interpolation", "${ without its }", start, "write $$ for a dollar sign")
