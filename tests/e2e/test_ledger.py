"""The ledger agrees with what the upstream itself counted, to the token, whatever happened; and it is in nobody's way.

ROUTERD_LEDGER_REQUESTS=100000 makes the long form of the first test.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import random
import resource
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.support import answers
from tests.support.answers import delta, event
from tests.support.daemon import ROUTERD, Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.postgres import PostgresServer
from tests.support.process import Process
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]

REQUESTS = int(os.environ.get("ROUTERD_LEDGER_REQUESTS", "2000"))
AT_ONCE = 24
KINDS = ("unary", "stream", "silent unary", "silent stream", "cut", "gone", "failover", "broken")
TOKENS = "input_tokens, output_tokens, cached_tokens, estimated, cost_nano_usd"
COLUMNS = f"request_id, client, route, provider, model, outcome, {TOKENS}"
PRICE = (1000, 2000, 500)  # nano-dollars a token: input, output, cached

Row = tuple[Any, ...]


def routes(*urls: str) -> str:
    providers = "".join(f'  up{i}: {{dialect: openai, base_url: "{url}", auth: {{type: none}}}}\n' for i, url in enumerate(urls))
    chain = ", ".join(f"up{i}/x{i}" for i in range(len(urls)))
    return f"""
version: 1
providers:
{providers}
models:
  m:
    chain: [{chain}]
    price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2, cached_input_usd_per_mtok: 0.5}}
clients:
  ann: {{key: key-ann}}
  bob: {{key: key-bob}}
