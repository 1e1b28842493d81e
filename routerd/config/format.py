"""One layout for a configuration: two spaces a level, one space after a dash, no needless quotes, no trailing blanks.

Lines stay lines and keys keep their order; comments stay where they are; values that were aligned in columns stay aligned. The
scanner's tokens say where each line stands in the tree; only leading blanks and a few inner ones are edited. Nothing is taken on
trust: the result must parse to the same values, have the same comments, and be its own layout, or the text is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from routerd.config.report import Report
from routerd.config.source.parse import Limits, parse
from routerd.config.source.scalars import BadNumber, resolve
from routerd.config.tree import Tree
from routerd.errors import ConfigError

PASSES = 3  # the second finds nothing to do; a third is for what only moves once others have
# A text that needs no quotes in any place, and that no older reader of YAML takes for a boolean or nothing.
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null")


class Refused(Exception):
    """The layout cannot be made without a doubt that the meaning stays."""


class _Block(NamedTuple):
    """An open block collection: its column in the text, and in the layout. `bare`: a list at the column of its key."""

    old: int
    new: int
    mapping: bool = False
    bare: bool = False


@dataclass(slots=True)
class _Line:
    """What is known of one line."""

    indent: int | None = None  # in the layout, where a key or a dash begins the line
    shift: int | None = None  # for what goes on from the line before
    raw: bool = False  # of a text whose blanks count
    blocks: tuple[_Block, ...] = ()  # open at its end
    edits: list[tuple[int, int, str]] = field(default_factory=list)  # (from, to, instead), by column


def formatted(name: str, text: str) -> str:
    """Return `text` in the layout. Raise ConfigError where it is no YAML, Refused where its meaning would be in doubt."""
    text = text.replace("\r\n", "\n")
    meaning = _meaning(name, text)
    out = text
    for _ in range(PASSES):
        before, out = out, _pass(out)
        if out == before:
            break
    else:
        raise Refused("the layout does not come to rest")
    try:
        same = _meaning(name, out) == meaning and _comments(out) == _comments(text)
    except (ConfigError, yaml.YAMLError) as exc:
        raise Refused("the layout would not be YAML any more") from exc
    if not same:
        raise Refused("the layout would change its meaning")
    return out


def _meaning(name: str, text: str) -> Any:
    """Return the values and which of them were written without quotes and with a `$`: these may become numbers."""
    tree = Tree(main=name)
    report = Report(tree)
    value = parse(name, text.encode("utf-8", "surrogatepass"), report, Limits())
    if report.failed():
        raise ConfigError(report.problems)
    return _marked(tree, value)


def _marked(tree: Tree, value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, _marked(tree, one), (id(value), key) in tree.plain) for key, one in value.items()]
    if isinstance(value, list):
        return [(_marked(tree, one), (id(value), i) in tree.plain) for i, one in enumerate(value)]
    return type(value).__name__, value


def _comments(text: str) -> list[str]:
    """Return the comments: what stands after a `#` between tokens."""
    found, at = [], 0
    for token in yaml.scan(text, Loader=yaml.CSafeLoader):
        if token.start_mark.index > at:
            found += [part.rstrip() for part in re.findall(r"#[^\n]*", text[at : token.start_mark.index])]
        at = max(at, token.end_mark.index)
    return found


def _pass(text: str) -> str:
    source = text.split("\n")
    lines = _Scan(text, source).lines
    out: list[str] = []
    for number, line in enumerate(source):
        known = lines[number]
        if known.raw:
            out.append(_shifted(line, known.shift or 0) if line.strip() else line)
            continue
        for start, end, instead in sorted(known.edits, reverse=True):
            line = line[:start] + instead + line[end:]
        bare = line.strip(" \t")
        if bare:
            out.append(" " * _indent(source, lines, number) + bare)
        elif out and out[-1] != "":
            out.append("")
    kept = len(out)
    while kept and not out[kept - 1] and not lines[len(source) - 1].raw:
        kept -= 1
    return "\n".join(out[:kept]) + "\n" if kept else ""


def _shifted(line: str, shift: int) -> str:
    return " " * shift + line if shift >= 0 else line[min(-shift, len(line) - len(line.lstrip(" "))) :]


def _indent(source: list[str], lines: list[_Line], number: int) -> int:
    known, column = lines[number], _column(source[number])
    if known.indent is not None:
        return known.indent
    if known.shift is not None:
        return max(0, column + known.shift)
    return _indent_of_comment(source, lines, number, column)


def _indent_of_comment(source: list[str], lines: list[_Line], number: int, column: int) -> int:
    """Place a comment with what it stands above, else in the block of its column, else as far from its neighbour as it was."""
    below = (i for i in range(number + 1, len(source)) if lines[i].indent is not None or lines[i].shift is not None)
    following = next(below, None)
    if following is not None and _column(source[following]) == column:
        return _indent(source, lines, following)
    above = next((lines[i].blocks for i in range(number - 1, -1, -1) if lines[i].blocks), ())
    for block in above:
        if block.old == column and not block.bare:
            return block.new
    if following is None:
        return max(0, column + (above[-1].new - above[-1].old if above else 0))
    return max(0, column + _indent(source, lines, following) - _column(source[following]))


def _column(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


class _Scan:
    """A walk over the tokens that fills in what is known of each line."""

    def __init__(self, text: str, source: list[str]) -> None:
        self.lines = [_Line() for _ in range(len(source) + 1)]
        self._source = source
        self._blocks: list[_Block] = []
        self._depth = 0  # of flow collections
        tokens = list(yaml.scan(text, Loader=yaml.CSafeLoader))
        for i, token in enumerate(tokens):
            self._token(token)
            if i:
                self._between(tokens[i - 1], token)

    def _token(self, token: Any) -> None:
        if isinstance(token, yaml.BlockMappingStartToken | yaml.BlockSequenceStartToken):
            self._open(token.start_mark.column, mapping=isinstance(token, yaml.BlockMappingStartToken))
            return
        if isinstance(token, yaml.BlockEndToken):
            self._close_bare()
            self._blocks.pop()
            return
        if isinstance(token, yaml.StreamStartToken | yaml.StreamEndToken):
            return
        structural = not self._depth and isinstance(token, yaml.KeyToken | yaml.BlockEntryToken)
        if structural:
            self._entry(token)
        self._place(token, structural)
        if isinstance(token, yaml.FlowMappingStartToken | yaml.FlowSequenceStartToken):
            self._depth += 1
        elif isinstance(token, yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken):
            self._depth -= 1
        elif isinstance(token, yaml.ScalarToken):
            self._unquote(token)

    def _open(self, column: int, *, mapping: bool = False, bare: bool = False) -> None:
        new = self._blocks[-1].new + 2 if self._blocks else 0
        self._blocks.append(_Block(column, new, mapping, bare))

    def _close_bare(self) -> None:
        if self._blocks and self._blocks[-1].bare:
            self._blocks.pop()

    def _entry(self, token: Any) -> None:
        """Open or close a list that stands at the column of its key: the scanner has no token for that."""
        if isinstance(token, yaml.KeyToken):
            self._close_bare()
        elif self._blocks[-1].mapping:
            self._open(token.start_mark.column, bare=True)

    def _place(self, token: Any, structural: bool) -> None:
        """Say where the token's lines go."""
        start, end = token.start_mark, token.end_mark
        top = self._blocks[-1] if self._blocks else _Block(0, 0)
        first = self.lines[start.line]
        if not self._source[start.line][: start.column].strip(" ") and first.indent is None and first.shift is None:
            if structural:
                first.indent = top.new
            else:
                first.shift = top.new - top.old
        scalar = isinstance(token, yaml.ScalarToken)
        raw = scalar and token.style in ("|", ">")
        last = end.line if end.column or not raw else end.line - 1
        shift = self._shift_of_text(token, top, last) if raw else top.new - top.old
        for number in range(start.line + 1, last + 1):
            line = self.lines[number]
            line.shift, line.raw = shift, scalar
        for number in {start.line, last}:
            self.lines[number].blocks = tuple(self._blocks)

    def _shift_of_text(self, token: Any, top: _Block, last: int) -> int:
        """Return how a block text moves: to two columns in from its key, unless its head says how far in it stands."""
        head = self._source[token.start_mark.line][token.start_mark.column :].partition("#")[0]
        first = next((line for line in self._source[token.start_mark.line + 1 : last + 1] if line.strip(" ")), None)
        if first is None or re.search(r"[0-9]", head):
            return top.new - top.old
        return top.new + 2 - _column(first)

    def _between(self, one: Any, two: Any) -> None:
        """Tidy the blanks between two tokens of one line."""
        if one.end_mark.line != two.start_mark.line or isinstance(two, yaml.BlockEndToken | yaml.StreamEndToken):
            return
        start, end, line = one.end_mark.column, two.start_mark.column, one.end_mark.line
        gap = self._source[line][start:end]
        if gap.strip(" ") or end < start:
            return
        wanted = gap
        if isinstance(one, yaml.BlockEntryToken):
            wanted = " "
        elif isinstance(one, yaml.FlowMappingStartToken | yaml.FlowSequenceStartToken):
            wanted = ""
        elif isinstance(two, yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken):
            wanted = "" if not isinstance(one, yaml.FlowEntryToken | yaml.ValueToken) else gap
        elif isinstance(two, yaml.ValueToken | yaml.FlowEntryToken) and isinstance(one, _ENDS):
            wanted = ""
        elif isinstance(one, yaml.FlowEntryToken):
            wanted = gap or " "
        if wanted != gap:
            self.lines[line].edits.append((start, end, wanted))

    def _unquote(self, token: Any) -> None:
        start, end = token.start_mark, token.end_mark
        if token.style not in ("'", '"') or start.line != end.line or not _needs_no_quotes(token.value):
            return
        if self._source[start.line][start.column + 1 : end.column - 1] == token.value:
            self.lines[start.line].edits.append((start.column, end.column, token.value))


_ENDS = (yaml.ScalarToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def _needs_no_quotes(text: str) -> bool:
    try:
        return bool(_BARE.fullmatch(text)) and not _WORDS.fullmatch(text) and resolve(text) == text
    except BadNumber:
        return False
