"""A worker that is killed with its hands full: what it held is given back, what it had counted stays, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.support import answers
from tests.support.answers import delta, event
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.upstream import Upstream

KEY = {"authorization": "Bearer key-ann"}
RUNNING, CREDIT, USED = 6, 1000, 14
HALF = [event(delta("half")), event(delta(" an answer"))]


def routes(upstream: Upstream, failing: Upstream) -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}, budgets: [at-endpoint]}}
  bad:
    dialect: openai
    base_url: "{failing.url}"
    auth: {{type: none}}
    breaker: {{min_requests: 6, failure_ratio: 0.5, open_for: 60s}}
models:
  m: {{chain: [up/x], budgets: [slots, month, day, pace], price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
  b: {{chain: [bad/x], retry: {{attempts: 1}}}}
clients: {{ann: {{key: key-ann, credits: {CREDIT}}}}}
budgets:
  slots: {{concurrency: {RUNNING}}}
  at-endpoint: {{concurrency: {RUNNING}, scope: endpoint}}
  month: {{tokens: 2000, per: month}}
  day: {{usd: 0.1, per: 1d}}
  pace: {{tokens: 100000, per: 1h, burst: 5000}}
"""


async def small(running: Daemon, model: str = "m") -> Fetched:
    return await fetch(running, CHAT, ask(model, max_tokens=100), headers=KEY)


async def used(running: Daemon) -> dict[str, float]:
    """Return the part of each budget that is used, by name."""
    samples = await running.metrics()
    return {
        key.partition('budget="')[2].partition('"')[0]: round(value, 6)
        for key, value in samples.items()
        if key.startswith("routerd_budget_used_ratio")
    }


async def endpoint(running: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in (await running.status())["endpoints"] if one["endpoint"] == name)
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_killed_worker_leaves_nothing_held_and_forgets_nothing(
    daemon: Callable[..., Daemon], upstreams: Any, workers: str
) -> None:
    upstream, failing = await upstreams(), await upstreams()
    running = daemon(routes(upstream, failing), args=["--workers", workers])
    failing.always(answers.error(500))
    upstream.script(answers.reply())
    assert (await small(running)).status == 200
    assert [(await small(running, "b")).status for _ in range(4)] == [500] * 4
    settled = await used(running)
    upstream.always(answers.events(*HALF, end=False))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), headers=KEY) as session:
        body = ask(max_tokens=100, stream=True)
        asked = [asyncio.ensure_future(session.post(running.url + CHAT, json=body)) for _ in range(RUNNING)]
        streams = await asyncio.gather(*asked)
        assert {one.status for one in streams} == {200}
        assert (await small(running)).status == 429  # of `slots`
        assert (await used(running))["month"] > settled["month"] + RUNNING * 100 / 2000
        before = [worker["pid"] for worker in (await running.status())["workers"]]
        for pid in before:
            os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            now = (await running.status())["workers"]
            return all(one["up"] and one["pid"] not in before for one in now)

        await until(replaced, 20)
        cut = await asyncio.gather(*(one.read() for one in streams), return_exceptions=True)
        assert all(isinstance(one, aiohttp.ClientError) for one in cut)  # never passed off as whole

    assert (await endpoint(running, "up"))["inflight"] == 0
    bad = await endpoint(running, "bad")
    assert (bad["outcomes"], bad["failures"], bad["breaker"]) == (4, 4, "closed")
    assert [(await small(running, "b")).status for _ in range(2)] == [500] * 2
    assert (await endpoint(running, "bad"))["breaker"] == "open"

    upstream.always(answers.reply())
    statuses = []
    while not statuses or statuses[-1] == 200:
        statuses.append((await small(running)).status)
    assert statuses[-1] == 402  # nothing but the credit is used up, and of it all but what one request may need
    good = len(statuses)
    told = json.loads((await asyncio.to_thread(running.get_admin, "/-/usage"))[1])
    assert told["total"]["input_tokens"] + told["total"]["output_tokens"] == USED * good
    assert CREDIT - 130 - USED < USED * good <= CREDIT
    now = await used(running)
    assert now["slots"] == now["at-endpoint"] == 0
    assert now["month"] == pytest.approx(good * USED / 2000)
    assert now["day"] == pytest.approx(good * settled["day"])
    await until(lambda: count(running) == good + 6 + 1 + 1)


def count(running: Daemon) -> int:
    """Return how many requests are in the ledger: those that ended, each once."""
    with sqlite3.connect(running.config.parent / "state" / "ledger.sqlite3") as connection:
        ((rows, distinct),) = connection.execute("SELECT COUNT(*), COUNT(DISTINCT request_id) FROM routerd_requests")
    assert rows == distinct
    return int(rows)
