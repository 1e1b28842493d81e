"""Real processes: signals, bad files, workers that die or stand still."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable

import pytest

from tests.support.daemon import ROUTERD, Daemon, until
from tests.support.process import clean_environ

pytestmark = pytest.mark.e2e

Start = Callable[..., Daemon]
DEMO = "version: 1\nproviders: {demo: {dialect: simulator, simulator: {first_token: 1ms}}}\nmodels: {m: {chain: [demo/echo]}}\n"
KEYED = DEMO + "clients: {c: {key: abc}}\n"
BAD = DEMO.replace("chain", "chian")
SLOW = DEMO.replace("first_token: 1ms", "first_token: 60s")


def command(*args: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ROUTERD, *args], cwd=cwd, env=clean_environ(), capture_output=True, text=True, timeout=30, check=False
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def last_reload(running: Daemon) -> dict[str, object]:
    found: dict[str, object] = (await running.status())["last_reload"]
    return found


async def reloaded(running: Daemon, trigger: str, result: str) -> None:
    async def so() -> bool:
        last = await last_reload(running)
        return (last["trigger"], last["result"]) == (trigger, result)

    await until(so)


async def hold_a_request(running: Daemon) -> asyncio.StreamWriter:
    """Send a request that the simulator answers after a minute, and return when it is in flight."""
    _, writer = await asyncio.open_connection(*running.address)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)

    async def in_flight() -> bool:
        return sum(worker["inflight"] for worker in (await running.status())["workers"]) == 1

    await until(in_flight)
    return writer


async def test_a_bad_edit_keeps_what_serves_says_so_everywhere_and_is_logged_once(daemon: Start) -> None:
    running = daemon(DEMO)
    good = await running.status()
    running.write(BAD)
    await reloaded(running, "file", "schema")
    status = await running.status()
    assert (status["generation"], status["digest"], status["drift"], status["ready"]) == (1, good["digest"], True, True)
    assert status["last_reload"]["problems"][0]["line"] == 3
    metrics = await running.metrics()
    assert metrics["routerd_config_last_reload_successful"] == 0
    assert metrics["routerd_config_drift"] == 1
    assert metrics['routerd_config_reloads_total{result="schema",trigger="file"}'] == 1
    address = running.admin.removeprefix("http://")
    done = await asyncio.to_thread(command, "reload", "--admin", address, cwd=running.config.parent)
    assert done.returncode == 2
    assert "did you mean 'chain'" in done.stderr
    running.process.signal(signal.SIGHUP)
    await reloaded(running, "signal", "schema")
    assert running.process.output.count("did you mean 'chain'") == 1
    running.write(DEMO + "# a comment\n")
    await reloaded(running, "file", "unchanged")
    status = await running.status()
    assert (status["generation"], status["drift"]) == (1, False)
    assert (await running.metrics())["routerd_config_last_reload_successful"] == 1


async def test_a_missing_file_keeps_what_serves_and_its_return_is_seen(daemon: Start) -> None:
    running = daemon(DEMO)
    running.config.unlink()
    await reloaded(running, "file", "read")
    assert (await running.metrics())["routerd_config_file_present"] == 0
    running.config.write_text(DEMO.replace("models: {m:", "models: {n:"))
    await running.generation(2)
    assert (await running.metrics())["routerd_config_file_present"] == 1
    assert running.process.output.count("routes.yaml is missing") == 1
    assert running.process.output.count("routes.yaml is back") == 1


async def test_reload_with_wait_returns_when_all_workers_serve_it(daemon: Start) -> None:
    running = daemon(DEMO, args=["--workers", "2"])
    running.write(DEMO.replace("models: {m:", "models: {n:"))
    address = running.admin.removeprefix("http://")
    done = await asyncio.to_thread(command, "reload", "--wait", "--admin", address, cwd=running.config.parent)
    assert done.returncode == 0, done.stderr
    status = await running.status()
    assert [worker["generation"] for worker in status["workers"]] == [2, 2]
    assert {worker["digest"] for worker in status["workers"]} == {status["digest"]}


async def test_clients_cannot_be_removed_while_the_address_is_public(daemon: Start) -> None:
    running = daemon(KEYED, args=["--listen", "0.0.0.0:0"])
    running.write(DEMO)
    await reloaded(running, "file", "semantic")
    status = await running.status()
    assert status["generation"] == 1
    assert status["last_reload"]["problems"][0]["code"] == "open-listener"


async def test_open_serves_anybody_on_a_public_address(daemon: Start) -> None:
    running = daemon(KEYED, args=["--listen", "0.0.0.0:0", "--open"])
    running.write(DEMO)
    await running.generation(2)


async def test_a_worker_that_stands_still_does_not_hold_up_a_scrape(daemon: Start) -> None:
    running = daemon(DEMO, args=["--workers", "2"])
    await running.metrics()
    pid = (await running.status())["workers"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        metrics = await running.metrics()
        assert time.monotonic() - began_s < 2.0
        assert metrics['routerd_worker_up{worker="1"}'] == 1
        assert any(name.startswith('routerd_event_loop_lag_seconds_count{worker="0"') for name in metrics)
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_second_signal_ends_at_once_what_the_first_one_lets_finish(daemon: Start) -> None:
    running = daemon(SLOW)
    writer = await hold_a_request(running)
    running.process.signal(signal.SIGTERM)

    async def draining() -> bool:
        return await asyncio.to_thread(running.get_admin, "/-/ready") == (503, "not ready: draining\n")

    await until(draining)
    await until(lambda: refuses(running))
    assert "a second signal ends it at once" in running.process.output
    began_s = time.monotonic()
    running.process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.process.wait) == 0
    assert time.monotonic() - began_s < 5.0
    writer.close()


async def test_what_does_not_finish_within_the_drain_timeout_is_cut(daemon: Start) -> None:
    running = daemon(SLOW, args=["--drain-timeout", "200ms"])
    writer = await hold_a_request(running)
    running.process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.process.wait) == 0
    writer.close()


async def test_an_interrupt_of_the_whole_group_is_a_clean_end(daemon: Start) -> None:
    running = daemon(DEMO, args=["--workers", "2"])
    os.killpg(running.process.pid, signal.SIGINT)
    assert await asyncio.to_thread(running.process.wait) == 0
    assert "Traceback" not in running.process.output
    assert "restart" not in running.process.output


def test_a_bad_file_at_start_is_exit_2_and_leaves_no_process(tmp_path: pathlib.Path) -> None:
    (tmp_path / "routes.yaml").write_text(BAD)
    process = subprocess.Popen(
        [*ROUTERD, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"],
        cwd=tmp_path,
        env=clean_environ(),
        stderr=subprocess.PIPE,
        text=True,
    )
    workers: list[int] = []
    while process.poll() is None and len(workers) < 2:
        try:
            workers = children(process.pid)
        except OSError:
            break
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "did you mean 'chain'" in error
    assert "Traceback" not in error
    assert len(workers) == 2
    assert not [pid for pid in workers if pathlib.Path(f"/proc/{pid}").exists()]


async def test_the_state_directory_tells_the_real_addresses_while_it_runs(daemon: Start) -> None:
    running = daemon(DEMO)
    file = running.config.parent / "state" / "routerd.json"
    told = json.loads(file.read_text())
    assert told == {"pid": running.process.pid, "listen": running.url, "admin": running.admin}
    running.process.signal(signal.SIGTERM)
    await asyncio.to_thread(running.process.wait)
    assert not file.exists()


async def test_a_state_directory_that_cannot_be_written_is_a_warning(daemon: Start) -> None:
    running = daemon(DEMO, args=["--state-dir", "/proc/routerd"])  # read-only even for root
    assert "the state directory cannot be written" in running.process.output


async def test_many_saves_in_a_row_end_with_the_last_one(daemon: Start) -> None:
    running = daemon(DEMO)
    for i in range(200):
        running.write(DEMO.replace("models: {m:", f"models: {{m{i}:"))
    last = json.loads((await asyncio.to_thread(command, "check", "--format", "json", cwd=running.config.parent)).stdout)
    assert last["ok"]

    async def serves() -> bool:
        status = await running.status()
        return not status["drift"] and b"m199" in await models(running)

    await until(serves)


async def refuses(running: Daemon) -> bool:
    try:
        _, writer = await asyncio.open_connection(*running.address)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    writer.close()
    return False


async def models(running: Daemon) -> bytes:
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(("text", "fields"), [(DEMO, {}), (KEYED, {"Authorization": "Bearer $KEY"})], ids=["open", "keyed"])
async def test_the_line_to_try_streams_and_has_a_place_for_the_key(daemon: Start, text: str, fields: dict[str, str]) -> None:
    running = daemon(text)
    line = await asyncio.to_thread(running.process.wait_line, lambda line: line.startswith("curl "))
    words = shlex.split(line)
    assert words[1] == "-N"  # as it comes
    named = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
    assert {name.title(): value for name, value in named.items()} == {**fields, "Content-Type": "application/json"}
    sent = {name: value.replace("$KEY", "abc") for name, value in named.items()}
    request = urllib.request.Request(words[2], words[-1].encode(), sent)

    def ask() -> bytes:
        with urllib.request.urlopen(request, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    assert (await asyncio.to_thread(ask)).endswith(b"data: [DONE]\n\n")
