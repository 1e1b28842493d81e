"""What every part of the compilation needs: the document, where to complain, and what is known by name.

Entries that the schema refused (`broken`) are not compiled, but their names are known: a reference to them is no second mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

from routerd.config.compile.units import duration_s
from routerd.config.report import Report
from routerd.config.source import Reader
from routerd.config.tree import Path

T = TypeVar("T")
# 3,650 days: longer than any operator means, short enough for every timer.
LONGEST_S = 3650 * 86400.0


class Build:
    """One compilation."""

    def __init__(
        self, report: Report, reader: Reader, environ: Mapping[str, str], broken: frozenset[tuple[str, str]] = frozenset()
    ) -> None:
        self.report = report
        self.tree = report.tree
        self.doc = report.tree.root
        self.reader = reader
        self.environ = environ
        self.broken = broken
        self._shared: dict[Any, Any] = {}

    def error(self, path: Path, code: str, message: str, hint: str = "", *, at_key: bool = False) -> None:
        """Add an error at a path."""
        self.report.add("semantic", code, path, message, hint=hint, at_key=at_key)

    def warn(self, path: Path, code: str, message: str, hint: str = "", *, at_key: bool = False) -> None:
        """Add a warning at a path."""
        self.report.add("semantic", code, path, message, hint=hint, at_key=at_key, severity="warning")

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a mapping of the top level; empty when it is absent or of another shape."""
        value = self.doc.get(name)
        return value if isinstance(value, dict) and (name, "") not in self.broken else {}

    def entries(self, section: str) -> Iterator[tuple[str, Any]]:
        """Yield the entries of a section that have the right shape."""
        for name, body in self.section(section).items():
            if (section, name) not in self.broken:
                yield name, body

    def known(self, section: str) -> Mapping[str, Any]:
        """Return all names of a section, those of broken entries too."""
        value = self.doc.get(section)
        return value if isinstance(value, dict) else {}

    def share(self, value: T) -> T:
        """Return an equal object that is there already: 2,000 models have few different timeouts."""
        return self._shared.setdefault((type(value), value), value)  # type: ignore[no-any-return]

    def file(self, path: Path, name: str) -> FilePath:
        """Return the path that `name` means in the file that holds `path`."""
        return FilePath(self.tree.place(path).file).parent / name

    def names(self, path: Path, names: Iterable[str], section: str) -> tuple[str, ...]:
        """Return references to a section; complain about those that are unknown."""
        out = tuple(names)
        known = self.known(section)
        for i, name in enumerate(out):
            if name not in known:
                self.unknown((*path, i), section.removesuffix("s"), name, known)
        return out

    def unknown(self, path: Path, kind: str, name: str, known: Iterable[str]) -> None:
        """Complain about a reference to nothing."""
        names = list(known)
        literal = self.tree.raw_text(path) is None
        hint = self.report.suggest(name, names) if literal else ""
        if not hint:
            hint = f"no {kind} is defined" if not names else f"known are {', '.join(names)}" if len(names) <= 8 else ""
        shown = repr(name if len(name) <= 60 else name[:57] + "...") if literal else self.tree.shown(path)
        self.error(path, f"unknown-{kind}", f"unknown {kind} {shown}", hint)

    def seconds(self, path: Path, text: str, *, zero: bool = False) -> float | None:
        """Return a duration in seconds; None after a complaint."""
        length = duration_s(text)
        if length is None:
            self.error(path, "bad-value", f"expected a duration like 30s, got {self.tree.shown(path)}")
        elif length > LONGEST_S or (length <= 0 and not zero):
            what = "longer than 0" if length <= 0 else "at most 3650d"
            self.error(path, "out-of-range", f"a duration must be {what} here, got {self.tree.shown(path)}")
            return None
        return length
