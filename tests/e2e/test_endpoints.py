"""What two workers know together of an endpoint: cooldowns, breakers, drains; kept by a reload and by a worker's restart."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import urllib.request
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.upstream import Answer, Call, Upstream

Start = Callable[..., Daemon]
WORKERS = ("--workers", "2")


def routes(up: Upstream, more: str = "", route: str = "up/m-1, spare/echo") -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{up.url}"{more}}}
  spare: {{dialect: simulator, simulator: {{first_token: 0s, tokens_per_s: 10000}}}}
models:
  m: {{chain: [{route}]}}
"""


async def many(daemon: Daemon, count: int, **more: Any) -> list[str]:
    """Ask on a connection each, so that both workers answer; return the target of each."""
    found: list[Fetched] = [await fetch(daemon, CHAT, ask("m", **more)) for _ in range(count)]
    assert {one.status for one in found} == {200}
    return [one.headers["x-routerd-target"] for one in found]


async def endpoint(daemon: Daemon, name: str = "up") -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in (await daemon.status())["endpoints"] if one["endpoint"] == name)
    return found


async def post(daemon: Daemon, path: str) -> dict[str, Any]:
    def ask_admin() -> dict[str, Any]:
        with urllib.request.urlopen(urllib.request.Request(daemon.admin + path, method="POST"), timeout=5) as answer:
            decoded: dict[str, Any] = json.loads(answer.read())
            return decoded

    return await asyncio.to_thread(ask_admin)


async def test_a_cooldown_of_one_worker_is_that_of_all_and_outlives_a_worker(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(429, "slow down", headers=[("retry-after", "60")]))
    running = daemon(routes(upstream), args=WORKERS)
    assert set(await many(running, 20)) == {"spare/echo"}
    assert len(upstream.requests) == 1
    assert (await endpoint(running))["rank"] == "cooling"
    killed = (await running.status())["workers"][0]["pid"]
    os.kill(killed, signal.SIGKILL)

    async def is_back() -> bool:
        worker = (await running.status())["workers"][0]
        return bool(worker["up"] and worker["pid"] != killed)

    await until(is_back)
    await many(running, 10)
    assert len(upstream.requests) == 1
    assert 50 < (await running.metrics())['routerd_endpoint_cooldown_seconds{endpoint="up"}'] <= 60


async def test_a_good_answer_that_uses_the_rate_limit_up_is_the_last(daemon: Start, upstream: Upstream) -> None:
    limits = (("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s"), ("retry-after", "1"))
    upstream.always(answers.reply(headers=(answers.JSON, *limits)))
    running = daemon(routes(upstream))
    assert await many(running, 3) == ["up/m-1", "spare/echo", "spare/echo"]
    assert (await endpoint(running))["reasons"][0].endswith("s, its rate limit is used up")


async def test_retry_after_on_a_good_answer_means_nothing(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply(headers=(answers.JSON, ("retry-after", "60"), ("x-ratelimit-remaining-requests", "5"))))
    assert await many(daemon(routes(upstream)), 3) == ["up/m-1"] * 3


async def test_a_breaker_opens_over_all_workers_is_kept_by_a_reload_and_ramps_up(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(500))
    breaker = ", breaker: {min_requests: 6, open_for: 1s, ramp: 500ms}"
    running = daemon(routes(upstream, breaker), args=WORKERS)
    await many(running, 20)
    assert len(upstream.requests) == 6
    assert (await endpoint(running))["breaker"] == "open"
    assert (await running.metrics())['routerd_breaker_state{endpoint="up"}'] == 2
    running.write(routes(upstream, breaker + ", timeouts: {connect: 3s}"))
    await running.generation(2)
    assert (await endpoint(running))["rank"] == "open"
    upstream.always(answers.reply())

    async def is_closed() -> bool:
        return bool((await endpoint(running))["breaker"] == "closed")

    await until(is_closed)
    assert await many(running, 4) == ["up/m-1"] * 4
    assert "breaker open" in running.process.output


async def test_a_breaker_outlives_the_workers(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(500))
    running = daemon(routes(upstream, ", breaker: {min_requests: 6, open_for: 60s}"), args=WORKERS)
    await many(running, 10)
    for number in range(2):
        killed = (await running.status())["workers"][number]["pid"]
        os.kill(killed, signal.SIGKILL)

        async def is_back(number: int = number, killed: int = killed) -> bool:
            worker = (await running.status())["workers"][number]
            return bool(worker["up"] and worker["pid"] != killed)

        await until(is_back, 10)
    asked = len(upstream.requests)
    assert (await endpoint(running))["breaker"] == "open"
    assert await many(running, 6) == ["spare/echo"] * 6
    assert len(upstream.requests) == asked == 6


