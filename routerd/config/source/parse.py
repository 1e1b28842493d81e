"""Bytes to a tree: libyaml's events, our own constructor.

Why not PyYAML's loader: it reads YAML 1.1 (`no` is false), keeps the last of two equal keys, loses positions, and builds an alias
bomb before anybody can object. Size, depth, number of nodes and what aliases expand to are bounded here while events come in,
before a container grows. Nothing is copied: an alias is the same container again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]

from routerd.config.report import Report, did_you_mean
from routerd.config.source.scalars import BadNumber, resolve
from routerd.config.tree import Mark, Origin, SourceFile, Tree, describe


@dataclass(slots=True)
class Limits:
    """What is left for the files of one load."""

    # 20,000 models are 5 MB. libyaml needs 1.3 us a node: what is refused must be refused within 100 ms, so size comes first.
    bytes_left: int = 8 * 1024 * 1024
    nodes_left: int = 500_000
    # nodes that aliases stand for; a validator walks each of them again
    aliased_left: int = 100_000
    depth: int = 64


class _Fatal(Exception):
    """Parsing cannot go on: the code, the place, the message and a hint."""

    def __init__(self, code: str, origin: Origin, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.origin, self.message, self.hint = code, origin, message, hint


_OPEN = object()  # an anchor whose container is not complete yet
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")


def parse(name: str, data: bytes, report: Report, limits: Limits) -> Any:
    """Return the value of the document in `data`, with its positions in the report's tree.

    None for a file that is empty, and after a fatal problem.
    """
    tree = report.tree
    try:
        text = _decode(name, data, tree)
        tree.files[name] = SourceFile(name, text)
        _refuse_illegal(name, data, text)
        return _Builder(name, data.removeprefix(_BOM), report, limits).document()
    except _Fatal as fatal:
        report.unparsed = True
        report.at("yaml", fatal.code, fatal.origin, fatal.message, hint=fatal.hint)
        return None


def _decode(name: str, data: bytes, tree: Tree) -> str:
    if data.startswith(_UTF16_BOMS):
        raise _Fatal("bad-encoding", Origin(name, 1, 1), "the file is UTF-16", "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")  # a byte order mark at the start is allowed and ignored
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode("utf-8-sig", "replace")
        tree.files[name] = SourceFile(name, data.decode("utf-8-sig", "replace"))
        line = _lines_before(before)
        message = f"the file is not UTF-8: byte 0x{data[exc.start]:02x} at offset {exc.start}"
        raise _Fatal("bad-encoding", Origin(name, line[0], line[1]), message, "save it as UTF-8") from exc


def _lines_before(text: str) -> tuple[int, int]:
    """Return the line and column after `text`."""
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text)
    return len(lines), len(lines[-1]) + 1


def _refuse_illegal(name: str, data: bytes, text: str) -> None:
    if text.isascii() and len(data.translate(None, _CONTROLS)) == len(data):
        return  # 10 ms for 8 MB, where the expression needs 60
    found = _ILLEGAL.search(text)
    if found is not None:
        line, column = _lines_before(text[: found.start()])
        what = "a NUL byte" if found.group() == "\0" else f"the control character U+{ord(found.group()):04X}"
        hint = 'in double quotes it can be written as an escape like "\\x1b"'
        raise _Fatal("bad-character", Origin(name, line, column), f"the file has {what}", hint)


class _Frame:
    """A container under construction."""

    __slots__ = ("anchor", "column", "key", "key_mark", "line", "marks", "merges", "size", "value")

    def __init__(self, value: Any, anchor: str | None, line: int, column: int) -> None:
        self.value = value
        self.anchor = anchor
        self.line, self.column = line, column
        self.marks: dict[Any, Mark] = {}
        self.key: Any = None
        self.key_mark: tuple[int, int] | None = None  # None: the next node is a key
        self.merges: list[tuple[Any, int, int]] = []
        self.size = 1


class _Builder:
    """One document. Events go to `_scalar`, `_open`, `_close`, `_alias`; each ends in `_put`."""

    def __init__(self, name: str, data: bytes, report: Report, limits: Limits) -> None:
        self._name = name
        self._data = data
        self._report = report
        self._tree = report.tree
        self._limits = limits
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int, bool]] = {}  # name -> value, nodes, had a `$` and no quotes
        self._sizes: dict[int, int] = {}
        self._root: Any = None
        self._quoted: tuple[int, int, int] | None = None  # line, column and last line of the latest quoted text of several lines

    def document(self) -> Any:
        """Read all events; return the root value."""
        try:
            parser = CParser(self._data)
            documents = 0
            while not isinstance(event := parser.get_event(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        hint = "one file is one document: remove the `---` line"
                        raise self._fatal("many-documents", event, "a second document starts here", hint)
                else:
                    self._event(event)
        except yaml.MarkedYAMLError as exc:
            raise self._syntax(exc) from exc
        except yaml.YAMLError as exc:
            raise _Fatal("bad-yaml", Origin(self._name, 1, 1), f"not valid YAML: {exc}".splitlines()[0]) from exc
        return self._root

    def _event(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._start(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)

    # ── nodes ──

    def _count(self, event: Any) -> None:
        self._limits.nodes_left -= 1
        if self._limits.nodes_left < 0:
            raise self._fatal("too-many-nodes", event, "the configuration has too many values")

    def _scalar(self, event: Any) -> None:
        self._count(event)
        plain = event.implicit[0]
        text = event.value
        if event.style in _QUOTES and event.end_mark.line > event.start_mark.line:
            self._quoted = event.start_mark.line + 1, event.start_mark.column + 1, event.end_mark.line + 1
        value: Any = text
        if plain:
            try:
                value = resolve(text)
            except BadNumber as exc:
                self._problem("bad-number", event, f"{describe(text)} cannot be used: {exc}", "put it in quotes if it is text")
        elif event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self._fatal("unknown-tag", event, f"the tag {describe(event.tag)} is not supported", "remove the tag")
        dollars = plain and "$" in text
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1, dollars)
        self._put(value, event, size=1, dollars=dollars, plain_text=text if plain else None)

    def _start(self, event: Any) -> None:
        self._count(event)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if mapping else 'seq'}"):
            raise self._fatal("unknown-tag", event, f"the tag {describe(event.tag)} is not supported", "remove the tag")
        if len(self._stack) >= self._limits.depth:
            raise self._fatal("too-deep", event, f"nested deeper than {self._limits.depth} levels")
        parent = self._stack[-1] if self._stack else None
        if parent is not None and isinstance(parent.value, dict) and parent.key_mark is None:
            what, hint = ("a mapping", _FLOW_HINT) if mapping else ("a list", "put it in quotes if it is text")
            raise self._fatal("complex-key", event, f"a key must be text, not {what}", hint)
        if event.anchor is not None:
            self._anchors[event.anchor] = (_OPEN, 0, False)
        mark = event.start_mark
        self._stack.append(_Frame({} if mapping else [], event.anchor, mark.line + 1, mark.column + 1))

    def _end(self) -> None:
        frame = self._stack.pop()
        if frame.merges:
            self._merge(frame)
        self._tree.marks[id(frame.value)] = (frame.value, frame.marks)
        self._sizes[id(frame.value)] = frame.size
        if frame.anchor is not None:
            self._anchors[frame.anchor] = (frame.value, frame.size, False)
        self._insert(frame.value, frame.line, frame.column, frame.size, dollars=False)

    def _alias(self, event: Any) -> None:
        self._count(event)
        if event.anchor not in self._anchors:
            hint = (
                did_you_mean(event.anchor, self._anchors)
                or "an anchor stands above its use; a text that starts with * needs quotes"
            )
            raise self._fatal("unknown-anchor", event, f"no anchor &{event.anchor} stands above", hint)
        value, size, dollars = self._anchors[event.anchor]
        if value is _OPEN:
            raise self._fatal("recursive-alias", event, f"*{event.anchor} would contain itself")
        self._limits.aliased_left -= size
        if self._limits.aliased_left < 0:
            raise self._fatal("alias-bomb", event, "the aliases stand for too many values")
        self._put(value, event, size=size, dollars=dollars, plain_text=None)

    # ── containers ──

    def _put(self, value: Any, event: Any, *, size: int, dollars: bool, plain_text: str | None) -> None:
        """Take a scalar or an alias: as a key, or as a value."""
        mark = event.start_mark
        frame = self._stack[-1] if self._stack else None
        if frame is None or isinstance(frame.value, list) or frame.key_mark is not None:
            self._insert(value, mark.line + 1, mark.column + 1, size, dollars=dollars)
            return
        frame.size += size
        frame.key_mark = (mark.line + 1, mark.column + 1)
        frame.key = value
        if plain_text == "<<":
            frame.key = _MERGE
        elif not isinstance(value, str):
            frame.key = self._text_key(value, event, plain_text)
        elif value in frame.value:
            first = frame.marks[value]
            place = f"{first.file}:{first.key_line}:{first.key_column}"
            self._problem("duplicate-key", event, f"the key {describe(value)} is also at {place}", "keep one of the two")

    def _text_key(self, value: Any, event: Any, plain_text: str | None) -> str:
        """Complain about a key that YAML reads as a number, a boolean or nothing; go on with its text."""
        if plain_text is None or isinstance(value, dict | list):
            raise self._fatal("complex-key", event, f"a key must be text, not {describe(value)}")
        kind = "nothing" if value is None else "a boolean" if isinstance(value, bool) else "a number"
        hint = f'quote it: "{plain_text}"' if plain_text else "give the key a name"
        self._problem("unquoted-key", event, f"the key {plain_text or '(empty)'} is {kind} to YAML; a key must be text", hint)
        return plain_text

    def _insert(self, value: Any, line: int, column: int, size: int, *, dollars: bool) -> None:
        """Put a complete value into the container under construction."""
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        frame.size += size
        if isinstance(frame.value, list):
            key: Any = len(frame.value)
            frame.value.append(value)
            frame.marks[key] = Mark(self._name, line, column, line, column)
        else:
            key = frame.key
            key_line, key_column = frame.key_mark or (line, column)
            frame.key_mark = None
            if key is _MERGE:
                frame.merges.append((value, line, column))
                return
            if key in frame.value:
                return  # a duplicate: told already, the first one stays
            frame.value[key] = value
            frame.marks[key] = Mark(self._name, key_line, key_column, line, column)
        if dollars:
            self._tree.plain.add((id(frame.value), key))

    def _merge(self, frame: _Frame) -> None:
        """Apply `<<`: what the mapping says itself wins, then the earlier of the merged ones."""
        for source, line, column in frame.merges:
            for part in source if isinstance(source, list) else [source]:
                if not isinstance(part, dict):
                    message = f"<< merges mappings, got {describe(part)}"
                    self._report.at("yaml", "bad-merge", Origin(self._name, line, column), message, hint="write `<<: *anchor`")
                    continue
                marks = self._tree.marks[id(part)][1]
                for key, value in part.items():
                    if key not in frame.value:
                        frame.value[key] = value
                        frame.marks[key] = marks[key]
                        if (id(part), key) in self._tree.plain:
                            self._tree.plain.add((id(frame.value), key))

    # ── problems ──

    def _fatal(self, code: str, event: Any, message: str, hint: str = "") -> _Fatal:
        mark = event.start_mark
        return _Fatal(code, Origin(self._name, mark.line + 1, mark.column + 1), message, hint)

    def _problem(self, code: str, event: Any, message: str, hint: str = "") -> None:
        mark = event.start_mark
        self._report.at("yaml", code, Origin(self._name, mark.line + 1, mark.column + 1), message, hint=hint)

    def _syntax(self, exc: yaml.MarkedYAMLError) -> _Fatal:
        """Turn libyaml's complaint into ours: one line, and a hint for the usual mistakes."""
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        source = self._tree.files[self._name].line(line)
        problem = exc.problem or "not valid YAML"
        if (unclosed := self._unclosed(exc, line)) is not None:
            return unclosed
        where = ""
        if exc.context and exc.context_mark is not None and exc.context_mark.line + 1 != line:
            where = f" ({exc.context} that starts in line {exc.context_mark.line + 1})"
        origin = Origin(self._name, line, column)
        before = source[: column - 1]
        if before.endswith("$") and source[column - 1 : column] == "{":
            origin = Origin(self._name, line, column - 1)
            return _Fatal("unquoted-variable", origin, "${...} inside {} or [] needs quotes", _FLOW_HINT)
        indent = source[: len(source) - len(source.lstrip())]
        if "tab" in problem or "\t" in indent or source[column - 1 : column] == "\t":
            return _Fatal("tab", origin, "a tab where YAML wants spaces", "indent with spaces")
        hint = self._stairs(problem, line, source) or _syntax_hint(problem, source, column)
        return _Fatal("bad-yaml", origin, problem + where, hint)

    def _stairs(self, problem: str, line: int, source: str) -> str:
        """Say that a line is deeper than the one above, which has its value already: libyaml takes the two for one text."""
        above = next((number for number in range(line - 1, 0, -1) if self._text(number).strip()), 0)
        if "mapping values are not allowed" not in problem or not _ENTRY.match(source) or not _WHOLE.match(self._text(above)):
            return ""
        deep, before = (len(text) - len(text.lstrip()) for text in (source, self._text(above)))
        if deep <= before:
            return ""
        return f"it is indented by {deep}, line {above} above it by {before}: keys of one block begin in the same column"

    def _text(self, line: int) -> str:
        return self._tree.files[self._name].line(line) if line else ""


    def _unclosed(self, exc: yaml.MarkedYAMLError, line: int) -> _Fatal | None:
        """Point at the bracket or quote that is not closed, if that is the mistake: libyaml names a place further down."""
        mark, context = exc.context_mark, exc.context or ""
        if mark is not None and "flow" in context and mark.line + 1 < line:
            return self._opened(mark.line + 1, mark.column + 1, f"line {line} does not go on with it")
        if "flow node" in context and self._stack:
            return self._opened(self._stack[-1].line, self._stack[-1].column, "the file ends before it does")
        if mark is not None and "quoted scalar" in context and "end of stream" in (exc.problem or ""):
            return self._opened(mark.line + 1, mark.column + 1, "the file ends before it does")
        if self._quoted is not None and self._quoted[2] == line and "did not find expected" in (exc.problem or ""):
            return self._opened(*self._quoted[:2], f"the text goes on to line {line}, and what follows it there is no YAML")
        return None

    def _opened(self, line: int, column: int, why: str) -> _Fatal | None:
        opens = self._tree.files[self._name].line(line)[column - 1 : column]
        if opens not in _CLOSED_BY:
            return None
        what = "quote" if opens in _QUOTES else "bracket"
        return _Fatal("not-closed", Origin(self._name, line, column), f"this {what} is not closed: {why}", _CLOSED_BY[opens])


