"""Two daemons that share one Redis: one limit over both, and what each does while it is away."""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from routerd.state.scripts import CORRECT, TAKE
from tests.e2e.test_budget_exact import ASKED, NEEDS, reply, routes, storm
from tests.support import answers
from tests.support.daemon import ROUTERD, Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.link import Link
from tests.support.process import Process
from tests.support.redis import RedisServer
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
LIMIT = 100


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path)
    yield running
    running.resume()
    running.stop()


def shared(server: RedisServer, *more: str, workers: int = 2) -> dict[str, list[str]]:
    return {"args": ["--state", server.url, "--workers", str(workers), "--state-timeout", "5s", *more]}


async def is_up(running: Daemon, up: bool) -> bool:
    states = [v for k, v in (await running.metrics()).items() if k.startswith("routerd_state_up")]
    return bool(states) and all(bool(state) is up for state in states)


@pytest.mark.parametrize(
    "budget", [f"{{requests: {LIMIT}, per: 1h}}", f"{{tokens: {LIMIT * NEEDS}, per: month}}"], ids=["requests", "tokens"]
)
async def test_exactly_the_limit_passes_over_two_daemons(
    daemon: Start, upstream: Upstream, server: RedisServer, budget: str
) -> None:
    upstream.always(reply())
    text = routes(upstream.url, budget)
    pair = [daemon(text, **shared(server)) for _ in range(2)]
    a, b = await asyncio.gather(*(storm(one, ASKED // 2) for one in pair))
    assert Counter(a) + Counter(b) == {200: LIMIT, 429: ASKED - LIMIT}
    assert len(upstream.requests) == LIMIT
    assert await is_up(pair[0], True)
    used = (await pair[0].metrics())['routerd_budget_used_ratio{budget="b",mode="enforce",scope="global"}']
    assert used == 1.0


AT_EVERY_PLACE = """
version: 1
providers: {{up: {{base_url: "{url}", auth: {{type: none}}, budgets: [at-provider]}}}}
models:
  m:
    budgets: [requests, tokens, usd, slots, at-endpoint]
    chain: [up/x]
    price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
budgets:
  requests: {{requests: 1000, per: 1h, burst: 500}}
  tokens: {{tokens: 1000000, per: month, scope: client}}
  usd: {{usd: 100, per: 1d, scope: model}}
  slots: {{concurrency: 100}}
  at-provider: {{tokens: 1000000, per: 1h, scope: provider}}
  at-endpoint: {{concurrency: 100, scope: endpoint}}
"""
TAKES = hashlib.sha1(TAKE.encode()).hexdigest().encode()
CORRECTS = hashlib.sha1(CORRECT.encode()).hexdigest().encode()


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_request_costs_one_round_trip_whatever_budgets_it_has(
    daemon: Start, upstream: Upstream, server: RedisServer, stream: bool
) -> None:
    upstream.always(answers.stream(["x"]) if stream else reply())
    async with Link(server.port) as link:
        running = daemon(
            AT_EVERY_PLACE.format(url=upstream.url),
            args=["--state", f"redis://127.0.0.1:{link.port}/0", "--state-timeout", "5s"],
        )
        await until(lambda: is_up(running, True))
        link.delay_s = 0.2
        for _ in range(3):  # opens as many connections as may be wanted at a time: to open one is a round trip or two
            opened = await asyncio.gather(*(fetch(running, CHAT, ask(stream=stream)) for _ in range(6)))
            assert {answer.status for answer in opened} == {200}
        link.delay_s = 1.0
        link.asked.clear()
        for _ in range(3):
            began_s = time.monotonic()
            assert (await fetch(running, CHAT, ask(stream=stream))).status == 200
            assert 1.0 <= time.monotonic() - began_s < 1.9
        await asyncio.sleep(0.1)  # what is given back follows in the background
        assert link.asked.count(TAKES) == 3
        assert 1 <= link.asked.count(CORRECTS) <= 3 + 2  # batched; two may say that a host and its leases live


async def test_a_target_without_room_costs_the_request_nothing_of_its_own(
    daemon: Start, upstream: Upstream, upstreams: Any, server: RedisServer
) -> None:
    gate, spare = asyncio.Event(), await upstreams()
    upstream.always(answers.gated(reply(), gate))
    spare.always(reply())
    text = f"""
version: 1
providers:
  up: {{base_url: "{upstream.url}", auth: {{type: none}}, budgets: [one]}}
  spare: {{base_url: "{spare.url}", auth: {{type: none}}, budgets: [one]}}
models: {{m: {{budgets: [b], chain: [up/x, spare/x]}}}}
budgets: {{one: {{concurrency: 1, scope: endpoint}}, b: {{requests: 3, per: 1h}}}}
"""
    running = daemon(text, **shared(server, workers=1))
    held = asyncio.create_task(fetch(running, CHAT, ask()))
    await upstream.received(1)
    assert [(await fetch(running, CHAT, ask())).status for _ in range(3)] == [200, 200, 429]
    gate.set()
    assert (await held).status == 200
    assert (len(upstream.requests), len(spare.requests)) == (1, 2)

    async def both_are_free() -> bool:
        ratios = [v for k, v in (await running.metrics()).items() if "used_ratio" in k and 'budget="one"' in k]
        return ratios == [0.0]

    await until(both_are_free, 25)  # what this worker saw last counts for as long as a lease


async def test_a_slot_freed_by_one_daemon_is_found_by_who_waits_at_the_other(
    daemon: Start, upstream: Upstream, server: RedisServer
) -> None:
    gate = asyncio.Event()
    upstream.script(answers.gated(reply(), gate))
    upstream.always(reply())
    a, b = (daemon(routes(upstream.url, "{concurrency: 1, queue: {max: 5, wait: 20s}}"), **shared(server)) for _ in range(2))
    held = asyncio.create_task(fetch(a, CHAT, ask()))
    await upstream.received(1)
    waits = asyncio.create_task(fetch(b, CHAT, ask()))
    await until(lambda: depth_is_one(b))
    gate.set()
    assert [(await task).status for task in (held, waits)] == [200, 200]


async def depth_is_one(running: Daemon) -> bool:
    return (await running.metrics()).get('routerd_budget_queue_depth{budget="b"}') == 1


async def test_without_the_server_each_host_lets_its_share_pass_and_nobody_waits(
    daemon: Start, upstream: Upstream, server: RedisServer
) -> None:
    upstream.always(reply())
    text = routes(upstream.url, "{requests: 10, per: 1h}")
    pair = [daemon(text, **shared(server, "--state-timeout", "50ms", workers=1)) for _ in range(2)]
    await asyncio.gather(*(until(lambda one=one: is_up(one, True)) for one in pair))
    await asyncio.sleep(6)  # within five seconds each has heard of the other
    assert [(await fetch(one, CHAT, ask())).status for one in pair for _ in range(2)] == [200] * 4
    server.pause()
    for running, left in zip(pair, ((10 - 2) // 2, (10 - 4) // 2), strict=True):  # the first has seen two, the second four
        began_s = time.monotonic()
        got = [await fetch(running, CHAT, ask()) for _ in range(left + 2)]
        assert [one.status for one in got] == [200] * left + [429] * 2
        assert got[-1].headers["retry-after"] == "1"
        assert time.monotonic() - began_s < 1.5
        assert await is_up(running, False)
    server.resume()
    for running in pair:
        await until(lambda running=running: is_up(running, True))
        assert (await running.metrics())['routerd_state_losses_total{worker="0"}'] >= 1
    assert (await fetch(pair[0], CHAT, ask())).status == 200  # what was given back meanwhile is there


async def test_an_operator_may_want_a_refusal_while_the_server_is_away(
    daemon: Start, upstream: Upstream, server: RedisServer
) -> None:
    upstream.always(reply())
    text = routes(upstream.url, "{requests: 3, per: 1h}").replace("chain: [up/x]}", "chain: [up/x]}, free: {chain: [up/x]}")
    running = daemon(text, **shared(server, "--state-on-loss", "refuse"))
    assert (await fetch(running, CHAT, ask())).status == 200
    server.stop()

    async def refused() -> bool:
        answer = await fetch(running, CHAT, ask())
        assert answer.status in (429, 503)
        return answer.status == 503 and answer.error["code"] == "state_unavailable" and answer.headers["retry-after"] == "1"

    await until(refused)
    assert (await fetch(running, CHAT, ask("free"))).status == 200
    server.start()
    await until(lambda: is_up(running, True))
    assert (await fetch(running, CHAT, ask())).status == 200


async def test_a_daemon_starts_without_the_server_and_finds_it_later(
    daemon: Start, upstream: Upstream, server: RedisServer
) -> None:
    upstream.always(reply())
    server.stop()
    running = daemon(routes(upstream.url, "{requests: 3, per: 1h}"), **shared(server))
    assert (await fetch(running, CHAT, ask())).status == 200
    server.start()
    await until(lambda: is_up(running, True))
    assert [(await fetch(running, CHAT, ask())).status for _ in range(4)] == [200, 200, 200, 429]


def test_a_wrong_address_ends_the_start_and_no_password_is_shown(tmp_path: pathlib.Path) -> None:
    (tmp_path / "routes.yaml").write_text("version: 1\n")
    process = Process([*ROUTERD, "serve", "--state", "http://:hunter2@h"], cwd=tmp_path)
    assert process.wait() == 2
    assert "--state: the address of shared counters begins with redis://" in process.output
    assert "hunter2" not in process.output
    process.stop()
