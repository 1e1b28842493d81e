"""A daemon that nobody asks costs next to nothing. Counted are wakes, not time: each costs 0.1 to 0.2 ms on an idle machine,
but for those of watchfiles between two steps, which run no Python.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable

import pytest

from routerd.daemon.watch.kernel import STEP_MS
from tests.support.daemon import Daemon, until
from tests.support.process import REPO

Start = Callable[..., Daemon]
WINDOW_S = 1.5
STEPS = 1000 / STEP_MS  # a second
CONTROL_MOST, WORKER_MOST = STEPS + 6.0, 2.0  # wakes a second: the former looks twice and hears the worker, who ticks, once


def wakes(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep so far."""
    texts = [(task / "status").read_text() for task in pathlib.Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("voluntary_ctxt"))


def children(pid: int) -> list[int]:
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def many_models() -> str:
    one = 'dialect: openai, base_url: "http://127.0.0.1:{}/v1", auth: {{type: none}}'
    providers = [f"  p{i}: {{{one.format(9000 + i)}}}" for i in range(20)]
    models = [f"  m{i}: {{chain: [p{i % 20}/m, p{(i + 1) % 20}/m]}}" for i in range(200)]
    return "\n".join(["version: 1", "providers:", *providers, "models:", *models]) + "\n"


async def is_idle(pid: int, most: float) -> None:
    """Wait for a window with few wakes: what a start or a reload leaves to do comes first."""
    found: list[float] = []

    async def rests() -> bool:
        before = wakes(pid)
        await asyncio.sleep(WINDOW_S)
        found.append((wakes(pid) - before) / WINDOW_S)
        return found[-1] <= most

    try:
        await until(rests, 10.0)
    except TimeoutError:
        raise AssertionError(f"wakes a second: {found}, at most {most}") from None


@pytest.mark.parametrize("text", [(REPO / "routes.yaml").read_text(), many_models()], ids=["as shipped", "200 models"])
async def test_an_idle_daemon_hardly_wakes_whatever_it_serves(daemon: Start, text: str) -> None:
    running = daemon(text, args=["--workers", "1"])
    (worker,) = children(running.process.pid)
    await asyncio.gather(is_idle(running.process.pid, CONTROL_MOST), is_idle(worker, WORKER_MOST))