_ENTRY = re.compile(r"\s*[\w-]+:(\s|$)")
_WHOLE = re.compile(r"\s*[\w-]+:\s+[^\s#|>&{\[]")
_QUOTES = ('"', "'")
_CLOSED_BY = {
    "[": "write the ] that is missing, or a comma between two items",
    "{": "write the } that is missing, or a comma between two items",
    '"': 'write the " that is missing; inside of it a " is \\"',
    "'": "write the ' that is missing; inside of it a ' is ''",
}
_MERGE = object()
_FLOW_HINT = 'inside {} and [] write it in quotes: "${NAME}"'


def _syntax_hint(problem: str, source: str, column: int) -> str:
    at = source[column - 1 : column]
    if "cannot start any token" in problem and at in "@`%":
        return f"a text that starts with {at} needs quotes"
    if "mapping values are not allowed" in problem:
        return "a text with `: ` in it needs quotes; otherwise look at the indentation"
    if "did not find expected key" in problem and source[: column - 1].rstrip()[-1:] in _CLOSED_BY:
        return "the quotes end before this: within '...' write '' for ', within \"...\" write \\\" for \""
    if "did not find expected key" in problem or "expected '-' indicator" in problem or "block end" in problem:
        return "look at the indentation of this line and the one above"
    if "',' or '}'" in problem or "',' or ']'" in problem:
        return "a bracket is not closed, or a comma is missing"
    return ""
