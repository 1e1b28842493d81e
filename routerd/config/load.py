"""A path to a Graph, or to everything that is wrong.

The stages: read, yaml, interpolate (per file, joined by `include`), schema, semantic, build; presets are filled in before the
schema is asked. A stage runs when what it needs is there: a key that stands twice or lacks its quotes stops nothing, a missing
bracket does. A value that the schema refuses takes its whole entry (one model, one provider) out of the semantic checks; the
others are still checked, so one look at the report is enough. So is what stands around
a reference without a value: the value itself is unknown, and nothing more is said about it. Nothing but the inputs is read, and
no network is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from routerd.config.compile import Build, Case, compile_cases, compile_graph
from routerd.config.report import Report
from routerd.config.shape import Schema, explain
from routerd.config.source import Input, Kept, Reader, assemble, cast, fill_in, stand_in
from routerd.config.tree import Origin, Origins, Tree
from routerd.config.tree import Path as TreePath
from routerd.errors import ConfigError, Problem
from routerd.graph import Graph

SECTIONS = frozenset({"providers", "models", "aliases", "budgets", "clients"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that may serve.

    `inputs`: everything it depends on, in the order of reading: files, the directories of include patterns, and (with an empty
    hash) files that are not there but would change it. `origins`: `models.m.chain[0].model` -> where that was written. `tests`
    are looked up, not run: that takes the packages that decide. `kept`: what was read, so that the same load can be done again
    without the files.
    """

    graph: Graph
    inputs: tuple[Input, ...]
    warnings: tuple[Problem, ...]
    origins: Mapping[str, Origin] = field(repr=False)
    kept: Kept = field(repr=False)
    tests: tuple[Case, ...] = ()
    report: Report = field(repr=False)

    def problem(self, stage: str, code: str, path: TreePath, message: str, *, hint: str = "") -> Problem:
        """Return an error that was found later, at a path of the document, without what must not be shown."""
        return self.report.made(stage, code, self.report.tree.place(path), message, path=path, hint=hint)


def load(path: Path, environ: Mapping[str, str], kept: Kept | None = None) -> Loaded:
    """Read, check and compile the configuration at `path`; with `kept`, as its files were at that earlier load.

    Raise ConfigError with every problem found, warnings included, and with all inputs known so far: a change of any of them is a
    reason to try again. Blocks for as long as it takes (0.5 s for 2,000 models); call it where nothing else waits.
    """
    reader = Reader(kept)
    tree = Tree()
    report = Report(tree)
    filled = assemble(Path(path), environ, reader, report)
    graph: Graph | None = None
    cases: tuple[Case, ...] = ()
    if not report.failed("read") and not report.unparsed:
        schema = Schema.published()
        cast(filled, tree, schema.types_at)
        if tree.unresolved:
            stand_in(filled, tree, schema.example_at)
        fill_in(report)
        if not schema.accepts(tree.root):
            explain(schema, report)
        build = Build(report, reader, environ, _broken(report))
        graph = compile_graph(build)
        cases = compile_cases(build, graph)
    if graph is None or report.failed():
        raise ConfigError(report.problems, inputs=[one.path for one in reader.inputs])
    warnings = tuple(sorted(report.problems, key=lambda p: (p.file, p.line, p.column)))
    return Loaded(
        graph=graph,
        inputs=reader.inputs,
        warnings=warnings,
        origins=Origins(tree),
        kept=reader.kept(path),
        tests=cases,
        report=report,
    )


def _broken(report: Report) -> frozenset[tuple[str, str]]:
    """Return the entries (section, name) that the schema refused; (section, "") is a whole block."""
    out: set[tuple[str, str]] = set()
    for one in report.refused:
        if one:  # not a missing key of the top level: the rest stands for itself
            section = str(one[0])
            out.add((section, str(one[1]) if len(one) > 1 and section in SECTIONS else ""))
    return frozenset(out)
