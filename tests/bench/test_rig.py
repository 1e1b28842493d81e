"""The benchmark measures what it says: the mock answers, failures void a load, CPU and memory are of the right processes."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from tests.bench import rig
from tests.bench.report import Row, Target, table, target_table
from tests.bench.run import arguments
from tests.bench.sections import SECTIONS, many_models
from tests.bench.targets import targets

PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/m:streamGenerateContent",
    "ollama": "/api/chat",
}
TEXTS = {"openai": b'"content":"~', "anthropic": b'"text":"~', "gemini": b'"text":"~', "ollama": b'"content":"~'}


@pytest.fixture
def mock(tmp_path: pathlib.Path) -> Iterator[rig.Mock]:
    running = rig.Mock(tmp_path, rig.ANY)
    yield running
    running.stop()


def post(port: int, path: str, body: dict[str, object]) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return bytes(answer.read())


def ask_file(directory: pathlib.Path, *, stream: bool = False) -> list[pathlib.Path]:
    file = directory / "request"
    file.write_bytes(rig.request("mock-model", stream=stream))
    return [file]


@pytest.mark.parametrize("dialect", PATHS)
def test_the_mock_streams_in_each_dialect(mock: rig.Mock, dialect: str) -> None:
    mock.become(0, 3, 1000)
    assert post(mock.port, PATHS[dialect], {"stream": True}).count(TEXTS[dialect]) == 3


@pytest.mark.parametrize("dialect", PATHS)
def test_the_mock_answers_whole_in_each_dialect(mock: rig.Mock, dialect: str) -> None:
    path = PATHS[dialect].replace("streamGenerate", "generate")
    assert "xxxxxxxx" in json.dumps(json.loads(post(mock.port, path, {"stream": False} if dialect == "ollama" else {})))


def test_the_mock_tells_usage_only_when_it_is_asked_for(mock: rig.Mock) -> None:
    mock.become(0, 4, 0)
    plain = post(mock.port, PATHS["openai"], {"stream": True})
    assert plain.count(b"data: ") == 4 + 2
    assert plain.endswith(b"data: [DONE]\n\n")
    assert post(mock.port, PATHS["openai"], {"stream": True, "stream_options": {"include_usage": True}}).count(b"data: ") == 4 + 3


def test_a_load_counts_answers_and_their_cpu_is_seen(mock: rig.Mock, tmp_path: pathlib.Path) -> None:
    before_s = rig.cpu_s(rig.tree(mock.process.pid))
    seen = rig.put_load(tmp_path, mock.port, ask_file(tmp_path), rig.Load(connections=8, seconds=0.5), rig.ANY)
    assert seen.latency.count > 50
    assert 0 < seen.latency.p50 <= seen.latency.p99 <= seen.latency.max
    assert rig.cpu_s(rig.tree(mock.process.pid)) >= before_s
    assert rig.rss_mb([mock.process.pid])[0] > 0


def test_an_open_loop_asks_as_often_as_it_is_told(mock: rig.Mock, tmp_path: pathlib.Path) -> None:
    seen = rig.put_load(tmp_path, mock.port, ask_file(tmp_path), rig.Load(connections=4, seconds=0.5, rate=200), rig.ANY)
    assert seen.latency.count == 100


def test_chunks_of_streams_are_counted_and_timed(mock: rig.Mock, tmp_path: pathlib.Path) -> None:
    mock.become(20_000, 10, 5000)
    load = rig.Load(connections=20, seconds=0.01, chunks=10)
    seen = rig.put_load(tmp_path, mock.port, ask_file(tmp_path, stream=True), load, rig.ANY)
    assert (seen.latency.count, seen.delay.count, seen.gap.count) == (20, 200, 180)
    assert seen.first.p50 >= 20
    assert seen.delay.p50 < seen.first.p50


def test_a_stream_that_is_not_whole_voids_the_load(mock: rig.Mock, tmp_path: pathlib.Path) -> None:
    mock.become(0, 5, 0)
    with pytest.raises(rig.Void, match="a stream is not whole: 5 of 6 chunks"):
        rig.put_load(tmp_path, mock.port, ask_file(tmp_path, stream=True), rig.Load(seconds=0.1, chunks=6), rig.ANY)


@pytest.fixture
def refusing() -> Iterator[int]:
    """Give a port whose server answers once with 503, then cuts every connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        answers = [b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"]
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            client.recv(65536)
            client.sendall(answers.pop() if answers else b"")
            client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize("rate", [0.0, 50.0])
def test_a_failed_request_voids_the_load(refusing: int, tmp_path: pathlib.Path, rate: float) -> None:
    with pytest.raises(rig.Void, match=r"requests failed; the first: refused: HTTP/1\.1 503"):
        rig.put_load(tmp_path, refusing, ask_file(tmp_path), rig.Load(connections=1, seconds=0.2, rate=rate), rig.ANY)


def test_what_is_missing_is_named_with_its_package() -> None:
    with pytest.raises(rig.Void, match="no-such-tool is not installed and this needs it: apt-get install its-package"):
        rig.tool("no-such-tool", "its-package")


def row(section: str, case: str, gateway: str, cpu_us: float | None, **more: object) -> Row:
    return Row(section=section, case=case, gateway=gateway, cpu_us=cpu_us, **more)  # type: ignore[arg-type]  # any figure


def test_the_table_has_a_line_for_each_row_and_says_why_one_is_void() -> None:
    lines = table(
        [row("unary", "calm", "nginx", 11.0), row("unary", "calm", "routerd", None, void="a failed\nrequest")]
    ).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[0] == "section"
    assert lines[2].endswith("VOID: a failed request")


def test_targets_compare_rows_of_one_run() -> None:
    rows = [
        row("peers", "unary", "routerd all", 60.0, mb=50.0),
        row("peers", "unary", "vllm-router", 62.0),
        row("peers", "paced", "routerd", 16.0),
        row("peers", "paced", "nginx", 10.0),
        row("models", "full load", "routerd 10", 60.0),
        row("models", "full load", "routerd 10000", 61.0),
        row("bodies", "4 MB, calm", "routerd", 900.0, mb=80.0),
    ]
    found = {one.what: one for one in targets(rows)}
    assert found["unary CPU a request, all but the ledger: x vllm-router"].held
    assert not found["stream CPU a chunk: x nginx"].held
    assert found["10,000 models CPU a request: x 10"].held
    assert found["resident MB of a worker, 200 streams"].value == 50.0
    assert found["stream CPU a chunk: x vllm-router"].value is None
    assert "not measured" in target_table(found.values())


def test_a_target_that_was_not_measured_is_not_held() -> None:
    assert not Target(what="x", value=None, limit=1.0).held
    assert Target(what="x", value=1.0, limit=1.0).held
    assert not Target(what="x", value=1.0, limit=1.0, below=True).held
    assert Target(what="x", value=2.0, limit=1.0, least=True).held


def test_every_section_can_be_asked_for_by_its_name() -> None:
    assert arguments([*SECTIONS, "targets"]).sections == [*SECTIONS, "targets"]
    assert arguments([]).sections == []
    assert dict(arguments(["--peer", "litellm=/x/litellm"]).peer) == {"litellm": "/x/litellm"}


def test_a_configuration_of_many_models_has_so_many() -> None:
    assert many_models(100).count("chain:") == 100


def test_one_command_measures_and_writes_json(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "figures.json"
    argv = [sys.executable, str(rig.HERE / "run.py"), "translated", "bodies", "--quick", "--json", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert {one["gateway"] for one in rows if one["section"] == "translated"} > {"direct", "routerd", "routerd from gemini"}
    assert {one["gateway"] for one in rows if one["section"] == "bodies"} == {"direct", "nginx", "routerd"}
    assert all(one["cpu_us"] > 0 and one["mb"] > 0 for one in rows if one["gateway"] != "direct")
