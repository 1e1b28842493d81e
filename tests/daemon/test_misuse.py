"""Mistakes of an operator at every command that reads a file: a line that names it, the right exit status, no traceback."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest

from routerd.daemon.cli import main
from routerd.daemon.commands.syntax import MOST_BYTES
from tests.support.daemon import ROUTERD
from tests.support.process import clean_environ

GOOD = "version: 1\nproviders:\n  demo: {dialect: simulator}\nmodels:\n  m: {chain: [demo/echo]}\n"
COMMANDS = {
    "check": ["check", "FILE"],
    "test": ["test", "--config", "FILE"],
    "explain": ["explain", "--model", "m", "--config", "FILE"],
    "fmt": ["fmt", "--check", "FILE"],
    "diff": ["diff", "--config", "FILE", "--against", "good.yaml"],
    "diff the other": ["diff", "--config", "good.yaml", "--against", "FILE"],
    "rehearse": ["rehearse", "FILE"],
    "litellm": ["import", "litellm", "FILE"],
    "llama-swap": ["import", "llama-swap", "FILE"],
}
UNREADABLE = ("missing", "directory")


@pytest.fixture(params=["missing", "directory", "binary", "huge"])
def bad(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the kind of a file `bad.yaml` in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    file = tmp_path / "bad.yaml"
    match request.param:
        case "directory":
            file.mkdir()
        case "binary":
            file.write_bytes(b"\xff\x00" + random.Random(1).randbytes(5000))
        case "huge":
            with file.open("wb") as out:
                out.truncate(MOST_BYTES + 1)
    return str(request.param)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_used_is_named(command: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [word.replace("FILE", "bad.yaml") for word in COMMANDS[command]]
    status = main(argv)
    said = capsys.readouterr()
    text = said.out + said.err
    assert "bad.yaml" in text
    assert "Traceback" not in text
    assert status == (3 if bad in UNREADABLE else 2)
    assert text.count("\n") <= 4


def test_a_missing_configuration_is_told_how_to_come_by_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROUTERD_CONFIG", raising=False)
    assert main(["check"]) == 3
    assert "routerd init" in capsys.readouterr().out


LONG = {
    "schema": ["schema"],
    "completion": ["completion", "zsh"],
    "check": ["check", "good.yaml"],
    "explain": ["explain", "--model", "m", "--config", "good.yaml"],
    "openrouter": ["import", "openrouter", "--url", "http://127.0.0.1:9"],
}


@pytest.mark.parametrize("command", LONG)
def test_output_that_nobody_takes_is_no_traceback(command: str, tmp_path: pathlib.Path) -> None:
    """A pipe that is closed, a disk that is full, no standard output at all, no locale, no home."""
    (tmp_path / "good.yaml").write_text(GOOD)

    def run(**how: object) -> tuple[int, str]:
        argv = [*ROUTERD, *LONG[command]]
        done = subprocess.run(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True, **how)  # type: ignore[call-overload]
        return done.returncode, done.stderr.partition("://")[0]

    plain = clean_environ()
    bare = {**{name: plain[name] for name in ("PATH", "PYTHONPATH")}, "LC_ALL": "C", "TERM": "dumb", "PYTHONUTF8": "0"}
    reader, writer = os.pipe()
    os.close(reader)
    expected = "routerd: cannot write to standard output: No space left on device\n"
    with open("/dev/full", "w") as full:
        status, said = run(stdout=full, env=plain)
    assert status == 3
    assert said.endswith(expected)
    for how in ({"stdout": writer, "env": plain}, {"preexec_fn": lambda: os.close(1), "env": plain}, {"stdout": -3, "env": bare}):
        status, said = run(**how)
        assert status == 0
        assert "Traceback" not in said
        assert "Exception ignored" not in said
    os.close(writer)


INTERRUPTED = """
import os, signal, sys
from routerd.daemon import entry

moment = sys.argv.pop(1)

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == moment:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.exit(entry.main())
"""


@pytest.mark.parametrize(
    ("moment", "status"),
    [("routerd.daemon.cli", -signal.SIGINT), ("routerd.daemon.commands.usage", -signal.SIGINT), ("yaml", 130)],
    ids=["at its begin", "while it imports", "in the command"],
)
def test_an_interrupt_is_no_traceback_whenever_it_comes(moment: str, status: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    argv = [sys.executable, "-c", INTERRUPTED, moment, "check", "good.yaml"]
    done = subprocess.run(argv, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