"""


def rows(path: pathlib.Path) -> list[Row]:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"SELECT {COLUMNS} FROM routerd_requests").fetchall()


def ledger_of(running: Daemon) -> pathlib.Path:
    return running.config.parent / "state" / "ledger.sqlite3"


def ended(running: Daemon) -> None:
    """End the daemon as an operator does."""
    running.process.signal(signal.SIGTERM)
    assert running.process.wait() == 0, running.process.output


class Traffic:
    """Requests of every kind, and for each what the upstream counted."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.expected: dict[str, Row] = {}
        self._tried: dict[str, list[str]] = {}  # the models that were asked, by request
        self.finished_s: dict[str, float] = {}

    def plan(self, number: int) -> dict[str, Any]:
        """Return the request `number`: what its body tells the upstream to do."""
        rng = self._rng
        return {
            "id": f"r-{number}",
            "kind": KINDS[number % len(KINDS)] if number < 4 * len(KINDS) else rng.choice(KINDS),
            "texts": ["".join(rng.choices('abcdé \n"{', k=rng.randint(1, 40))) for _ in range(rng.randint(1, 12))],
            "usage": (rng.randint(1, 5000), rng.randint(1, 900), rng.randint(0, 1)),
        }

    def expect(self, plan: dict[str, Any], client: str, body: bytes) -> None:
        """Note what the ledger must say of a request."""
        kind, (given, made, some) = plan["kind"], plan["usage"]
        cached = given // 2 * some
        model = self._tried[plan["id"]][-1]
        provider = model.replace("x", "up")
        outcome = {"cut": "truncated", "gone": "client_gone", "broken": "upstream_error"}.get(kind, "ok")
        estimated = int(kind in ("silent unary", "silent stream", "cut", "gone"))
        if estimated:
            given, made, cached = -(-len(body) // 4), -(-len("".join(plan["texts"]).encode()) // 4), 0
        if kind == "broken":
            given = made = cached = 0
        cost = (given - cached) * PRICE[0] + made * PRICE[1] + cached * PRICE[2]
        self.expected[plan["id"]] = (plan["id"], client, "m", provider, model, outcome, given, made, cached, estimated, cost)

    async def answer(self, call: Call) -> None:
        """Answer as the prompt says. What fails over fails at the target that is tried first."""
        plan = json.loads(call.request.json()["messages"][-1]["content"])
        kind, (given, made, some) = plan["kind"], plan["usage"]
        tried = self._tried.setdefault(plan["id"], [])
        tried.append(call.request.json()["model"])
        usage: dict[str, Any] = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
        if some:
            usage["prompt_tokens_details"] = {"cached_tokens": given // 2}
        if kind == "broken" or (kind == "failover" and len(tried) == 1):
            await answers.error(500)(call)
        elif kind in ("unary", "silent unary"):
            whole = answers.completion("".join(plan["texts"]), usage=usage)
            if kind == "silent unary":
                del whole["usage"]
            await answers.reply(whole)(call)
        else:
            await _stream(call, plan, usage)

    async def one(self, session: aiohttp.ClientSession, url: str, number: int) -> None:
        """Send one and take its answer as a client of its kind does."""
        plan, client = self.plan(number), ("ann", "bob")[number % 2]
        kind = plan["kind"]
        asked = {"model": "m", "messages": [{"role": "user", "content": json.dumps(plan)}]}
        body = json.dumps({**asked, "stream": kind not in ("unary", "silent unary", "broken")}).encode()
        headers = {"authorization": f"Bearer key-{client}", "x-request-id": plan["id"], "content-type": "application/json"}
        async with session.post(url + CHAT, data=body, headers=headers) as answer:
            if kind == "gone":
                await _read_texts(answer, len(plan["texts"]))
                answer.close()
            else:
                await answer.read()
        self.expect(plan, client, body)
        self.finished_s[plan["id"]] = asyncio.get_running_loop().time()


async def _read_texts(answer: aiohttp.ClientResponse, texts: int) -> None:
    """Return when so many pieces of text have come."""
    seen = 0
    async for line in answer.content:
        seen += b'"content"' in line and b'"role"' not in line
        if seen == texts:
            return


async def _stream(call: Call, plan: dict[str, Any], usage: dict[str, Any]) -> None:
    await call.head(200, answers.EVENT_STREAM)
    await call.chunk(event(delta("", role="assistant")))
    for text in plan["texts"]:
        await call.chunk(event(delta(text)))
    if plan["kind"] == "cut":
        call.close()
        return
    if plan["kind"] == "gone":
        await call.client_gone()
        return
    await call.chunk(event(delta(finish="stop")))
    if plan["kind"] != "silent stream":
        await call.chunk(event({**delta(), "choices": [], "usage": usage}))
    await call.chunk(answers.DONE)
    await call.end_chunks()


async def sent(traffic: Traffic, url: str, numbers: range) -> list[BaseException]:
    """Send these, some at once; return what failed."""
    numbered = iter(numbers)
    failures: list[BaseException] = []
    # A connection a request: the kernel spreads connections over the workers, and a worker that dies takes its own with it.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:

        async def some() -> None:
            for number in numbered:
                try:
                    await traffic.one(session, url, number)
                except (aiohttp.ClientError, ConnectionError) as exc:
                    failures.append(exc)

        await asyncio.gather(*[some() for _ in range(AT_ONCE)])
    return failures


async def test_it_agrees_with_the_upstream_to_the_token(daemon: Start, upstream: Upstream, upstreams: Any) -> None:
    other = await upstreams()
    traffic = Traffic(1)
    upstream.always(traffic.answer)
    other.always(traffic.answer)
    running = daemon(routes(upstream.url, other.url), args=["--workers", "2"])
    assert await sent(traffic, running.url, range(REQUESTS)) == []
    code, told = await asyncio.to_thread(running.get_admin, "/-/usage")
    assert code == 200
    await asyncio.to_thread(ended, running)
    there = {row[0]: row for row in rows(ledger_of(running))}
    wrong = [(row, there.get(name)) for name, row in traffic.expected.items() if row != there.get(name)]
    assert wrong[:3] == []
    assert len(there) == REQUESTS
    total = json.loads(told)["total"]
    assert total["requests"] == REQUESTS
    for name, at in {"input_tokens": 6, "output_tokens": 7, "cached_tokens": 8, "estimated": 9, "cost_nano_usd": 10}.items():
        assert total[name] == sum(row[at] for row in traffic.expected.values()), name


async def test_a_worker_that_is_killed_loses_only_its_last_moment_and_nothing_is_there_twice(
    daemon: Start, upstream: Upstream, upstreams: Any
) -> None:
    other = await upstreams()
    traffic = Traffic(2)
    upstream.always(traffic.answer)
    other.always(traffic.answer)
    running = daemon(routes(upstream.url, other.url), args=["--workers", "2"])
    sending = asyncio.ensure_future(sent(traffic, running.url, range(1200)))
    await until(lambda: len(traffic.expected) > 500, 60)
    victim = (await running.status())["workers"][0]["pid"]
    killed_s = asyncio.get_running_loop().time()
    os.kill(victim, signal.SIGKILL)
    await sending
    await asyncio.to_thread(ended, running)
    found = Counter(row[0] for row in rows(ledger_of(running)))
    assert max(found.values()) == 1
    lost = set(traffic.expected) - set(found)
    # 0.1 s between two flushes, and as much again for a machine that is busy.
    assert all(-0.25 < traffic.finished_s[name] - killed_s < 0.05 for name in lost), [
        traffic.finished_s[name] - killed_s for name in lost
    ]


async def test_a_daemon_that_is_killed_loses_only_its_last_moment_and_the_next_one_writes_on(
    tmp_path: pathlib.Path, upstream: Upstream, upstreams: Any
) -> None:
    other = await upstreams()
    traffic = Traffic(3)
    upstream.always(traffic.answer)
    other.always(traffic.answer)
    running = Daemon(tmp_path, routes(upstream.url, other.url), args=["--workers", "2"])
    try:
        sending = asyncio.ensure_future(sent(traffic, running.url, range(900)))
        await until(lambda: len(traffic.expected) > 400, 60)
        killed_s = asyncio.get_running_loop().time()
        running.process.signal(signal.SIGKILL)  # control; its workers end with it
        await sending
        await asyncio.to_thread(running.process.wait)
    finally:
        running.stop()
    before = set(traffic.expected)
    again = Daemon(tmp_path, routes(upstream.url, other.url), args=["--workers", "2"])
    try:
        assert await sent(traffic, again.url, range(900, 1000)) == []
        await asyncio.to_thread(ended, again)
    finally:
        again.stop()
    there = {row[0]: row for row in rows(ledger_of(again))}
    assert len(rows(ledger_of(again))) == len(there)
    assert [row for name, row in there.items() if name in traffic.expected and row != traffic.expected[name]] == []
    lost = set(traffic.expected) - set(there)
    assert lost <= before
    # 0.1 s between two flushes, then a transaction; the rest is for a machine that is busy, also with reading the last answers.
    since_s = sorted(round(traffic.finished_s[name] - killed_s, 3) for name in lost)
    assert not since_s or (since_s[0] > -3.0 and since_s[-1] < 2.0), since_s


async def test_a_ledger_whose_disk_is_full_is_in_nobodys_way(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url))
    key = {"authorization": "Bearer key-ann"}
    assert (await fetch(running, CHAT, ask(), headers=key)).status == 200
    await until(lambda: ledger_of(running).exists() and len(rows(ledger_of(running))) == 1)
    _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (512, hard))
    for _ in range(5):
        assert (await fetch(running, CHAT, ask(), headers=key)).status == 200
    await until(lambda: "the ledger cannot be written" in running.process.output)
    metrics = await running.metrics()
    assert (metrics["routerd_ledger_up"], metrics["routerd_ledger_pending"]) == (0, 5)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    await until(lambda: "the ledger is written again" in running.process.output, 10)
    assert len(rows(ledger_of(running))) == 6
    metrics = await running.metrics()
    assert (metrics["routerd_ledger_up"], metrics["routerd_ledger_pending"]) == (1, 0)
    assert (metrics["routerd_ledger_written_total"], metrics["routerd_ledger_dropped_total"]) == (6, 0)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


