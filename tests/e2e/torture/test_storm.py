"""Reloads under load: no request fails, none mixes generations, no connection is opened anew, nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import signal
from collections.abc import Callable

import aiohttp

from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]
STREAMS = 50
CLIENTS = 8


def routes(upstream: Upstream, model: str, more: str = "") -> str:
    """Return a configuration whose target carries the edit in its name, so that an answer shows which graph made it."""
    up = f'providers: {{up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}}}'
    return f"version: 1\n{up}\nmodels:\n  m: {{chain: [up/{model}]}}\n  held: {{chain: [up/held]}}\n{more}"


async def post(session: aiohttp.ClientSession, running: Daemon, path: str = "/-/reload") -> tuple[int, dict[str, object]]:
    async with session.post(running.admin + path) as answer:
        return answer.status, await answer.json()


async def test_reloads_under_load_cost_nothing(daemon: Start, upstream: Upstream, long_form: bool) -> None:
    """50 streams stay open over all reloads while 8 clients ask without a pause, each over one connection."""
    gate = asyncio.Event()

    async def answer(call: Call) -> None:
        asked = call.request.json()
        if asked["model"] == "held":
            await answers.stream(["before", "after"], gates=[_open(), gate])(call)
        else:
            await (answers.stream(["a", "b"]) if asked.get("stream") else answers.reply())(call)

    upstream.always(answer)
    running = daemon(routes(upstream, "g1"), args=["--workers", "2"])
    held = [asyncio.create_task(fetch(running, CHAT, ask(model="held", stream=True))) for _ in range(STREAMS)]
    await upstream.received(STREAMS)
    before = await running.metrics()
    wrong: list[str] = []
    counted = 0
    done = asyncio.Event()

    async def client(stream: bool) -> None:
        nonlocal counted
        async with aiohttp.ClientSession() as session:
            while not done.is_set():
                async with session.post(running.url + CHAT, json=ask(stream=stream)) as got:
                    body = await got.read()
                    counted += 1
                    target, number = got.headers.get("x-routerd-target"), got.headers.get("x-routerd-generation")
                    if got.status != 200 or target != f"up/g{number}" or (stream and b"[DONE]" not in body):
                        wrong.append(f"{got.status} {target} in generation {number}: {body[:200]!r}")

    clients = [asyncio.create_task(client(i % 2 == 0)) for i in range(CLIENTS)]
    await until(lambda: counted > 20 * CLIENTS)
    opened = upstream.connections_opened
    reloads = 1000 if long_form else 100
    falls: list[str] = []
    async with aiohttp.ClientSession() as session:
        for number in range(2, reloads + 2):
            running.write(routes(upstream, f"g{number}"))
            status, told = await post(session, running)
            assert (status, told["generation"]) == (200, number), told
            if number % 20 == 0:
                after = await running.metrics()
                falls += [key for key, value in before.items() if "_total" in key and after.get(key, 0.0) < value]
                before = after
    done.set()
    outcomes = await asyncio.gather(*clients, return_exceptions=True)
    new_connections = upstream.connections_opened - opened
    gate.set()
    streams = await asyncio.gather(*held)
    assert [o for o in outcomes if o is not None] == []
    assert wrong == []
    assert falls == []
    assert counted > reloads
    assert new_connections <= CLIENTS  # a client more at one worker than before; none for a reload
    for one in streams:
        assert (one.status, one.headers["x-routerd-generation"], one.events()[-1]) == (200, "1", "[DONE]")
        assert b"after" in one.body


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


# ── what is left behind ──


def resources(running: Daemon) -> tuple[float, int]:
    """Return resident memory in MB and open files of control and workers together."""
    pids = [running.process.pid, *_children(running.process.pid)]
    text = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(_rss(one)) for one in text) / 1024, sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def _rss(status: str) -> str:
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return found[1] if found else "0"


def _children(pid: int) -> list[int]:
    return [int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_reloads_leave_no_memory_and_no_file_behind(daemon: Start, upstream: Upstream, long_form: bool) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream, "g1", big(0)), args=["--workers", "1"])
    reloads = 5000 if long_form else 150

    async def reload(times: int, start: int) -> None:
        async with aiohttp.ClientSession() as session:
            for number in range(start, start + times):
                running.write(routes(upstream, f"g{number}", big(number)))
                assert (await post(session, running))[0] == 200
        assert (await fetch(running, CHAT, ask())).status == 200
        await asyncio.sleep(0.5)  # freeing is spread over the beats of the worker

    await reload(reloads, 2)  # the history is full and allocators have their size
    before = await asyncio.to_thread(resources, running)
    await reload(reloads, reloads + 2)
    after = await asyncio.to_thread(resources, running)
    assert after[1] <= before[1]
    assert after[0] <= before[0] * 1.02


def big(number: int) -> str:
    return "".join(f"  x{i}: {{description: edit {number}, chain: [up/x{i}]}}\n" for i in range(20))


# ── all at once ──


async def test_signal_api_and_file_at_once_end_at_the_newest_bytes(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream, "g0"), args=["--workers", "2"])
    async with aiohttp.ClientSession() as session:
        for turn in range(1, 11):
            asked = []
            for step in range(5):
                running.write(routes(upstream, f"t{turn}s{step}"))
                running.process.signal(signal.SIGHUP)
                asked.append(asyncio.create_task(post(session, running)))
                await asyncio.sleep(0)
            told = await asyncio.gather(*asked)
            assert {status for status, _ in told} == {200}, told
            assert (await fetch(running, CHAT, ask())).headers["x-routerd-target"] == f"up/t{turn}s4"
    status = await running.status()
    assert {worker["generation"] for worker in status["workers"]} == {status["generation"]}

    async def settled() -> bool:
        return (await running.status())["drift"] is False

    await until(settled)
    assert (await fetch(running, CHAT, ask())).headers["x-routerd-target"] == "up/t10s4"


async def test_a_provider_that_goes_in_the_middle_of_a_stream_ends_it_in_good_order(
    daemon: Start, upstreams: Callable[[], object]
) -> None:
    old, new = await upstreams(), await upstreams()  # type: ignore[misc]
    gate = asyncio.Event()
    old.script(answers.stream(["before", "after"], gates=[_open(), gate]))
    new.always(answers.reply())
    running = daemon(routes(old, "g1"), args=["--workers", "1"])
    held = asyncio.create_task(fetch(running, CHAT, ask(stream=True)))
    await old.received(1)
    running.write(routes(new, "g2").replace("up:", "other:").replace("up/", "other/"))
    await running.generation(2)
    got = await fetch(running, CHAT, ask())
    assert (got.status, got.headers["x-routerd-target"]) == (200, "other/g2")

    async def gauges() -> list[str]:
        return [key for key in await running.metrics() if key.startswith("routerd_inflight") and 'endpoint="up"' in key]

    gate.set()
    answer = await held
    assert answer.headers["x-routerd-target"] == "up/g1"
    assert answer.events()[-1] == "[DONE]"
    await until(lambda: old.connections_open == 0)  # no graph names it: its pool is closed when the last lease ends

    async def forgotten() -> bool:
        return not await gauges()

    await until(forgotten)


async def test_every_outcome_is_told_in_one_word_everywhere(daemon: Start, upstream: Upstream) -> None:
    """The API's answer, the counter, the log and /-/status; the event has the API's own fields."""
    running = daemon(routes(upstream, "g1", big(0)), args=["--workers", "1"])
    good = routes(upstream, "g1", big(0))
    tests = "tests: [{name: t, given: {model: m}, expect: {target: up/other}}]\n"
    edits = {
        "applied": routes(upstream, "g2", big(0)),
        "unchanged": routes(upstream, "g2", big(0)) + "# a comment\n",
        "yaml": good + "  - : [\n",
        "interpolate": good + "x-a: ${NO_SUCH_VARIABLE}\naliases: {a: '${NO_SUCH_VARIABLE}'}\n",
        "schema": good + "modles: {}\n",
        "semantic": good.replace("[up/g1]", "[nobody/g1]"),
        "tests": good + tests,
        "shrink_guard": routes(upstream, "g3"),
    }
    async with (
        aiohttp.ClientSession() as session,
        session.get(running.admin + "/events", timeout=aiohttp.ClientTimeout(total=60)) as events,
    ):
        for word, text in edits.items():
            running.config.write_text(text)
            status, told = await post(session, running)
            assert (told["result"], status) == (word, 200 if word in ("applied", "unchanged") else 422), told
            await until(lambda w=word: f"): {w}" in running.process.output)  # type: ignore[misc]
            assert (await running.metrics())[f'routerd_config_reloads_total{{result="{word}",trigger="api"}}'] == 1
            assert (await running.status())["last_reload"]["result"] == word
            assert await _heard(events, "api") == told
        running.config.unlink()
        status, told = await post(session, running)
        assert (status, told["result"]) == (422, "read")
        running.config.write_text(good)
        assert (await post(session, running, "/-/rollback"))[1]["result"] == "applied"


async def _heard(events: aiohttp.ClientResponse, trigger: str) -> dict[str, object]:
    """Return the next event of a reload by `trigger`."""
    async with asyncio.timeout(5):
        while True:
            line = (await events.content.readline()).decode()
            if line.startswith("data: ") and (data := json.loads(line[6:])).get("trigger") == trigger:
                return dict(data)
