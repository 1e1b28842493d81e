"""A configuration whose own test fails does not serve, and `check` says the same as the daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.support.daemon import ROUTERD, Daemon, until
from tests.support.process import clean_environ

ROUTES = """
version: 1
providers: {demo: {dialect: simulator}}
models: {m: {chain: [demo/%s]}}
tests:
  - {name: m is the first echo, given: {model: m}, expect: {target: demo/first}}
"""


def check(running: Daemon) -> int:
    argv = [*ROUTERD, "check", str(running.config)]
    return subprocess.run(argv, env=clean_environ(), capture_output=True, check=False).returncode


async def test_a_failing_test_keeps_the_old_graph(daemon: Callable[..., Daemon]) -> None:
    running = daemon(ROUTES % "first")
    before = await running.status()
    assert check(running) == 0
    running.write(ROUTES % "second")

    async def refused() -> bool:
        return bool((await running.status())["last_reload"]["result"] == "tests")

    await until(refused, 5.0)
    now = await running.status()
    assert (now["generation"], now["digest"], now["drift"]) == (before["generation"], before["digest"], True)
    (problem,) = now["last_reload"]["problems"]
    assert problem["message"] == "m is the first echo: expected target demo/first, got demo/second"
    assert (await running.metrics())['routerd_config_reloads_total{result="tests",trigger="file"}'] == 1
    assert check(running) == 2
