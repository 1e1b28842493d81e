"""The benchmark measures what it says: the mock answers, failures void a run, CPU and memory are of the right processes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from tests.bench import rig, run


@pytest.fixture
def mock(tmp_path: pathlib.Path) -> Iterator[tuple[int, rig.Pinned]]:
    port = rig.free_port()
    argv = [str(rig.compile_upstream(tmp_path)), str(port), "1000", "4", "1000"]
    process = rig.Pinned("mock", argv, rig.LOAD_CORE, tmp_path)
    process.wait_port(port)
    yield port, process
    process.stop()


def post(port: int, body: dict[str, object]) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return bytes(answer.read())


def test_the_mock_answers_whole_and_streamed_with_usage_when_asked(mock: tuple[int, rig.Pinned]) -> None:
    port = mock[0]
    assert json.loads(post(port, {"model": "m"}))["usage"]["completion_tokens"] == 4
    plain = post(port, {"stream": True})
    assert plain.count(b"data: ") == 4 + 2
    assert plain.endswith(b"data: [DONE]\n\n")
    asked = post(port, {"stream": True, "stream_options": {"include_usage": True}})
    assert asked.count(b"data: ") == 4 + 3


async def test_streams_are_held_to_their_end_and_memory_is_read_meanwhile(mock: tuple[int, rig.Pinned]) -> None:
    port, process = mock
    total, largest = await rig.streams(port, 50, process.pid)
    assert 0 < largest <= total < 100


def test_wrk_counts_requests_and_their_cpu_is_seen(mock: tuple[int, rig.Pinned]) -> None:
    port, process = mock
    before_s = rig.cpu_s(rig.tree(process.pid))
    load = rig.wrk(port, connections=8, seconds=1)
    assert load.requests > 50
    assert load.p99
    assert rig.cpu_s(rig.tree(process.pid)) >= before_s


def test_a_failed_request_voids_the_run() -> None:
    with pytest.raises(rig.Void):
        rig.wrk(rig.free_port(), connections=1, seconds=1)


async def test_a_refused_stream_voids_the_run(mock_refusing: int) -> None:
    with pytest.raises(rig.Void, match="of 2 streams failed"):
        await rig.streams(mock_refusing, 2, os.getpid())


@pytest.fixture
def mock_refusing(tmp_path: pathlib.Path) -> Iterator[int]:
    port = rig.free_port()
    process = rig.Pinned(
        "files", [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], rig.LOAD_CORE, tmp_path
    )
    process.wait_port(port)
    yield port
    process.stop()


def test_the_table_has_one_line_a_gateway() -> None:
    rows = [run.Row(gateway="nginx", cpu_us_per_request=11.0), run.Row(gateway="routerd", void="a failed request")]
    lines = run.table(rows).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[0] == "gateway"
    assert lines[2].endswith("a failed request")


def test_one_command_measures_routerd_and_writes_json(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "figures.json"
    argv = [
        sys.executable,
        str(rig.HERE / "run.py"),
        "--seconds",
        "1",
        "--streams",
        "20",
        "--only",
        "routerd",
        "--json",
        str(out),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(out.read_text())["rows"][0]
    assert row["gateway"] == "routerd"
    assert row["cpu_us_per_request"] > 0
    assert row["cpu_us_per_chunk"] > 0
    assert row["idle_mb"] > 0