async def test_postgres_may_go_and_come_back(daemon: Start, upstream: Upstream, postgres: PostgresServer) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url), args=["--workers", "2"], env={"ROUTERD_LEDGER": postgres.url})
    key = {"authorization": "Bearer key-bob"}
    assert (await fetch(running, CHAT, ask(), headers=key)).status == 200

    async def usage() -> tuple[int, Any]:
        code, text = await asyncio.to_thread(running.get_admin, "/-/usage?by=route&since=1d")
        return code, json.loads(text)

    assert (await usage())[1]["total"]["requests"] == 1
    await asyncio.to_thread(postgres.stop)
    for _ in range(10):
        assert (await fetch(running, CHAT, ask(), headers=key)).status == 200
    await until(lambda: "the ledger cannot be written" in running.process.output)
    assert (await usage())[0] == 503
    await asyncio.to_thread(postgres.start)
    await until(lambda: "the ledger is written again" in running.process.output, 15)
    code, told = await usage()
    assert (code, told["total"]["requests"], told["total"]["input_tokens"]) == (200, 11, 11 * 11)
    await asyncio.to_thread(ended, running)
    with psycopg.connect(postgres.url) as connection:
        found = connection.execute("SELECT COUNT(*), COUNT(DISTINCT (run, seq)) FROM routerd_requests").fetchone()
    assert found == (11, 11)
    assert not ledger_of(running).exists()


