"""The fault grid after the commit: the client has the head and some content, and then the stream goes wrong.

In each cell the client must learn that it has not got everything, in its own words: an error event and no [DONE] in OpenAI's, an
`event: error` and no `message_stop` in Anthropic's; whether the upstream speaks the client's dialect or another one. The
upstream's slot, the budgets and the counts are given back, the endpoint is blamed where it is to blame. Nobody else is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.bench.rig import rss_mb
from tests.support import answers
from tests.support.answers import DONE, delta, event
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, Fetched, RawClient, ask, fetch, head_of
from tests.support.upstream import Answer, Call, Upstream
from tests.support.voices import VOICES

Start = Callable[..., Daemon]
HALF = {name: (*voice.begin, voice.piece("ha"), voice.piece("lf")) for name, voice in VOICES.items()}


def broken(dialect: str, how: str) -> Answer:
    """Say the half, then go wrong."""

    async def answer(call: Call) -> None:
        voice = VOICES[dialect]
        await call.head(200, voice.stream_head)
        for block in HALF[dialect]:
            await call.chunk(block)
        match how:
            case "cut":
                call.close()
            case "reset":
                call.reset()
            case "ends":  # in good order, but without a finish
                await call.end_chunks()
            case "error":
                await call.chunk(voice.fault_event(529, "overloaded"))
                await call.end_chunks()
            case "malformed":
                for _ in range(3):
                    await call.chunk(voice.malformed)
                await call.client_gone()
            case "drips":
                await answers.dripping(call, HALF[dialect][-1])
            case _:
                await call.client_gone()

    return answer


def routes(bad: Upstream, good: Upstream, dialect: str, more: str = "") -> str:
    url = bad.url.removesuffix("/v1")
    return f"""
version: 1
providers:
  up: {{dialect: {dialect}, base_url: "{url}", auth: {{type: none}}, budgets: [slot]}}
  good: {{dialect: openai, base_url: "{good.url}", auth: {{type: none}}}}
models:
  m: {{chain: [up/x, good/y], timeouts: {{idle: 400ms{more}}}}}
