"""What can be typed, and that no mistake of an operator ends in a traceback."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from routerd import VERSION_HEADER
from routerd.daemon.cli import _RUN as RUNS
from routerd.daemon.cli import main
from routerd.daemon.commands import live
from routerd.daemon.output.report import problem_as_json
from tests.daemon.fakes import problem


@pytest.mark.parametrize("command", RUNS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    example = capsys.readouterr().out.partition("example:\n  ")[2].partition("\n")[0]
    assert f"routerd {command} " in f"{example} "


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["serve", "--workers", "none"], "--workers: 'none'"),
        (["serve", "--listen", "nonsense"], "--listen: 'nonsense'"),
        (["status", "--admin", "nonsense"], "--admin: 'nonsense'"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_2(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("relaod --wait", "routerd: no command is called 'relaod'; did you mean reload? there are: init, import, serve, check,"),
        ("--verison", "routerd: there is no --verison; did you mean --version?\n"),
        ("status --fromat json", "routerd status: there is no --fromat; did you mean --format?\n"),
        ("explain --modle x", "routerd explain: there is no --modle; did you mean --model?\n"),
        ("status --format jsn", "routerd status: no format is called 'jsn'; did you mean json? there are: text, json\n"),
        ("import litelm f", "routerd import: no source is called 'litelm'; did you mean litellm? there are: litellm,"),
        ("serve my.yaml", "routerd serve: 'my.yaml' has no place here; a file is named with --config my.yaml\n"),
        ("check one two", "routerd check: 'two' has no place here\n"),
        ("drain gpu-a --zzzzz=1", "routerd drain: there is no --zzzzz\n"),
    ],
)
def test_a_slip_of_the_pen_is_told_what_was_meant(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    program = says.partition(":")[0]
    assert error.startswith(f"usage: {program} ")


def test_flags_may_be_abbreviated_and_values_may_look_like_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", "--conf", str(tmp_path / "none.yaml"), "--format=json"]) == 3
    assert main(["explain", "--model=--odd", "--config", str(tmp_path / "none.yaml")]) == 3


def test_without_a_command_it_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "usage: routerd" in error
    assert "routerd serve  " in error


def test_the_help_of_status_says_when_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    assert "1  not ready, or the files differ from what serves" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["nothing"], ["serve", "--no-such-flag"], ["explain"], ["check", "--format", "xml"]])
def test_what_is_no_command_is_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: routerd" in capsys.readouterr().err


def test_a_configuration_that_cannot_be_read_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.yaml")]) == 3
    assert main(["serve", "--config", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert "none.yaml does not exist" in error
    assert "Is a directory" in error


def test_a_port_in_use_is_exit_3_and_names_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (["--listen", used], ["--listen", "127.0.0.1:0", "--admin", used]):
            argv = [sys.executable, "-m", "routerd.daemon.cli", "serve", "--config", str(file), *flags]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 3
            assert "is another routerd running there (`routerd status`)?" in done.stderr
            assert f"choose another address with {flags[-2]}" in done.stderr
            assert "Traceback" not in done.stderr


def test_a_check_of_what_is_not_there_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.yaml")]) == 3
    assert main(["check", str(tmp_path)]) == 3
    assert main(["explain", "--model", "m", "--config", str(tmp_path / "none.yaml")]) == 3
    assert "the file does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["reload", "rollback", "history", "status"])
def test_a_daemon_that_is_not_there_is_exit_3(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    assert main([command, "--admin", where]) == 3
    error = capsys.readouterr().err
    assert f"cannot reach {where}" in error
    assert error.count("\n") == 1


def test_one_that_takes_connections_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "LOOK_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        where = f"127.0.0.1:{mute.getsockname()[1]}"
        assert main(["status", "--admin", where]) == 3
    assert capsys.readouterr().err == f"routerd: {where} did not answer within 0.2 s\n"


class Admin(http.server.BaseHTTPRequestHandler):
    """A scripted admin listener: one list of (status, body) a path, the last one repeats."""

    script: ClassVar[dict[str, list[tuple[int, Any]]]] = {}
    says_routerd: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        answers = self.script[self.path]
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        if self.says_routerd:
            self.send_header(VERSION_HEADER, "1")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[tuple[str, dict[str, list[tuple[int, Any]]]]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Admin.script, Admin.says_routerd, Admin.asked = {"/-/live": [(200, b"live")]}, True, []
    yield f"127.0.0.1:{server.server_port}", Admin.script
    server.shutdown()
    server.server_close()


def told(**changes: Any) -> dict[str, Any]:
    workers = [
        {"worker": i, "pid": 10 + i, "up": True, "generation": 2, "digest": "d2", "inflight": 0, "restarts": 0} for i in (0, 1)
    ]
    base = {
        "version": "1",
        "pid": 9,
        "uptime_s": 1.0,
        "ready": True,
        "generation": 2,
        "digest": "d2",
        "config": "routes.yaml",
        "models": 1,
        "drift": False,
        "disabled": {"providers.x": "KEY is not set"},
        "endpoints": [
            {"endpoint": "gpu-a", "rank": "drained", "reasons": ["drained by hand"], "inflight": 2},
            {"endpoint": "gpu-b", "rank": "free", "reasons": [], "inflight": 1},
        ],
        "last_reload": {"result": "applied", "trigger": "file", "problems": []},
        "workers": workers,
    }
    return base | changes


APPLIED = {"result": "applied", "generation": 2, "digest": "d2"}


def test_reload_says_what_serves(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where, script = admin
    script["/-/reload"] = [(200, APPLIED)]
    assert main(["reload", "--admin", where]) == 0
    assert capsys.readouterr().out == "applied: generation 2, digest d2\n"


def test_reload_with_wait_returns_when_every_worker_serves_it(admin: Any) -> None:
    where, script = admin
    late = told()
    late["workers"][1]["digest"] = ""
    script["/-/reload"] = [(200, APPLIED)]
    script["/-/status"] = [(200, late), (200, told())]
    assert main(["reload", "--wait", "--admin", where]) == 0
    assert len(script["/-/status"]) == 1


def test_reload_with_wait_says_when_another_one_came_after_it(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where, script = admin
    script["/-/reload"] = [(200, APPLIED)]
    script["/-/status"] = [(200, told(digest="d3"))]
    assert main(["reload", "--wait", "--admin", where]) == 1
    assert "another reload" in capsys.readouterr().err


def test_status_names_the_endpoints_that_something_stands_against(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where, script = admin
    script["/-/status"] = [(200, told())]
    assert main(["status", "--admin", where]) == 0
    out = capsys.readouterr().out
    assert "endpoint gpu-a: drained, 2 in flight; drained by hand" in out
    assert "gpu-b" not in out


def test_the_admin_address_may_be_written_as_serve_prints_it(admin: Any) -> None:
    where, script = admin
    script["/-/status"] = [(200, told())]
    assert main(["status", "--admin", f"http://{where}/"]) == 0


@pytest.mark.parametrize("what", ["drain", "undrain"])
def test_an_endpoint_is_drained_by_its_name(admin: Any, capsys: pytest.CaptureFixture[str], what: str) -> None:
    where, script = admin
    script[f"/-/endpoints/gpu%2Fa/{what}"] = [(200, {"inflight": 3}), (404, {"error": "there is no endpoint"})]
    assert main([what, "gpu/a", "--admin", where]) == 0
    assert capsys.readouterr().out == f"{what}ed: gpu/a, 3 in flight\n"
    assert main([what, "gpu/a", "--admin", where]) == 1
    assert "there is no endpoint" in capsys.readouterr().err


def test_status_is_1_when_the_files_differ_from_what_serves(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where, script = admin
    failed = {"result": "schema", "trigger": "file", "problems": [problem_as_json(problem())]}
    script["/-/status"] = [(200, told(drift=True, last_reload=failed))]
    assert main(["status", "--admin", where]) == 1
    out = capsys.readouterr().out
    assert "last reload: refused, schema: 1 problem (file)" in out
    assert "routes.yaml:3:5: error[unknown-key] models.m: wrong" in out
    script["/-/status"] = [(200, told())]
    assert main(["status", "--format", "json", "--admin", where]) == 0
    assert json.loads(capsys.readouterr().out)["generation"] == 2


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"generation": 3}'])
def test_something_else_at_the_admin_address_is_exit_3(admin: Any, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    where, script = admin
    Admin.says_routerd = False
    script["/-/status"] = [(200, body)]
    assert main(["status", "--admin", where]) == 3
    assert "not the admin listener" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["reload"], ["rollback", "3"], ["drain", "gpu"], ["undrain", "gpu"], ["diff"]])
def test_an_order_is_given_to_nobody_but_routerd(admin: Any, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Prometheus has a `POST /-/reload`, too."""
    where, script = admin
    Admin.says_routerd = False
    script["/-/live"] = [(404, b"404 page not found")]
    assert main([*argv, "--admin", where]) == 3
    assert "not the admin listener" in capsys.readouterr().err
    assert Admin.asked == ["GET /-/live"]