async def test_a_passage_that_is_cut_counts_against_the_endpoint(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.cut_unary())
    running = daemon(routes(upstream, ", direct: true, breaker: {min_requests: 3}"))
    for _ in range(3):
        with pytest.raises(aiohttp.ClientError):
            await fetch(running, "/providers/up/files/f/content")
    assert (await endpoint(running))["breaker"] == "open"


CLIENTS_OWN = [400, 403, 404, 413, 415, 422, 451]
OWN_METHOD = [405, 406, 408, 409, 411, 412, 416, 426, 431]  # where method, path and fields are the client's, too


async def test_a_clients_own_errors_never_open_a_breaker(daemon: Start, upstream: Upstream) -> None:
    words = {403: "Your input was flagged by moderation"}
    upstream.script(*(answers.error(status, words.get(status, "no")) for status in CLIENTS_OWN * 3 + OWN_METHOD))
    running = daemon(routes(upstream, ", direct: true, breaker: {min_requests: 2, failure_ratio: 0.1}", route="up/m-1"))
    for stream in (False, True):
        for _ in CLIENTS_OWN:
            assert (await fetch(running, CHAT, ask("m", stream=stream))).status != 200
    for status in CLIENTS_OWN + OWN_METHOD:
        assert (await fetch(running, "/providers/up/files/f")).status == status
    found = await endpoint(running)
    assert (found["breaker"], found["failures"], found["rank"]) == ("closed", 0, "free")
    assert len(upstream.requests) == 3 * len(CLIENTS_OWN) + len(OWN_METHOD)


async def drips(call: Call) -> None:
    await call.head(200, (answers.JSON, ("transfer-encoding", "chunked")))
    await answers.dripping(call, b" ")


async def streams_for_ever(call: Call) -> None:
    await call.head(200, answers.EVENT_STREAM)
    await answers.dripping(call, answers.event(answers.delta("x")))


@pytest.mark.parametrize(
    ("answer", "timeouts", "stream", "breaker"),
    [
        pytest.param(drips, "total: 150ms", False, "closed", id="total, while it answers"),
        pytest.param(streams_for_ever, "stream_total: 150ms", True, "closed", id="stream_total"),
        pytest.param(answers.hang, "total: 150ms", False, "open", id="total, silent"),
        pytest.param(answers.hang, "first_byte: 150ms", True, "open", id="first_byte"),
        pytest.param(answers.drip(b": wait\n\n"), "first_token: 150ms", True, "open", id="comments"),
    ],
)
async def test_an_endpoint_is_to_blame_for_its_silence_and_not_for_the_end_of_a_requests_time(
    daemon: Start, upstream: Upstream, answer: Answer, timeouts: str, stream: bool, breaker: str
) -> None:
    upstream.always(answer)
    running = daemon(routes(upstream, f", breaker: {{min_requests: 3}}, timeouts: {{{timeouts}}}", route="up/m-1"))
    for _ in range(3):
        told = await fetch(running, CHAT, ask("m", stream=stream))
        assert (told.status == 504 and told.error["code"] == "upstream_timeout") or b"stream_total" in told.body
    found = await endpoint(running)
    assert (found["breaker"], found["failures"]) == (breaker, 0)  # what opened it is not counted again


async def test_an_open_endpoint_is_still_asked_when_there_is_no_other(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(500))
    running = daemon(routes(upstream, ", breaker: {min_requests: 2}", route="up/m-1"))
    for _ in range(5):
        assert (await fetch(running, CHAT, ask("m"))).status >= 500
    assert len(upstream.requests) == 5


async def test_cut_streams_count_against_the_endpoint(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.cut(answers.event(answers.delta("a"))))
    running = daemon(routes(upstream, ", breaker: {min_requests: 3}"))
    for _ in range(3):
        await fetch(running, CHAT, ask("m", stream=True))
    assert (await endpoint(running))["breaker"] == "open"


