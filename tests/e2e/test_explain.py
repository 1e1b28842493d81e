"""`routerd explain` beside a running daemon goes by what that daemon knows of the endpoints, and says whose view it is."""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

from tests.support.daemon import ROUTERD, Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.ports import closed_port
from tests.support.process import clean_environ

Start = Callable[..., Daemon]
TEXT = """
version: 1
providers:
  gpu:
    auth: {type: none}
    breaker: {open_for: 10m}
    endpoints: [{name: gpu-a, url: "http://127.0.0.1:PORT/v1"}, {name: gpu-b, url: "http://127.0.0.1:PORT/v1"}]
  demo: {dialect: simulator}
models:
  m: {chain: [gpu/x, demo/echo]}
"""


async def explain(running: Daemon, *more: str, config: pathlib.Path | None = None) -> tuple[int, Any]:
    """Run the command; return its exit status, and its document or what it complained of."""
    argv = [*ROUTERD, "explain", "--model", "m", "--config", str(config or running.config), "--format", "json"]
    argv += ["--admin", running.admin, *more]
    done = await asyncio.to_thread(subprocess.run, argv, env=clean_environ(), capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def why(told: dict[str, Any], endpoint: str) -> str:
    return " ".join(next(one["why"] for one in told["targets"] if one["endpoint"] == endpoint))


async def test_what_the_daemon_knows_decides_the_order(daemon: Start, tmp_path: pathlib.Path) -> None:
    running = daemon(TEXT.replace("PORT", str(closed_port())))
    assert (await asyncio.to_thread(running.post_admin, "/-/endpoints/gpu-a/drain"))[0] == 200
    status, told = await explain(running)
    assert (status, told["health"]) == (0, f"as the daemon at {running.admin.removeprefix('http://')} knows it now")
    assert [one["endpoint"] for one in told["targets"] if one["position"]] == ["gpu-b", "demo"]
    assert "drained" in why(told, "gpu-a")

    status, told = await explain(running, "--health", "none")
    assert (status, told["health"]) == (0, "not looked at: nothing is known of the endpoints")
    assert [one["endpoint"] for one in told["targets"] if one["position"]] == ["gpu-a", "gpu-b", "demo"]

    other = tmp_path / "other.yaml"
    other.write_text(running.config.read_text())
    _, told = await explain(running, config=other)
    assert told["health"].startswith(f"not known: the daemon at {running.admin.removeprefix('http://')} serves {running.config}")
    _, told = await explain(running, "--health", "live", config=other)
    assert "drained" in why(told, "gpu-a")


async def test_an_open_breaker_is_seen(daemon: Start) -> None:
    running = daemon(TEXT.replace("PORT", str(closed_port())))
    for _ in range(24):
        assert (await fetch(running, CHAT, ask("m"))).status == 200
    _, told = await explain(running)
    assert told["targets"][0]["endpoint"] == "demo"
    assert "breaker is open" in why(told, "gpu-a")


async def test_without_a_daemon_it_answers_all_the_same_unless_its_view_is_asked_for(daemon: Start) -> None:
    running = daemon(TEXT.replace("PORT", str(closed_port())))
    running.stop()
    status, told = await explain(running)
    assert (status, told["health"]) == (0, f"not known: no daemon answers at {running.admin.removeprefix('http://')}")
    status, said = await explain(running, "--health", "live")
    assert status == 3
    assert "is the daemon running" in said
