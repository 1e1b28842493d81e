"""The README is a test: its commands are the ones that run, its YAML compiles, its flags, keys and words exist."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import tomllib

import pytest

from routerd.config import load
from tests.support.daemon import ROUTERD
from tests.support.process import clean_environ

REPO = pathlib.Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_commands_are_one_line_each_and_stand_at_the_top() -> None:
    start, tests = COMMANDS[:2]
    assert start.count("\n") == tests.count("\n") == 1
    assert start.startswith("python3 -m venv")
    assert start.rstrip().endswith("routerd serve")
    assert tests.rstrip().endswith("-m pytest -q -n auto")
    assert README.index(tests) < README.index("\n## ")


def test_ci_runs_the_very_test_command_of_the_readme() -> None:
    assert COMMANDS[1] in (REPO / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_valid_shell(command: str) -> None:
    subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_compiles_without_a_warning(snippet: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(snippet if snippet.startswith("version:") else "version: 1\n" + snippet)
    loaded = load(path, dict.fromkeys(re.findall(r"\$\{(\w+)", snippet), "sk-test"))
    assert loaded.graph.routes
    assert loaded.warnings == ()


def test_the_error_of_the_tour_is_the_one_you_get(tmp_path: pathlib.Path) -> None:
    tour = SNIPPETS[0]
    broken = tour.replace("chain: [local", "chian: [local")
    assert broken != tour
    (tmp_path / "routes.yaml").write_text(broken)
    done = subprocess.run(
        [*ROUTERD, "check", "routes.yaml"], cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    shown = re.search(r"^```text\n(routes\.yaml.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert shown is not None
    said = {line.strip() for line in (done.stdout + done.stderr).splitlines()}
    for line in shown[1].splitlines():
        assert line.strip() in said, done.stdout + done.stderr


def test_the_snippets_show_every_key_of_the_schema() -> None:
    schema = json.loads((REPO / "schema" / "routes.schema.json").read_text())
    missing = [key for key in schema["properties"] if not key.startswith(("$", "x-")) and not re.search(rf"\b{key}\b", README)]
    assert missing == []


def test_every_run_time_package_has_a_reason() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    table = README.split("## Why these packages")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| ([a-z][\w-]+) \|", table, re.MULTILINE)) - {"package"} == named


def test_the_flags_exist() -> None:
    for command in ("serve", "check", "explain", "reload", "status"):
        row = next(line for line in README.splitlines() if line.startswith("| `routerd") and f"routerd {command} " in line)
        shown = subprocess.run(
            [*ROUTERD, command, "--help"], env=clean_environ(), capture_output=True, text=True, check=True
        ).stdout
        part = row.split(f"routerd {command} ")[1].split("`")[0]
        for flag in re.findall(r"--[a-z-]+", part):
            assert flag in shown, f"{command} {flag}"
