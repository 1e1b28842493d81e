"""Budgets in requests, tokens and concurrency: what is used is what was really used, and leaving gives back what was held."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable

import aiohttp
import pytest

from tests.support import answers
from tests.support.answers import delta, event
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, RawClient, ask, fetch, head_of
from tests.support.llama import Engine
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]


def routes(url: str, budgets: str, attach: str, clients: str = "") -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{url}", auth: {{type: none}}}}
models:
  m: {{budgets: [{attach}], chain: [up/x]}}
budgets:
{budgets}
{clients}
"""


async def test_requests_are_refused_after_the_last_one(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "  five: {requests: 5, per: 1h}", "five"))
    statuses = [(await fetch(running, CHAT, ask())).status for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert len(upstream.requests) == 5


async def test_a_budget_is_exact_over_two_workers(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "  ten: {requests: 10, per: 1h}", "ten"), args=["--workers", "2"])
    got = await asyncio.gather(*(fetch(running, CHAT, ask()) for _ in range(40)))
    assert sorted(answer.status for answer in got) == [200] * 10 + [429] * 30


async def test_clients_have_budgets_of_their_own(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    clients = "clients: {a: {key: sk-a, budgets: [two]}, b: {key: sk-b, budgets: [two]}}"
    text = routes(upstream.url, "  two: {requests: 2, per: 1h, scope: client}", "", clients)
    running = daemon(text)
    for key in ("sk-a", "sk-b"):
        headers = {"authorization": f"Bearer {key}"}
        assert [(await fetch(running, CHAT, ask(), headers=headers)).status for _ in range(3)] == [200, 200, 429]


async def test_tokens_are_settled_to_what_the_engine_reported(daemon: Start, engine: Engine) -> None:
    """Each answer uses exactly what the engine reports, streamed or not; the budget refuses once the sum is over the limit."""
    running = daemon(routes(engine.url, "  tokens: {tokens: 120, per: 1h}", "tokens"))
    used = 0
    for turn in range(100):
        streamed = turn % 2 == 1
        more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        answer = await fetch(running, CHAT, ask(text="hi", max_tokens=4, **more))
        if answer.status == 429:
            break
        assert answer.status == 200
        used += (answer.events()[-2] if streamed else answer.json())["usage"]["total_tokens"]
    assert answer.error["code"] == "budget_exceeded"
    assert used <= 120
    samples = await running.metrics()
    counted = sum(v for k, v in samples.items() if k.startswith("routerd_tokens_total"))
    assert counted == used


async def test_tokens_of_a_stream_count_when_the_client_did_not_ask_for_usage(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.stream())
    running = daemon(routes(upstream.url, "  tokens: {tokens: 1000, per: 1h}", "tokens"))
    assert (await fetch(running, CHAT, ask(stream=True))).events()[-1] == "[DONE]"
    samples = await running.metrics()
    assert sum(v for k, v in samples.items() if k.startswith("routerd_tokens_total")) == answers.USAGE["total_tokens"]


async def test_concurrency_frees_its_slot_at_the_end(daemon: Start, upstream: Upstream) -> None:
    gate = asyncio.Event()
    upstream.script(answers.stream(["a"], gates=[gate]), answers.reply())
    running = daemon(routes(upstream.url, "  one: {concurrency: 1}", "one"))
    held = asyncio.create_task(fetch(running, CHAT, ask(stream=True)))
    await upstream.received(1)
    refused = await fetch(running, CHAT, ask())
    assert (refused.status, refused.error["code"]) == (429, "budget_exceeded")
    gate.set()
    assert (await held).events()[-1] == "[DONE]"
    assert (await fetch(running, CHAT, ask())).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_concurrency_frees_its_slot_when_the_client_leaves(daemon: Start, upstream: Upstream, stream: bool) -> None:
    half = answers.events(event(delta("half")), end=False)
    running = daemon(routes(upstream.url, "  one: {concurrency: 1}", "one"))
    for turn in range(5):
        upstream.script(half if stream else answers.hang)
        async with RawClient(running) as client:
            await client.send(head_of(CHAT, json.dumps(ask(stream=stream)).encode()))
            await upstream.received(turn + 1)
            if stream:
                await client.read_until(b"half")
            assert (await fetch(running, CHAT, ask())).status == 429
        await asyncio.wait_for(upstream.requests[turn].gone.wait(), 2)
    upstream.always(answers.reply())

    async def free() -> bool:
        return (await fetch(running, CHAT, ask())).status == 200

    await until(free, 2)


async def test_a_failed_request_gives_its_slot_back(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(500))
    running = daemon(routes(upstream.url, "  one: {concurrency: 1}", "one"))
    assert [(await fetch(running, CHAT, ask())).status for _ in range(3)] == [500, 500, 500]


async def test_a_dead_worker_gives_back_what_its_requests_held(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.hang)
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "  one: {concurrency: 1}", "one"))
    async with RawClient(running) as client:
        await client.send(head_of(CHAT, json.dumps(ask()).encode()))
        await upstream.received(1)
        assert (await fetch(running, CHAT, ask())).status == 429
        os.kill((await running.status())["workers"][0]["pid"], signal.SIGKILL)

    async def free() -> bool:
        return (await fetch(running, CHAT, ask())).status == 200

    await until(free, 10)


