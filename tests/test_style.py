"""Lint, types and import rules are tests: the same command that runs the tests runs them."""

from __future__ import annotations

import ast
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted((REPO / "routerd").rglob("*.py"))
LONGEST_FILE_LINES = 550
LONGEST_FUNCTION_LINES = 46
PURE = {"graph", "policy", "plan", "health", "wire"}


def run(*argv: str) -> None:
    """Run a tool of this environment; its findings are the failure."""
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"


def tool(name: str) -> str:
    """Return the path of a command that is installed beside this interpreter."""
    found = shutil.which(name, path=str(pathlib.Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed: pip install -e '.[test]'"
    return found


def test_no_gap_is_wider_than_two_lines() -> None:
    """The linter sees it only in its preview mode."""
    texts = {path: path.read_text() for root in ("routerd", "tests") for path in (REPO / root).rglob("*.py")}
    wide = [str(path) for path, text in texts.items() if "\n\n\n\n" in text or text.endswith("\n\n")]
    assert wide == []


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", ".")


def test_types_hold_in_strict_mode() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports_go_downwards_only() -> None:
    run(tool("lint-imports"), "--no-cache")


def test_every_package_is_a_layer_of_the_import_rules() -> None:
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    there = {p.stem for p in (REPO / "routerd").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there - {"__init__"} == named


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPO)))
def test_a_module_says_what_it_is_and_stays_small(path: pathlib.Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert text.count("\n") <= LONGEST_FILE_LINES
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [
        f"{f.name}: {f.end_lineno - f.lineno + 1}"
        for f in functions
        if f.end_lineno and f.end_lineno - f.lineno >= LONGEST_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.relative_to(REPO).parts[1] in PURE], ids=lambda p: str(p.relative_to(REPO))
)
def test_pure_packages_take_chance_from_outside(path: pathlib.Path) -> None:
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    used = {f"{f.value.id}.{f.attr}" for f in calls if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)}
    assert not {name for name in used if name.startswith("random.") and name != "random.Random"}