async def test_what_a_client_without_a_key_asks_is_nobodys(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream.url))
    assert (await fetch(running, CHAT, ask())).status == 401
    assert (await fetch(running, CHAT, ask("nothing"), headers={"authorization": "Bearer key-ann"})).status == 404
    await asyncio.to_thread(ended, running)
    assert [row[1:6] for row in rows(ledger_of(running))] == [("ann", "_other", "", "", "client_error")]


async def test_a_client_that_leaves_before_the_answer_is_charged_its_prompt(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.hang)
    running = daemon(routes(upstream.url))
    body = json.dumps(ask()).encode()
    async with aiohttp.ClientSession() as session:
        headers = {"authorization": "Bearer key-ann", "content-type": "application/json"}
        asking = asyncio.ensure_future(session.post(running.url + CHAT, data=body, headers=headers))
        await upstream.received(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await upstream.requests[0].gone.wait()
    await asyncio.to_thread(ended, running)
    tokens = -(-len(body) // 4)
    assert [row[1:] for row in rows(ledger_of(running))] == [
        ("ann", "m", "up0", "x0", "client_gone", tokens, 0, 0, 1, tokens * PRICE[0])
    ]


async def test_it_can_be_off(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url), args=["--ledger", "off"])
    assert (await fetch(running, CHAT, ask(), headers={"authorization": "Bearer key-ann"})).status == 200
    code, text = await asyncio.to_thread(running.get_admin, "/-/usage")
    assert (code, "there is no ledger" in text) == (404, True)
    await asyncio.to_thread(ended, running)
    assert not ledger_of(running).exists()


async def test_the_command_tells_the_same_from_the_daemon_and_from_the_file(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream.url))
    for name in ("ann", "ann", "bob"):
        assert (await fetch(running, CHAT, ask(), headers={"authorization": f"Bearer key-{name}"})).status == 200
    expected = """client,requests,ok,input_tokens,output_tokens,cached_tokens,reasoning_tokens,estimated,cost_usd
ann,2,2,22,6,0,0,0,0.000034000
bob,1,1,11,3,0,0,0,0.000017000
"""
    admin = running.admin.removeprefix("http://")
    assert await _usage("--admin", admin, "--format", "csv") == (0, expected)
    code, table = await _usage("--admin", admin, "--by", "model", "--since", "1h")
    assert (code, [line.split()[:5] for line in table.splitlines()[1:3]]) == (
        0,
        [["up0", "x0", "3", "3", "33"], ["total", "-", "3", "3", "33"]],
    )
    await asyncio.to_thread(ended, running)
    assert await _usage("--state-dir", str(ledger_of(running).parent), "--format", "csv") == (0, expected)
    assert (await _usage("--admin", admin))[0] == 3
    assert (await _usage("--ledger", "/nowhere/x"))[0] == 3
    assert (await _usage("--since", "yesterday"))[0] == 2


async def _usage(*args: str) -> tuple[int, str]:
    def run() -> tuple[int, str]:
        process = Process([*ROUTERD, "usage", *args])
        try:
            return process.wait(), process.output + "\n"
        finally:
            process.stop()

    return await asyncio.to_thread(run)
