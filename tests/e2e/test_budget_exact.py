"""Exactly the limit passes: over four workers, over the death of one, over a reload in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable

import aiohttp
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask
from tests.support.upstream import Answer, Upstream

Start = Callable[..., Daemon]
ASKED, LIMIT = 500, 100
BODY = json.dumps(ask(max_tokens=1)).encode()
NEEDS = -(-len(BODY) // 4) + 1  # tokens reserved for it; the upstream reports as many
LOST = -1


def routes(url: str, budget: str, more: str = "") -> str:
    provider = f'{{base_url: "{url}", auth: {{type: none}}}}'
    models = "models: {m: {budgets: [b], chain: [up/x]}}"
    return f"version: 1\nproviders: {{up: {provider}}}\n{models}\nbudgets: {{b: {budget}}}\n{more}"


async def storm(running: Daemon, count: int = ASKED) -> Counter[int]:
    """Send so many requests at once, each over a connection of its own; return how often each status came."""

    async def one(session: aiohttp.ClientSession) -> int:
        try:
            async with session.post(running.url + CHAT, data=BODY, headers={"content-type": "application/json"}) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return LOST

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        return Counter(await asyncio.gather(*(one(session) for _ in range(count))))


def reply() -> Answer:
    usage = {"prompt_tokens": NEEDS - 1, "completion_tokens": 1, "total_tokens": NEEDS}
    return answers.reply(answers.completion(usage=usage))


@pytest.mark.parametrize("budget", [f"{{requests: {LIMIT}, per: 1h}}", f"{{tokens: {LIMIT * NEEDS}, per: 1h}}"])
@pytest.mark.parametrize("per", ["1h", "month"])
async def test_exactly_the_limit_passes_over_four_workers(daemon: Start, upstream: Upstream, budget: str, per: str) -> None:
    upstream.always(reply())
    running = daemon(routes(upstream.url, budget.replace("1h", per)), args=["--workers", "4"])
    assert await storm(running) == {200: LIMIT, 429: ASKED - LIMIT}
    assert len(upstream.requests) == LIMIT


async def test_exactly_so_many_run_at_a_time_over_four_workers(daemon: Start, upstream: Upstream) -> None:
    gate = asyncio.Event()
    upstream.always(answers.gated(reply(), gate))
    running = daemon(routes(upstream.url, f"{{concurrency: {LIMIT}}}"), args=["--workers", "4"])
    stormed = asyncio.create_task(storm(running))

    async def refused() -> float:
        return sum(v for k, v in (await running.metrics()).items() if k.startswith("routerd_budget_rejections_total"))

    async with asyncio.timeout(30):
        while await refused() < ASKED - LIMIT:
            await asyncio.sleep(0.05)
    assert len(upstream.requests) == LIMIT
    gate.set()
    assert await stormed == {200: LIMIT, 429: ASKED - LIMIT}


async def test_a_reload_in_the_middle_lets_no_more_pass(daemon: Start, upstream: Upstream) -> None:
    upstream.always(reply())
    text = routes(upstream.url, f"{{requests: {LIMIT}, per: 1h}}")
    running = daemon(text, args=["--workers", "4"])
    stormed = asyncio.create_task(storm(running))
    await upstream.received(LIMIT // 4)
    for number in range(3):
        running.write(text + f"aliases: {{a{number}: m}}\n")
        code, _ = await asyncio.to_thread(running.post_admin, "/-/reload")
        assert code == 200
    assert await stormed == {200: LIMIT, 429: ASKED - LIMIT}
    assert (await running.status())["generation"] > 1


async def test_a_dead_worker_neither_refills_nor_locks_a_budget(daemon: Start, upstream: Upstream) -> None:
    upstream.always(reply())
    running = daemon(routes(upstream.url, f"{{requests: {LIMIT}, per: 1h}}"), args=["--workers", "4"])
    victim = (await running.status())["workers"][0]["pid"]
    stormed = asyncio.create_task(storm(running))
    await upstream.received(LIMIT // 4)
    os.kill(victim, signal.SIGKILL)
    got = await stormed
    rest = await storm(running, 200)  # what the first storm lost to the dead worker, if any, is asked again
    assert len(upstream.requests) <= LIMIT
    assert got[200] + rest[200] <= LIMIT
    assert got[200] + rest[200] + got[LOST] >= LIMIT
    assert set(rest) <= {200, 429}
    assert await storm(running, 20) == {429: 20}
