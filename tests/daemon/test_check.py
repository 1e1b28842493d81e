"""`routerd check`, `test` and `schema`: what they print, for people and for programs, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from routerd.config import schema_json
from routerd.daemon.cli import main

GOOD = """version: 1
providers: {demo: {dialect: simulator}}
models: {m: {chain: [demo/x]}}
clients: {c: {key: abc, models: [nothing]}}
"""
TESTS = """tests:
  - {name: holds, given: {model: m}, expect: {target: demo/x}}
  - {name: "fails: too", given: {model: m}, expect: {target: demo/y, status: 404}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "routes.yaml"


def test_check_runs_the_tests_and_is_2_when_one_fails(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD + TESTS.splitlines()[0] + "\n" + TESTS.splitlines()[1] + "\n")
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "warning[unused-pattern]" in out
    assert "fine (1 model, 1 provider, 1 test, digest" in out
    file.write_text(GOOD + TESTS)
    assert main(["check", "--config", str(file)]) == 2
    assert "error[test-failed] tests[1].expect.target: fails: too: expected target demo/y, got demo/x" in capsys.readouterr().out


def test_check_as_json_names_the_stage(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD + TESTS)
    assert main(["check", str(file), "--format", "json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["result"]) == (False, "tests")
    assert [problem["severity"] for problem in told["problems"]] == ["warning", "error", "error"]


def test_check_for_github_marks_lines_and_escapes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = file.with_name("a,b:100%.yaml")
    odd.write_text(GOOD + TESTS)
    assert main(["check", str(odd), "--format", "github"]) == 2
    warning, error, other = capsys.readouterr().out.splitlines()
    place = f"file={odd.parent}/a%2Cb%3A100%25.yaml"
    assert warning == (
        f"::warning {place},line=4,col=34,title=routerd unused-pattern::clients.c.models[0]: 'nothing' matches no model"
    )
    assert error == (
        f"::error {place},line=7,col=62,title=routerd test-failed::tests[1].expect.target: fails: too: "
        "expected target demo/y, got demo/x (the plan is [demo/x])"
    )
    assert other.startswith("::error ")


def test_check_is_3_for_what_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.mkdir()
    assert main(["check", str(file), "--format", "github"]) in (2, 3)
    assert capsys.readouterr().out.startswith("::error file=")


def test_test_says_how_each_ended_and_why(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD + TESTS)
    assert main(["test", "--config", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok     holds",
        "FAILED fails: too",
        f"       expected target demo/y, got demo/x  [{file}:7:62]",
        f"       expected status 404, got 200  [{file}:7:78]",
        "       the plan is [demo/x]",
        "1 of 2 failed",
    ]


def test_test_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD + TESTS)
    assert main(["test", "--config", str(file), "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["ok"]) for one in told["tests"]] == [("holds", True), ("fails: too", False)]
    assert told["tests"][1]["problems"][0]["line"] == 7


def test_test_without_tests_is_fine_and_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert main(["test", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "no tests: the configuration has no `tests`\n"


def test_test_of_an_invalid_file_is_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("version: 2\n")
    assert main(["test", "--config", str(file)]) == 2
    assert capsys.readouterr().out == ""


def test_the_schema_goes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "schema.json"
    assert main(["schema", "--out", str(out)]) == 0
    assert out.read_text() == schema_json()
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_json()
    assert main(["schema", "--out", str(tmp_path / "no" / "where")]) == 3