async def test_a_reload_never_refills_a_budget(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    text = routes(upstream.url, "  five: {requests: 5, per: 1h}", "five")
    running = daemon(text)
    assert [(await fetch(running, CHAT, ask())).status for _ in range(3)] == [200] * 3
    running.write(text + "\nx-note: another\nresponse_headers: true\ncors: {origins: ['https://a.example']}\n")
    await running.generation(2)
    assert [(await fetch(running, CHAT, ask())).status for _ in range(3)] == [200, 200, 429]
    running.write(text.replace("requests: 5", "requests: 6"))
    await running.generation(3)
    assert [(await fetch(running, CHAT, ask())).status for _ in range(2)] == [200, 429]


async def waiting(running: Daemon, count: int) -> bool:
    """Tell whether so many requests wait in line."""
    return sum(v for k, v in (await running.metrics()).items() if k.startswith("routerd_budget_queue_depth")) == count


async def test_who_waits_in_line_is_served_when_a_slot_is_free(daemon: Start, upstream: Upstream) -> None:
    gate = asyncio.Event()
    upstream.script(answers.stream(["a"], gates=[gate]))
    upstream.always(answers.reply())
    queue = "queue: {max: 2, wait: 20s}"
    running = daemon(routes(upstream.url, f"  one: {{concurrency: 1, {queue}}}", "one"))
    held = asyncio.create_task(fetch(running, CHAT, ask(stream=True)))
    await upstream.received(1)
    line = [asyncio.create_task(fetch(running, CHAT, ask())) for _ in range(2)]
    await until(lambda: waiting(running, 2))
    refused = await fetch(running, CHAT, ask())
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert "2 wait already" in refused.error["message"]
    gate.set()
    assert [(await task).status for task in line] == [200, 200]
    assert (await held).events()[-1] == "[DONE]"
    assert await waiting(running, 0)


async def test_a_line_in_front_of_a_provider_is_left_by_a_client_that_goes(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.hang)
    upstream.always(answers.reply())
    text = routes(upstream.url, "  slots: {concurrency: 1, scope: endpoint, queue: {max: 1, wait: 20s}}", "")
    running = daemon(text.replace("auth: {type: none}}", "auth: {type: none}, budgets: [slots]}"))
    async with RawClient(running) as first:
        await first.send(head_of(CHAT, json.dumps(ask()).encode()))
        await upstream.received(1)
        async with RawClient(running) as second:
            await second.send(head_of(CHAT, json.dumps(ask()).encode()))

            await until(lambda: waiting(running, 1))
            assert (await fetch(running, CHAT, ask())).status == 429
        await until(lambda: waiting(running, 0))
        third = asyncio.create_task(fetch(running, CHAT, ask()))
    assert (await third).status == 200


async def test_shadow_mode_counts_and_lets_pass(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "  trial: {requests: 4, per: day, mode: shadow}", "trial"))
    assert [(await fetch(running, CHAT, ask())).status for _ in range(6)] == [200] * 6
    samples = await running.metrics()
    assert samples['routerd_budget_rejections_total{budget="trial",mode="shadow",scope="global"}'] == 2
    assert samples['routerd_budget_used_ratio{budget="trial",mode="shadow",scope="global"}'] == 1.5


