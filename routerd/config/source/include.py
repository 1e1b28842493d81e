"""`include`: several files to one document. One level; globs are relative to the including file and sorted.

A model, provider, alias, budget or client belongs to one file; the same one in two files is an error that names both, and so is
a setting of the top level; `tests` of several files are one list. Each file has its own anchors. The directories of the globs are
inputs too: a new file there matters.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from routerd.config.report import Report
from routerd.config.source.interpolate import Filled, interpolate
from routerd.config.source.parse import Limits, parse
from routerd.config.source.read import Reader, ReadFailure
from routerd.config.tree import Mark, Origin, Path, Tree, describe

SECTIONS = ("providers", "models", "aliases", "budgets", "clients")
MAX_FILES = 1000


def assemble(path: FilePath, environ: Mapping[str, str], reader: Reader, report: Report) -> list[Filled]:
    """Read the main file and what it includes into the report's tree; return what was interpolated."""
    return _Assembly(path, environ, reader, report).run()


class _Assembly:
    def __init__(self, path: FilePath, environ: Mapping[str, str], reader: Reader, report: Report) -> None:
        self._path = path
        self._environ = environ
        self._reader = reader
        self._report = report
        self._tree: Tree = report.tree
        self._limits = Limits()
        self._filled: list[Filled] = []

    def run(self) -> list[Filled]:
        self._tree.main = str(self._path)
        root = self._file(self._path, None)
        if root is None:
            return self._filled
        self._tree.root = root
        for place, path in self._included(root):
            part = self._file(path, place)
            if part is not None:
                self._join(part)
        return self._filled

    def _file(self, path: FilePath, place: Path | None) -> dict[str, Any] | None:
        """Read, parse and interpolate one file. `place`: the entry of `include` that asked for it."""
        name = str(path)
        try:
            data = self._reader.read(path, max_bytes=self._limits.bytes_left)
        except ReadFailure as failure:
            if place is None:
                self._report.at("read", failure.code, Origin(name, 0, 0), failure.message)
            else:
                self._report.add("read", failure.code, place, f"{name}: {failure.message}")
            return None
        self._limits.bytes_left -= len(data)
        before = len(self._report.problems)
        value = parse(name, data, self._report, self._limits)
        if value is None and len(self._report.problems) > before:
            return None
        if value is None and place is not None:
            return None  # an included file with nothing but comments
        if not isinstance(value, dict):
            what = "the file is empty" if value is None else f"the file must be a mapping, got {describe(value)}"
            code = "empty-file" if value is None else "not-a-mapping"
            self._report.at("yaml", code, Origin(name, 1, 1), what, hint="start with `version: 1`")
            self._report.unparsed = True
            return None
        self._filled += interpolate(value, self._environ, self._report)
        return value

    def _included(self, root: dict[str, Any]) -> list[tuple[Path, FilePath]]:
        """Return the included files in order, each once, with the entry that named it."""
        patterns = root.get("include")
        if not isinstance(patterns, list):
            return []  # absent, or for the schema to complain about
        out: dict[FilePath, Path] = {}
        for i, pattern in enumerate(patterns):
            if isinstance(pattern, str) and pattern and "\0" not in pattern:
                found = self._matches(pattern)
                for path in found:
                    out.setdefault(path, ("include", i))
                if not found:
                    message = f"no file matches {describe(pattern)}"
                    hint = f"patterns begin at {self._path.absolute().parent}; a file that comes later is taken up"
                    self._report.add("read", "no-match", ("include", i), message, hint=hint, severity="warning")
        if len(out) > MAX_FILES:
            self._report.add("read", "too-many-files", ("include",), f"more than {MAX_FILES} files are included")
            return []
        return [(place, path) for path, place in out.items()]

    def _matches(self, pattern: str) -> list[FilePath]:
        base = self._path.parent
        if not glob.has_magic(pattern):
            return [base / pattern]
        found = self._reader.matches(str(base / pattern))
        parts = FilePath(pattern).parts
        literal = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        self._reader.listing(base.joinpath(*parts[:literal]), found)
        if literal < len(parts) - 1:  # a star in a directory's name: each match is a directory to watch
            for directory in self._reader.matches(str(base.joinpath(*parts[:-1]))):
                self._reader.listing(FilePath(directory), [name for name in found if os.path.dirname(name) == directory])
        return [FilePath(name) for name in found if not _same_file(name, self._path)]

    # ── joining ──

    def _join(self, part: dict[str, Any]) -> None:
        root, marks = self._tree.root, self._tree.marks[id(self._tree.root)][1]
        part_marks = self._tree.marks[id(part)][1]
        for key, value in part.items():
            mark = part_marks[key]
            if key.startswith("x-") or (key == "version" and value == 1 and not isinstance(value, bool)):
                continue
            if key == "include":
                message = "an included file cannot include others"
                self._problem("nested-include", mark, ("include",), message, "include it in the main file")
            elif key in SECTIONS and isinstance(value, dict) and isinstance(root.get(key), dict):
                self._join_section(key, value)
            elif key == "tests" and isinstance(value, list) and isinstance(root.get(key), list):
                self._join_list(root[key], value)
            elif key in root:
                self._twice(mark, marks[key], (key,), repr(key))
            else:
                root[key], marks[key] = value, mark
                if (id(part), key) in self._tree.unresolved:
                    self._tree.unresolved.add((id(root), key))

    def _join_section(self, section: str, part: dict[str, Any]) -> None:
        into = self._tree.root[section]
        marks, part_marks = self._tree.marks[id(into)][1], self._tree.marks[id(part)][1]
        for name, value in part.items():
            if name in into:
                self._twice(part_marks[name], marks[name], (section, name), f"{section.removesuffix('s')} {describe(name)}")
            else:
                into[name], marks[name] = value, part_marks[name]
                if (id(part), name) in self._tree.raw:
                    self._tree.raw[id(into), name] = self._tree.raw[id(part), name]
                if (id(part), name) in self._tree.unresolved:
                    self._tree.unresolved.add((id(into), name))

    def _join_list(self, into: list[Any], part: list[Any]) -> None:
        marks, part_marks = self._tree.marks[id(into)][1], self._tree.marks[id(part)][1]
        for i, value in enumerate(part):
            marks[len(into)] = part_marks[i]
            into.append(value)

    def _twice(self, second: Mark, first: Mark, path: Path, what: str) -> None:
        place = f"{first.file}:{first.key_line}:{first.key_column}"
        self._problem("duplicate-name", second, path, f"{what} is also in {place}", "keep one of the two")

    def _problem(self, code: str, mark: Mark, path: Path, message: str, hint: str) -> None:
        origin = Origin(mark.file, mark.key_line, mark.key_column)
        self._report.at("semantic", code, origin, message, path=path, hint=hint)


def _same_file(name: str, path: FilePath) -> bool:
    try:
        return os.path.abspath(name) == os.path.abspath(path) or os.path.samefile(name, path)
    except OSError:
        return False
