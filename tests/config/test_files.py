"""Whole files: each *.bad.yaml is refused with exactly the problems its first line names, each *.good.yaml compiles."""

from __future__ import annotations

import pathlib

import pytest

from routerd.config import load, render
from routerd.errors import ConfigError, Problem

DATA = pathlib.Path(__file__).parent / "data"
BAD = sorted(DATA.glob("*.bad.yaml"))
GOOD = sorted(DATA.glob("*.good.yaml"))


def environment(text: str) -> dict[str, str]:
    """Return the variables of the `# env: NAME=value` lines."""
    pairs = (line.removeprefix("# env: ").partition("=") for line in text.splitlines() if line.startswith("# env: "))
    return {name: value for name, _, value in pairs}


def written(problem: Problem, main: pathlib.Path) -> str:
    """Return a problem as the first line of a file has it."""
    name = "" if problem.file == str(main) else f"{pathlib.Path(problem.file).name} "
    place = f"{problem.line}:{problem.column} {problem.severity}[{problem.code}] {problem.path}: {problem.message}"
    return (name + place).replace(f"{DATA}/", "").replace("\n", "\\n")


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 70
    assert len(GOOD) >= 6


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.name.split(".")[0])
def test_a_bad_file_is_refused_with_every_problem_in_it(path: pathlib.Path) -> None:
    text = path.read_text()
    expected = text.split("\n", 1)[0].removeprefix("# expect: ").split(" | ")
    with pytest.raises(ConfigError) as caught:
        load(path, environment(text))
    assert [written(problem, path) for problem in caught.value.problems] == expected
    assert path in caught.value.inputs


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.name.split(".")[0])
def test_the_report_of_a_bad_file_shows_lines_and_no_value_from_outside(path: pathlib.Path) -> None:
    environ = environment(path.read_text())
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    text = render(caught.value.problems)
    # The comment of this very file that sets the variable is the file's own text; no line shown is that one.
    for value in environ.values():
        assert value not in text
        assert value not in repr(caught.value.problems)
    for problem in caught.value.problems:
        assert f"error[{problem.code}]" in text
        assert problem.line > 0
        assert problem.source or problem.code in ("empty-file", "tab")


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.name.split(".")[0])
def test_a_good_file_compiles_without_a_word(path: pathlib.Path) -> None:
    loaded = load(path, {})
    assert not loaded.warnings
    assert len(loaded.graph.digest) == 64


def test_every_code_of_the_product_has_a_bad_file_or_a_test_here() -> None:
    """A new problem code needs a file that shows it."""
    import re

    sources = "".join(p.read_text() for p in (DATA.parents[2] / "routerd" / "config").rglob("*.py"))
    used = set(
        re.findall(
            r'"((?:bad|unknown|missing|unreachable|duplicate|conflicting|too|alias|no|zero|unresolved|un[a-z]+)-[a-z-]+)"',
            sources,
        )
    )
    shown = set(re.findall(r"error\[([a-z-]+)\]", "".join(p.read_text().split("\n", 1)[0] for p in BAD)))
    elsewhere = {"bad-encoding", "too-deep", "too-many-nodes", "alias-bomb", "too-many-files", "too-many", "unreadable-file"}
    assert used - shown - elsewhere - {"unused-pattern", "no-price", "no-match", "no-path"} == set()