async def test_dollars_are_settled_to_the_price_of_what_answered(daemon: Start, upstream: Upstream) -> None:
    """An answer of 11 and 3 tokens costs 11 * 100 + 3 * 200 = 1700 micro-dollars; the estimate is far more."""
    upstream.always(answers.reply())
    price = "price: {input_usd_per_mtok: 100, output_usd_per_mtok: 200}"
    text = routes(upstream.url, "  purse: {usd: 0.01, per: month}", "purse").replace("chain:", f"{price}, chain:")
    running = daemon(text)
    got = [await fetch(running, CHAT, ask(max_tokens=3)) for _ in range(8)]
    passed = [answer for answer in got if answer.status == 200]
    assert 3 <= len(passed) <= 5  # each needs an estimate's room, and leaves 1700 micro-dollars
    assert got[-1].error["message"].startswith("Budget 'purse' allows 0.01 USD in a calendar month (UTC); retry in ")
    samples = await running.metrics()
    labels = 'client="_anonymous",provider="up",route="m"'
    assert samples[f'routerd_cost_usd_total{{{labels},token_type="input"}}'] == pytest.approx(0.0011 * len(passed))
    assert samples[f'routerd_cost_usd_total{{{labels},token_type="output"}}'] == pytest.approx(0.0006 * len(passed))


async def test_a_burst_comes_at_once_and_no_more(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "  b: {requests: 60, per: 1h, burst: 3}", "b"), args=["--workers", "2"])
    got = await asyncio.gather(*(fetch(running, CHAT, ask()) for _ in range(12)))
    assert sorted(answer.status for answer in got) == [200] * 3 + [429] * 9
    refused = next(answer for answer in got if answer.status == 429)
    assert "'b' allows 60 requests in 1h, 3 requests at once over that rate; retry in " in refused.error["message"]
    assert 50 <= int(refused.headers["retry-after"]) <= 60


async def test_answers_say_what_is_left_to_the_client(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    budgets = "  two: {requests: 2, per: 6m, scope: client}\n  all: {requests: 9, per: 1h}\n"
    budgets += "  t: {tokens: 100000, per: 1h, scope: client}"
    clients = "clients: {a: {key: sk-a, budgets: [two, t, all]}, b: {key: sk-b, budgets: [two]}}"
    text = routes(upstream.url, budgets, "", clients)
    running = daemon(text)
    a, b = {"authorization": "Bearer sk-a"}, {"authorization": "Bearer sk-b"}
    got = [await fetch(running, CHAT, ask(), headers=a) for _ in range(3)]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in got] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in got} == {"2"}
    assert got[0].headers["x-ratelimit-reset-requests"] == "6m0s"
    assert got[0].headers["x-ratelimit-limit-tokens"] == "100000"
    assert (got[2].status, got[2].headers["x-routerd-error-source"]) == (429, "routerd")
    assert got[2].headers["retry-after"]
    other = await fetch(running, CHAT, ask(), headers=b)
    assert other.headers["x-ratelimit-remaining-requests"] == "1"
    running.write(text + "response_headers: false\n")
    await running.generation(2)
    for key in (a, b):
        assert not [name for name in (await fetch(running, CHAT, ask(), headers=key)).headers if name.startswith("x-ratelimit")]


async def test_a_refusal_is_an_event_for_the_operator(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url, "  one: {requests: 1, per: 1h}", "one"))
    async with aiohttp.ClientSession() as session, session.get(running.admin + "/events") as events:
        for _ in range(3):
            await fetch(running, CHAT, ask())
        async with asyncio.timeout(10):
            while b"budget_exhausted" not in await events.content.readline():
                pass
            data = json.loads((await events.content.readline()).removeprefix(b"data: "))
    assert (data["budget"], data["scope"]) == ("one", "global")
