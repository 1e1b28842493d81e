"""The completion of each shell offers what the command line takes; bash is always run, the others where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from routerd.daemon.cli import main

THERE = [shell for shell in ("bash", "zsh", "fish") if shell == "bash" or shutil.which(shell)]
ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _routerd; printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", shell]) == 0
    file = tmp_path / f"completion.{shell}"
    file.write_text(capsys.readouterr().out)
    return file


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sta"], {"status"}),
        (["status", "--f"], {"--format"}),
        (["status", "--format", ""], {"text", "json"}),
        (["check", "--format", "g"], {"github"}),
        (["serve", "--config", "rou"], {"routes.yaml"}),
        (["check", "rou"], {"routes.yaml"}),
        (["completion", "z"], {"zsh"}),
        (["explain", "--model", ""], {""}),
        (["nonsense", ""], {""}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bash_offers_what_fits(
    words: list[str], offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "routes.yaml").write_text("")
    argv = ["bash", "-c", ASK_BASH, "bash", str(script("bash", tmp_path, capsys)), "routerd", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.splitlines()) == offered
    assert done.stderr == ""


@pytest.mark.parametrize("shell", THERE)
def test_the_script_is_valid_in_its_shell(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([shell, "-n", str(script(shell, tmp_path, capsys))], check=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_flag_is_in_it(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, tmp_path, capsys).read_text()
    for word in ("serve", "init", "undrain", "allow-removal", "drain-timeout", "github"):
        assert word in text
