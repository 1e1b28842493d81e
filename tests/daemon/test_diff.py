"""`routerd diff`: sentences for people, plain values for programs, and an exit status for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from routerd.config import diff, load
from routerd.daemon.cli import main
from routerd.daemon.workers.generation import pack, unpack

OLD = """version: 1
providers: {demo: {dialect: simulator}}
models: {m: {aliases: [fast], chain: [demo/x]}}
budgets: {b: {tokens: 2000, per: 1d}}
"""


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(OLD.replace("aliases: [fast], ", "").replace("tokens: 2000", "tokens: 1000"))
    return tmp_path / "old.yaml", tmp_path / "new.yaml"


def test_a_difference_is_1_and_says_what_it_means(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--against", str(two[0]), "--config", str(two[1])]) == 1
    assert capsys.readouterr().out == "- drops alias fast\n~ budget b: limit 2,000 -> 1,000  (used is kept)\n"


def test_the_same_is_0(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    two[1].write_text("# another comment\n" + OLD)
    assert main(["diff", "--against", str(two[0]), "--config", str(two[1])]) == 0
    assert capsys.readouterr().out == f"{two[1]} changes nothing against {two[0]}\n"


def test_as_json(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--against", str(two[0]), "--config", str(two[1]), "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["from"], told["to"]) == (False, str(two[0]), str(two[1]))
    assert told["changes"][1] == {
        "path": "budgets.b.tokens", "kind": "changed", "text": "budget b: limit 2,000 -> 1,000", "state": "used is kept",
    }  # fmt: skip


def test_what_is_invalid_is_2_and_what_is_not_there_3(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--against", str(two[0].with_name("none.yaml")), "--config", str(two[1])]) == 3
    two[1].write_text("version: 2\n")
    assert main(["diff", "--against", str(two[0]), "--config", str(two[1])]) == 2
    assert capsys.readouterr().out == ""


def test_a_generation_that_was_packed_is_compared_like_any_other(two: tuple[Path, Path]) -> None:
    old, new = (load(file, {}).graph for file in two)
    again = unpack(pack(1, old))
    assert diff(again, old) == ()
    assert diff(again, new) == diff(old, new) != ()
