"""`routerd fmt`: files are replaced as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from routerd.daemon.cli import main

UGLY, NEAT = "a:\n    b:   1 \n", "a:\n  b:   1\n"


def test_a_file_gets_the_layout_and_keeps_its_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, link = tmp_path / "real.yaml", tmp_path / "routes.yaml"
    file.write_text(UGLY)
    file.chmod(0o640)
    link.symlink_to(file)
    assert main(["fmt", str(link)]) == 0
    assert capsys.readouterr().out == f"{link}: formatted\n"
    assert (file.read_text(), file.stat().st_mode & 0o777, link.is_symlink()) == (NEAT, 0o640, True)
    assert main(["fmt", str(link)]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(one.name for one in tmp_path.iterdir()) == ["real.yaml", "routes.yaml"]


def test_check_changes_nothing_and_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ugly, neat = tmp_path / "ugly.yaml", tmp_path / "neat.yaml"
    ugly.write_text(UGLY)
    neat.write_text(NEAT)
    assert main(["fmt", "--check", str(neat), str(ugly)]) == 1
    assert capsys.readouterr().out == f"{ugly}: would change\n"
    assert ugly.read_text() == UGLY
    assert main(["fmt", "--check", str(neat)]) == 0


def test_without_a_name_it_is_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(UGLY)
    monkeypatch.setenv("ROUTERD_CONFIG", str(tmp_path / "mine.yaml"))
    assert main(["fmt"]) == 0
    assert (tmp_path / "mine.yaml").read_text() == NEAT


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"a: [1\n", 2, "error[not-closed]"),
        (b"? '\n\n   '\n:  - null\n   - ''\n", 2, "left as it is"),
        (b"a: \xff\n", 2, "is not UTF-8: byte 0xff at offset 3; left as it is"),
        (None, 3, "No such file"),
    ],
)
def test_what_cannot_be_formatted_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes | None, status: int, says: str
) -> None:
    file = tmp_path / "routes.yaml"
    if data is not None:
        file.write_bytes(data)
    assert main(["fmt", str(file)]) == status
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""
    assert data is None or file.read_bytes() == data