budgets: {{slot: {{concurrency: 1, scope: endpoint}}}}
"""


async def stream_of(running: Daemon, client: str, model: str = "m") -> Fetched:
    if client == "openai":
        return await fetch(running, CHAT, ask(model, stream=True))
    return await fetch(running, "/v1/messages", ask(model, stream=True, max_tokens=50))


def told(answer: Fetched, client: str) -> str:
    """Check that the end is an error and nothing that looks whole; return its message."""
    assert answer.status == 200
    text = answer.body.decode()
    assert "ha" in text
    blocks = [block for block in text.split("\n\n") if block.strip()]
    if client == "openai":
        last = json.loads(blocks[-1].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] == "error"
        assert "[DONE]" not in text
        assert '"finish_reason":"stop"' not in text.replace(" ", "")
        return str(last["error"]["message"])
    kind, _, data = blocks[-1].partition("\n")
    assert kind == "event: error"
    last = json.loads(data.removeprefix("data: "))
    assert last["type"] == "error"
    assert "message_stop" not in text
    assert "stop_reason" not in text.partition("content_block_start")[2]
    return str(last["error"]["message"])


@pytest.fixture
async def good() -> Any:
    async with Upstream() as server:
        server.always(answers.stream(["good"]))
        yield server


HOWS = ("cut", "reset", "ends", "error", "malformed", "idle")
CLIENTS = ("openai", "anthropic")
CELLS = [(dialect, how) for dialect in HALF for how in HOWS]
LEFT = [(dialect, f"left-by-{client}") for dialect in HALF for client in CLIENTS]


@dataclass(frozen=True)
class Rig:
    """The daemon, an upstream for each cell, the one that must never be asked, and what every client got of every cell."""

    daemon: Daemon
    ups: Mapping[tuple[str, str], Upstream]
    good: Upstream
    got: Mapping[tuple[str, str], list[Fetched]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """All cells are asked at once; of one cell a client after the other, who is let in when the first has given its slot back."""
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(Upstream())
        good.always(answers.stream(["good"]))
        ups: dict[tuple[str, str], Upstream] = {}
        providers = [f'  good: {{dialect: openai, base_url: "{good.url}", auth: {{type: none}}}}']
        models = []
        for dialect, how in (*CELLS, *LEFT):
            up = ups[dialect, how] = await stack.enter_async_context(Upstream())
            up.always(broken(dialect, how))
            url, at, idle = up.url.removesuffix("/v1"), f"{dialect}-{how}", "500ms" if how == "idle" else "30s"
            more = f"auth: {{type: none}}, budgets: [slot], timeouts: {{idle: {idle}}}"
            providers.append(f'  {at}: {{dialect: {dialect}, base_url: "{url}", {more}}}')
            models.append(f"  {at}: {{chain: [{at}/x, good/y]}}")
        text = ["version: 1", "providers:", *providers, "models:", *models]
        text.append("budgets: {slot: {concurrency: 1, scope: endpoint}}")
        running = Daemon(tmp_path_factory.mktemp("committed"), "\n".join(text))

        async def both(dialect: str, how: str) -> list[Fetched]:
            return [await stream_of(running, client, f"{dialect}-{how}") for client in CLIENTS]

        try:
            found = await asyncio.gather(*(both(*cell) for cell in CELLS))
            yield Rig(running, ups, good, dict(zip(CELLS, found, strict=True)))
        finally:
            running.stop()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dialect", HALF)
async def test_what_breaks_after_the_commit_is_told_in_the_clients_words(rig: Rig, dialect: str, how: str) -> None:
    for client, answer in zip(CLIENTS, rig.got[dialect, how], strict=True):
        message = told(answer, client)
        if how == "error":
            assert "overloaded" in message
    assert len(rig.ups[dialect, how].requests) == 2  # the slot of the first was free again
    assert rig.good.requests == []
    at = f"{dialect}-{how}"
    endpoint = next(one for one in (await rig.daemon.status())["endpoints"] if one["endpoint"] == at)
    assert (endpoint["inflight"], endpoint["failures"]) == (0, 2)
    samples = await rig.daemon.metrics()
    interrupted = {k: v for k, v in samples.items() if k.startswith("routerd_stream_interruptions_total") and f'"{at}/x"' in k}
    assert sum(interrupted.values()) == 2
    attempts = {k: v for k, v in samples.items() if k.startswith("routerd_attempts_total") and f'"{at}/x"' in k}
    assert sum(attempts.values()) == 2
    assert attempts.get(f'routerd_attempts_total{{result="ok",target="{at}/x"}}', 0) == 0  # though it had begun well
    assert samples[f'routerd_requests_total{{client="_anonymous",outcome="truncated",route="{at}"}}'] == 2


@pytest.mark.parametrize("client", ["openai", "anthropic"])
async def test_stream_total_ends_a_stream_that_moves_only_where_it_is_set(
    daemon: Start, upstream: Upstream, good: Upstream, client: str
) -> None:
    upstream.always(broken("openai", "drips"))
    answer = await stream_of(daemon(routes(upstream, good, "openai", ", stream_total: 700ms")), client)
    assert "stream_total" in told(answer, client)
    assert answer.body.count(b"lf") > 3
    async with RawClient(daemon(routes(upstream, good, "openai", ", total: 300ms, first_token: 300ms"))) as raw:
        await raw.send(head_of(CHAT, json.dumps(ask(stream=True)).encode()))
        for _ in range(20):  # a second and more
            assert b"error" not in await raw.read_until(b"lf")


async def test_one_malformed_event_is_left_out_and_the_stream_goes_on(daemon: Start, upstream: Upstream, good: Upstream) -> None:
    bad = event("{no json")
    upstream.always(answers.events(*HALF["openai"], bad, bad, event(delta(" more")), bad, event(delta(finish="stop")), DONE))
    running = daemon(routes(upstream, good, "openai"))
    answer = await fetch(running, CHAT, ask(stream=True))
    assert answer.events()[-1] == "[DONE]"
    assert b"no json" not in answer.body
    assert b"more" in answer.body
    assert (await running.metrics())['routerd_stream_malformed_events_total{target="up/x"}'] == 3


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("dialect", HALF)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_that_leaves_frees_the_slot_within_100_ms(rig: Rig, dialect: str, client: str) -> None:
    at, upstream = f"{dialect}-left-by-{client}", rig.ups[dialect, f"left-by-{client}"]
    path = CHAT if client == "openai" else "/v1/messages"
    for turn in range(2):  # the second one is let in: the first has given its slot back
        async with RawClient(rig.daemon) as raw:
            await raw.send(head_of(path, json.dumps(ask(at, stream=True, max_tokens=9)).encode()))
            await raw.read_until(b"ha")
            left_at_s = asyncio.get_running_loop().time()
        request = (await upstream.received(turn + 1))[turn]
        async with asyncio.timeout(2):
            await request.gone.wait()
        assert request.gone_at_s - left_at_s <= 0.1

    async def is_idle() -> bool:
        endpoint = next(one for one in (await rig.daemon.status())["endpoints"] if one["endpoint"] == at)
        return bool(endpoint["inflight"] == 0 and endpoint["failures"] == 0)

    await until(is_idle)
    assert rig.good.requests == []


SLOW = 24


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_clients_that_read_nothing_cost_less_than_a_mebibyte_each(daemon: Start, upstream: Upstream, dialect: str) -> None:
    """Each is offered 16 MiB, in the client's dialect and translated."""
    first, last = HALF[dialect][:-1], HALF[dialect][-1].replace(b"lf", b"x" * 32768)

    async def flood(call: Call) -> None:
        await call.head(200, answers.EVENT_STREAM)
        for block in first:
            await call.chunk(block)
        for _ in range(512):
            await call.chunk(last)

    upstream.always(flood)
    running = daemon(f"""
version: 1
providers: {{up: {{dialect: {dialect}, base_url: "{upstream.url.removesuffix("/v1")}", auth: {{type: none}}}}}}
models: {{m: {{chain: [up/x]}}}}
""")
    worker = (await running.status())["workers"][0]["pid"]
    before_mb = rss_mb([worker])[0]
    clients = [RawClient(running) for _ in range(SLOW)]
    try:
        for client in clients:
            await client.__aenter__()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(head_of(CHAT, json.dumps(ask(stream=True)).encode()))
        await upstream.received(SLOW)
        seen = -1.0
        while (now_mb := rss_mb([worker])[0]) > seen:  # until it grows no more
            seen = now_mb
            await asyncio.sleep(0.5)
        assert seen - before_mb < SLOW * 1.0
    finally:
        for client in clients:
            await client.__aexit__()


@pytest.mark.parametrize("path", [CHAT, "/providers/up/files/f/content"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_client_that_pipelines_and_reads_nothing_gets_one_answer_into_its_buffer(
    daemon: Start, upstream: Upstream, path: str, stream: bool
) -> None:
    text = "x" * (2 * 1024 * 1024)
    upstream.always(answers.stream([text]) if stream else answers.reply(answers.completion(text)))
    running = daemon(f"""
version: 1
providers: {{up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}, direct: true}}}}
models: {{m: {{chain: [up/x]}}}}
""")
    worker = (await running.status())["workers"][0]["pid"]
    before_mb = rss_mb([worker])[0]
    async with RawClient(running) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(head_of(path, json.dumps(ask(stream=stream)).encode()) * 40)
        await upstream.received(1)
        seen = -1.0
        while (now_mb := rss_mb([worker])[0]) > seen:
            seen = now_mb
            await asyncio.sleep(0.5)
        assert seen - before_mb < 24  # of 80
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(40):
            await client.read_until(b"[DONE]" if stream else b'"usage"')
