"""Credits: charged what was really used, never more than was granted beyond what runs, and known after a restart."""

from __future__ import annotations

import asyncio
import json
import pathlib
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from tests.support import answers
from tests.support.answers import delta, event
from tests.support.daemon import READY, ROUTERD, Daemon, until
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.process import Process
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
KEY = {"authorization": "Bearer key-ann"}
USED = 14  # tokens of an answer, see answers.USAGE


def routes(url: str, credits: str) -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{url}", auth: {{type: none}}}}
models:
  m: {{chain: [up/x], price: {{input_usd_per_mtok: 1000, output_usd_per_mtok: 2000}}}}
clients:
  ann: {{key: key-ann{f", credits: {credits}" if credits else ""}}}
  bob: {{key: key-bob}}
"""


async def small(running: Daemon, **more: Any) -> Fetched:
    """Ask for an answer of 3 tokens: with its prompt some 30 are reserved."""
    return await fetch(running, CHAT, ask(max_tokens=3, **more), headers=KEY)


async def credit_of(running: Daemon) -> dict[str, Any]:
    code, text = await asyncio.to_thread(running.get_admin, "/-/usage")
    assert code == 200, text
    (told,) = json.loads(text)["credits"]
    assert isinstance(told, dict)
    return told


async def test_what_was_used_is_charged_and_then_it_is_402(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "100"))
    statuses = [(await small(running)).status for _ in range(10)]
    good = statuses.count(200)
    assert statuses == [200] * good + [402] * (10 - good)
    assert 100 - 2 * USED - 30 < good * USED <= 100
    refused = await small(running)
    left = 100 - good * USED
    assert refused.error["message"] == f"{left} tokens of 100 tokens of credit are left, and this request may need more."
    assert (refused.error["type"], refused.error["code"]) == ("insufficient_quota", "insufficient_credits")
    assert "retry-after" not in refused.headers
    assert await credit_of(running) == {
        "client": "ann", "kind": "tokens", "granted": 100, "used": good * USED, "left": left, "since": None
    }  # fmt: skip
    others = await fetch(running, CHAT, ask(), headers={"authorization": "Bearer key-bob"})
    assert others.status == 200
    assert not [name for name in others.headers if name.lower().startswith("x-ratelimit")]


async def test_the_sdk_does_not_try_again(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream.url, "1"))
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="key-ann", max_retries=3) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.status_code == 402
    assert (await running.metrics())['routerd_requests_total{client="ann",outcome="rejected",route="m"}'] == 1


async def test_the_balance_survives_a_restart(tmp_path: pathlib.Path, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    first = Daemon(tmp_path, routes(upstream.url, "{usd: 0.085}"))  # 11 x 0.001 + 3 x 0.002 an answer: five of them
    try:
        assert [(await small(first)).status for _ in range(3)] == [200] * 3
        first.process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.process.wait) == 0
    finally:
        first.stop()
    second = Daemon(tmp_path, routes(upstream.url, "{usd: 0.085}"))
    try:
        assert (await credit_of(second))["left"] == pytest.approx(0.085 - 3 * 0.017)
        assert [(await small(second)).status for _ in range(3)] == [200, 402, 402]
    finally:
        second.stop()


async def test_what_is_used_while_a_grant_is_away_is_charged_when_it_is_back(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "100"))
    assert (await small(running)).status == 200
    for number, credits in ((2, ""), (3, "100")):
        assert [(await small(running)).status for _ in range(2)] == [200] * 2
        running.write(routes(upstream.url, credits))
        await running.generation(number)
    assert (await credit_of(running))["used"] == 5 * USED
    statuses = [(await small(running)).status for _ in range(5)]
    assert (5 + statuses.count(200)) * USED <= 100
    assert statuses[-1] == 402


async def test_over_two_workers_nobody_gets_more_than_was_granted(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "1000"), args=["--workers", "2"])
    statuses: Counter[int] = Counter()

    async def some() -> None:
        for _ in range(15):
            statuses[(await small(running)).status] += 1

    await asyncio.gather(*[some() for _ in range(8)])
    assert set(statuses) == {200, 402}
    told = await credit_of(running)
    assert told["used"] == statuses[200] * USED <= 1000
    while (await small(running)).status == 200:  # what was reserved meanwhile is given back
        statuses[200] += 1
    assert 1000 - 40 < statuses[200] * USED <= 1000


async def test_a_stream_that_was_cut_and_a_client_that_left_are_charged_what_was_sent(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream.url, "100000"))
    texts = [event(delta("x" * 40)) for _ in range(10)]
    upstream.script(answers.cut(*texts), answers.events(*texts, end=False), answers.stream())
    body = ask(stream=True)
    prompt = -(-len(json.dumps(body).encode()) // 4)
    assert (await fetch(running, CHAT, body, headers=KEY)).status == 200
    assert (await credit_of(running))["used"] == prompt + 100
    async with aiohttp.ClientSession() as session:
        answer = await session.post(running.url + CHAT, json=body, headers=KEY)
        seen = b""
        while seen.count(b"x" * 40) < 10:
            seen += await answer.content.readany()
        answer.close()

    async def charged() -> bool:
        return bool((await credit_of(running))["used"] == 2 * (prompt + 100))

    await until(charged)
    assert (await fetch(running, CHAT, body, headers=KEY)).status == 200
    assert (await credit_of(running))["used"] == 2 * (prompt + 100) + USED


async def test_credits_that_a_reload_brings_count_what_was_used_before(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, ""))
    for _ in range(5):
        assert (await small(running)).status == 200
    running.write(routes(upstream.url, str(5 * USED + 1)))
    await running.generation(2)
    assert (await small(running)).status == 402
    running.write(routes(upstream.url, "{tokens: 71, since: 2999-01-01}"))  # a new grant: nothing was used since that day
    await running.generation(3)
    assert (await small(running)).status == 200
    running.write(routes(upstream.url, str(5 * USED + 1)))
    await running.generation(4)
    assert (await small(running)).status == 402


async def test_credits_without_a_ledger_are_refused(tmp_path: pathlib.Path, upstream: Upstream) -> None:
    config = tmp_path / "routes.yaml"
    config.write_text(routes(upstream.url, "100"))
    process = Process([*ROUTERD, "serve", "--config", str(config), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
    try:
        assert await asyncio.to_thread(process.wait) == 2
        assert "clients.ann.credits: credits are counted by the ledger, and there is none" in process.output
        assert not READY.search(process.output)
    finally:
        process.stop()