async def test_a_drained_endpoint_gets_nothing_new_and_its_streams_finish(daemon: Start, upstream: Upstream) -> None:
    gate = asyncio.Event()
    upstream.always(answers.stream(gates=[gate]))
    running = daemon(routes(upstream), args=WORKERS)
    stream = asyncio.ensure_future(fetch(running, CHAT, ask("m", stream=True)))
    await upstream.received(1)
    told = await post(running, "/-/endpoints/up/drain")
    assert (told["rank"], told["inflight"]) == ("drained", 1)
    assert set(await many(running, 6)) == {"spare/echo"}
    running.write(routes(upstream, ", direct: true", "spare/echo, up/m-1"))
    await running.generation(2)
    gate.set()
    assert b"[DONE]" in (await stream).body
    await post(running, "/-/endpoints/spare/drain")
    refused = await fetch(running, CHAT, ask("m"))
    assert (refused.status, refused.error["code"]) == (503, "no_target")
    assert len(upstream.requests) == 1
    await post(running, "/-/endpoints/up/undrain")
    assert (await fetch(running, CHAT, ask("m", stream=True))).headers["x-routerd-target"] == "up/m-1"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_drain_holds_over_a_restart_and_another_address_until_it_is_taken_back(
    tmp_path: pathlib.Path, upstream: Upstream, upstreams: Any, end: signal.Signals
) -> None:
    upstream.always(answers.reply())
    moved = await upstreams()
    moved.always(answers.reply())
    first = Daemon(tmp_path, routes(upstream))
    try:
        assert await many(first, 1) == ["up/m-1"]
        await post(first, "/-/endpoints/up/drain")
        first.write(routes(moved))
        await first.generation(2)
        assert await many(first, 3) == ["spare/echo"] * 3
        first.process.signal(end)
        await asyncio.to_thread(first.process.wait)
    finally:
        first.stop()
    second = Daemon(tmp_path, routes(upstream))
    try:
        assert await many(second, 3) == ["spare/echo"] * 3
        told = await endpoint(second)
        assert (told["rank"], told["drained_since_unix_s"] > 1.7e9) == ("drained", True)
        await post(second, "/-/endpoints/up/undrain")
        assert await many(second, 1) == ["up/m-1"]
    finally:
        second.stop()
    assert (len(upstream.requests), len(moved.requests)) == (2, 0)


async def test_an_endpoint_that_fails_its_probe_goes_behind_and_comes_back(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(503, "loading"))
    probe = ", health: {path: /health, every: 50ms, timeout: 50ms, fall: 2, rise: 1}"
    running = daemon(routes(upstream, probe), args=WORKERS)

    def has(rank: str) -> Callable[[], Any]:
        async def found() -> bool:
            return bool((await endpoint(running))["rank"] == rank)

        return found

    await until(has("down"))
    assert (await running.metrics())['routerd_endpoint_healthy{endpoint="up"}'] == 0
    upstream.always(answers.reply())
    await until(has("free"))
    assert await many(running, 3) == ["up/m-1"] * 3
    assert (await running.metrics())['routerd_endpoint_healthy{endpoint="up"}'] == 1
    assert {request.target for request in upstream.requests} >= {"/health"}


async def test_the_least_busy_is_found_by_the_engines_own_gauges(daemon: Start) -> None:
    async with Upstream() as busy, Upstream() as idle:
        for up, running_now in ((busy, 50), (idle, 1)):
            up.always(metrics_or_reply(running_now))
        text = f"""
version: 1
providers:
  gpu:
    endpoints: [{{name: busy, url: "{busy.url}"}}, {{name: idle, url: "{idle.url}"}}]
    balance: least_busy
    load: {{every: 50ms}}
models:
  m: {{chain: [gpu/m-1]}}
"""
        running = daemon(text, args=WORKERS)

        async def is_known() -> bool:
            return [one["load"] for one in (await running.status())["endpoints"]] == [50, 1]

        await until(is_known)
        for _ in range(6):
            assert (await fetch(running, CHAT, ask("m"))).status == 200
        assert [sum(r.target != "/metrics" for r in up.requests) for up in (busy, idle)] == [0, 6]


def metrics_or_reply(running_now: int) -> Answer:
    """Answer /metrics as a vLLM does, anything else with a completion."""
    gauges = answers.reply(f"vllm:num_requests_running 0{running_now}\nvllm:num_requests_waiting 0\n".encode())
    whole = answers.reply()

    async def answer(call: Call) -> None:
        await (gauges if call.request.target == "/metrics" else whole)(call)

    return answer
