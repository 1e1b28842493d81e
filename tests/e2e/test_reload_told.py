"""What the daemon tells of its reloads as they happen: events to operators, notifications to systemd, gauges to a scrape."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.daemon import READY, ROUTERD, Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.process import Process

Start = Callable[..., Daemon]
DEMO = "version: 1\nproviders: {demo: {dialect: simulator, simulator: {first_token: 1ms}}}\nmodels: {m: {chain: [demo/echo]}}\n"


class Reader:
    """One reader of /events: `kinds` and decoded `events`, as they come."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self._task = asyncio.create_task(self._read(answer))

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        event: dict[str, Any] = {}
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                event["data"] = json.loads(value)
            elif not name and "event" in event:
                self.events.append(event)
                event = {}
        self.ended.set()

    async def next(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the `count`th event of a kind."""
        await until(lambda: len([e for e in self.events if e["event"] == kind]) >= count)
        return [e for e in self.events if e["event"] == kind][count - 1]


@asynccontextmanager
async def reading(running: Daemon, last_id: str = "") -> AsyncIterator[Reader]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with aiohttp.ClientSession() as session, session.get(running.admin + "/events", headers=headers) as answer:
        assert answer.status == 200
        yield Reader(answer)


async def test_every_reload_is_an_event_with_the_word_of_the_metric(daemon: Start) -> None:
    running = daemon(DEMO)
    async with reading(running) as reader:
        running.write(DEMO.replace("m:", "n:", 1).replace("{m:", "{n:"))
        applied = await reader.next("reload_applied")
        assert (applied["data"]["trigger"], applied["data"]["result"], applied["data"]["generation"]) == ("file", "applied", 2)
        assert applied["data"]["changes"]
        running.write(DEMO.replace("chain", "chian"))
        rejected = await reader.next("reload_rejected")
        assert rejected["data"]["result"] == "schema"
        assert [p["line"] for p in rejected["data"]["problems"] if p["code"] == "unknown-key"] == [3]
        line = await asyncio.to_thread(running.process.wait_line, "reload (file): schema")
        assert line
        assert (await running.metrics())['routerd_config_reloads_total{result="schema",trigger="file"}'] == 1
        running.process.signal(signal.SIGHUP)
        await reader.next("reload_rejected", 2)
        async with aiohttp.ClientSession() as session, session.post(running.admin + "/-/rollback?to=1") as answer:
            told = await answer.json()
        back = await reader.next("rolled_back")
        assert (back["data"]["rolled_back_to"], back["data"]["generation"], told["result"]) == (1, 3, "applied")
        os.kill((await running.status())["workers"][0]["pid"], signal.SIGKILL)
        restarted = await reader.next("worker_restarted")
        assert (restarted["data"]["worker"], restarted["data"]["status"]) == (0, -signal.SIGKILL)
        missed = applied["id"]
    async with reading(running, missed) as reader:
        await reader.next("worker_restarted")
        assert [e["event"] for e in reader.events] == ["reload_rejected", "reload_rejected", "rolled_back", "worker_restarted"]
        running.process.signal(signal.SIGTERM)  # a reader does not hold up the end
        await asyncio.wait_for(reader.ended.wait(), 5)
    assert await asyncio.to_thread(running.process.wait) == 0


async def test_a_scrape_has_every_gauge_of_the_configuration(daemon: Start) -> None:
    running = daemon(DEMO, args=["--workers", "2"])
    await fetch(running, CHAT, ask())

    async def complete() -> bool:
        samples = await running.metrics()
        return 'routerd_config_generation_inflight{generation="1"}' in samples

    await until(complete)
    samples = await running.metrics()
    gauges = (
        "last_reload_successful", "last_reload_success_timestamp_seconds", "last_reload_attempt_timestamp_seconds",
        "drift", "file_present", "watch_last_look_timestamp_seconds", "detect_to_serve_seconds_count",
    )  # fmt: skip
    assert [name for name in gauges if f"routerd_config_{name}" not in samples] == []
    for worker in "01":
        assert samples[f'routerd_event_loop_lag_seconds_count{{worker="{worker}"}}'] >= 0
        assert samples[f'routerd_worker_restarts_total{{worker="{worker}"}}'] == 0
    assert samples['routerd_config_reloads_total{result="reverted",trigger="probation"}'] == 0
    assert sum(key.startswith("routerd_config_info{") for key in samples) == 1


# ── systemd ──


@pytest.fixture
def manager(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    """Give the socket on which a service manager listens; its path is `notify` in tmp_path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def hear(sock: socket.socket, wanted: str) -> dict[str, str]:
    """Return the next notification that says `wanted`."""
    while True:
        told = dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n"))
        if wanted in told:
            return told


async def test_systemd_is_told_ready_reloading_watchdog_and_stopping(
    daemon: Start, manager: socket.socket, tmp_path: pathlib.Path
) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    running = daemon(DEMO, env=env)
    assert (await asyncio.to_thread(hear, manager, "READY"))["STATUS"] == "generation 1 serves 1 models"
    assert await asyncio.to_thread(hear, manager, "WATCHDOG")
    running.config.write_text(DEMO.replace("chain", "chian"))
    running.process.signal(signal.SIGHUP)
    assert int((await asyncio.to_thread(hear, manager, "RELOADING"))["MONOTONIC_USEC"]) > 0
    assert "the last reload was refused: schema" in (await asyncio.to_thread(hear, manager, "READY"))["STATUS"]
    worker = (await running.status())["workers"][0]["pid"]
    assert b"NOTIFY_SOCKET" not in pathlib.Path(f"/proc/{worker}/environ").read_bytes()
    running.process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(hear, manager, "STOPPING")
    assert await asyncio.to_thread(running.process.wait) == 0


async def test_sockets_of_systemd_are_served_by_every_worker(tmp_path: pathlib.Path) -> None:
    """As systemd does it: listening sockets from descriptor 3 on, which stay open when the daemon ends."""
    config = tmp_path / "routes.yaml"
    config.write_text(DEMO)
    with socket.create_server(("127.0.0.1", 0)) as data, socket.create_server(("127.0.0.1", 0)) as admin:
        ports = [sock.getsockname()[1] for sock in (data, admin)]
        serve = [*ROUTERD, "serve", "--config", str(config), "--workers", "2"]
        serve += ["--listen", "127.0.0.1:1", "--admin", "127.0.0.1:2"]  # both are handed over instead
        code = (
            "import os, sys\n"
            "fds = [int(fd) for fd in sys.argv[1].split(',')]\n"
            "spare = [os.dup2(fd, 60 + i) for i, fd in enumerate(fds)]\n"
            "for i, fd in enumerate(spare): os.dup2(fd, 3 + i)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES='data:admin')\n"
            "os.execv(sys.argv[2], sys.argv[2:])\n"
        )
        fds = (data.fileno(), admin.fileno())
        process = Process([sys.executable, "-c", code, ",".join(map(str, fds)), *serve], cwd=tmp_path, pass_fds=fds)
        try:
            line = await asyncio.to_thread(process.wait_line, lambda line: READY.search(line) is not None)
            found = READY.search(line)
            assert found is not None
            assert [found[1], found[2]] == [f"http://127.0.0.1:{port}" for port in ports]
            async with aiohttp.ClientSession() as session:
                for _ in range(20):
                    async with session.post(f"{found[1]}{CHAT}", json=ask()) as answer:
                        assert answer.status == 200
                async with session.get(f"{found[2]}/-/ready") as answer:
                    assert answer.status == 200
            process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
            with socket.create_connection(("127.0.0.1", ports[0]), 1):  # the manager's queue takes who comes meanwhile
                pass
        finally:
            process.stop()
