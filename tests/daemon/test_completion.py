"""The completion of each shell offers what the command line takes: asked of a real bash, zsh (at a terminal) and fish."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from routerd.daemon.cli import main

SHELLS = ("bash", "zsh", "fish")
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
def test_bash_offers_what_fits(words: list[str], offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "routes.yaml").write_text("")
    argv = ["bash", "-c", ASK_BASH, "bash", str(script("bash", tmp_path, capsys)), "routerd", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.splitlines()) == offered
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("routerd sta", {"status"}),
        ("routerd status --f", {"--format"}),
        ("routerd status --format ", {"text", "json"}),
        ("routerd check --format g", {"github"}),
        ("routerd serve --config rou", {"routes.yaml"}),
        ("routerd check rou", {"routes.yaml"}),
        ("routerd completion z", {"zsh"}),
        ("routerd explain --model ", set()),
        ("routerd nonsense ", set()),
    ],
)
def test_fish_offers_what_fits(line: str, offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "routes.yaml").write_text("")
    ask = f"source {script('fish', tmp_path, capsys)}; cd {tmp_path}; complete -C {line!r}"
    done = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
    assert {row.partition("\t")[0] for row in done.stdout.splitlines()} == offered
    assert done.stderr == ""


@pytest.fixture
def zsh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], str]]:
    """Give a function that types at a zsh, presses the tabulator, and returns what stands there then."""
    (tmp_path / "routes.yaml").write_text("")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        argv = ["zsh", "-f", "-i", "+o", "prompt_sp", "+o", "prompt_cr"]  # the prompt, and nothing before it
        os.execvpe("zsh", argv, {**os.environ, "TERM": "dumb", "PS1": "zsh-> "})

    def until(mark: str) -> str:
        seen, ends_at_s = "", time.monotonic() + 20
        while mark not in seen and time.monotonic() < ends_at_s:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536).decode(errors="replace")
        assert mark in seen
        return seen

    def typed(line: str) -> str:
        # ^A and ^E: to the begin and the end of the line, which becomes the word of a print.
        os.write(terminal, f'{line}\t\x01print -r -- "<\x05>"\n'.encode())
        return until(">\r\nzsh-> ").rpartition("\n<")[2].partition(">")[0]

    until("zsh-> ")
    load = f"autoload -Uz compinit && compinit -u -D; source {script('zsh', tmp_path, capsys)}; print LOAD''ED\n"
    os.write(terminal, load.encode())
    until("LOADED\r\nzsh-> ")
    yield typed
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)


def test_zsh_completes_what_fits(zsh: Callable[[str], str]) -> None:
    whole = ["status", "status --format json", "check --format github", "serve --config routes.yaml", "check routes.yaml",
             "completion fish"]  # fmt: skip
    assert [zsh(f"routerd {line[:-3]}") for line in whole] == [f"routerd {line}" for line in whole]
    assert zsh("routerd nonsen") == "routerd nonsen"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_valid_in_its_shell(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([shell, "-n", str(script(shell, tmp_path, capsys))], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_flag_is_in_it(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, tmp_path, capsys).read_text()
    for word in ("serve", "init", "undrain", "allow-removal", "drain-timeout", "github"):
        assert word in text
