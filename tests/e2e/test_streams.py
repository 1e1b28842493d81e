"""Streams: failing over before the first content, telling the truth after it, and leaving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import openai
import pytest

from tests.support import answers
from tests.support.answers import delta, event
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, RawClient, ask, fetch, head_of
from tests.support.llama import Engine
from tests.support.ports import closed_port
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
More = Callable[[], Awaitable[Upstream]]
Sdk = Callable[..., openai.AsyncOpenAI]
USER = [{"role": "user", "content": "x"}]
ROLE = event(delta("", role="assistant"))


def routes(chain: dict[str, str], more: str = "") -> str:
    providers = "\n".join(
        f'  {name}: {{dialect: openai, base_url: "{url}", auth: {{type: none}}}}' for name, url in chain.items()
    )
    steps = ", ".join(f"{name}/x" for name in chain)
    return f"version: 1\nproviders:\n{providers}\nmodels:\n  m: {{chain: [{steps}]}}\n{more}\n"


async def test_a_chain_goes_past_a_dead_port_and_a_500_to_the_engine(
    daemon: Start, upstream: Upstream, engine: Engine, sdk: Sdk
) -> None:
    upstream.always(answers.error(500))
    running = daemon(routes({"dead": f"http://127.0.0.1:{closed_port()}/v1", "broken": upstream.url, "engine": engine.url}))
    client = sdk(running)
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=USER, max_tokens=3)
    tried = [step.split("/")[0] for step in raw.headers["x-routerd-attempts"].split(",")]
    assert [step.split(":")[0] for step in tried] == ["dead", "broken", "engine"]
    assert tried[-1] == "engine:ok"
    stream = await client.chat.completions.create(model="m", messages=USER, max_tokens=3, stream=True)
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"
    samples = await running.metrics()
    assert sum(v for k, v in samples.items() if k.startswith("routerd_failovers_total") and 'reason="connect"' in k) >= 1


async def test_events_that_are_left_out_are_counted(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.events(ROLE, event(delta("x")), event("{no json"), event(delta(finish="stop")), event("[DONE]")))
    running = daemon(routes({"a": upstream.url}))
    assert (await fetch(running, CHAT, ask(stream=True))).events()[-1] == "[DONE]"
    assert (await running.metrics())['routerd_stream_malformed_events_total{target="a/x"}'] == 1


async def test_a_stream_that_dies_before_content_is_answered_by_the_next(daemon: Start, upstreams: More) -> None:
    first, second = await upstreams(), await upstreams()
    first.script(answers.cut(ROLE, reset=True))
    second.script(answers.stream(["whole"]))
    answer = await fetch(daemon(routes({"a": first.url, "b": second.url})), CHAT, ask(stream=True))
    assert answer.headers["x-routerd-target"] == "b/x"
    assert answer.events()[-1] == "[DONE]"
    assert answer.body.count(b"whole") == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_after_content_is_an_error_event_and_never_done(daemon: Start, upstreams: More, reset: bool) -> None:
    first, second = await upstreams(), await upstreams()
    first.script(answers.cut(ROLE, event(delta("half")), reset=reset))
    answer = await fetch(daemon(routes({"a": first.url, "b": second.url})), CHAT, ask(stream=True))
    assert answer.status == 200
    last = answer.events()[-1]
    assert last["error"]["type"]
    assert last["error"]["code"]
    assert last["choices"][0]["finish_reason"] == "error"
    assert b"[DONE]" not in answer.body
    assert b"half" in answer.body
    assert second.requests == []


async def test_the_sdk_raises_on_a_cut_stream(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.cut(ROLE, event(delta("half"))))
    stream = await sdk(daemon(routes({"a": upstream.url}))).chat.completions.create(model="m", messages=USER, stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


async def test_an_idle_stream_is_an_error_event(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.events(ROLE, event(delta("half")), end=False))
    running = daemon(routes({"a": upstream.url}, "defaults: {timeouts: {idle: 300ms}}"))
    answer = await fetch(running, CHAT, ask(stream=True))
    assert answer.events()[-1]["choices"][0]["finish_reason"] == "error"
    assert b"[DONE]" not in answer.body


async def test_an_error_event_amid_a_stream_is_passed_on_as_one(daemon: Start, upstream: Upstream) -> None:
    broken = event({"error": {"message": "overloaded", "type": "server_error", "code": 529}})
    upstream.script(answers.events(ROLE, event(delta("half")), broken, answers.DONE))
    answer = await fetch(daemon(routes({"a": upstream.url})), CHAT, ask(stream=True))
    assert answer.events()[-1]["error"]["message"]
    assert b"[DONE]" not in answer.body


async def test_a_finish_without_done_is_a_good_end_and_done_is_added(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.events(ROLE, event(delta("all")), event(delta(finish="stop"))))
    answer = await fetch(daemon(routes({"a": upstream.url})), CHAT, ask(stream=True))
    assert answer.events()[-1] == "[DONE]"
    assert b'"error"' not in answer.body


async def test_comments_crlf_and_split_utf8_are_no_faults(daemon: Start, upstream: Upstream) -> None:
    text = json.dumps(delta("Grüße"), ensure_ascii=False).encode()
    half = text.index("ü".encode()) + 1
    pieces = [b": PROCESSING\n\n", b"data: " + text[:half], text[half:] + b"\r\n\r", b"\n" + event(delta(finish="stop"))]
    upstream.script(answers.events(*pieces, answers.DONE))
    answer = await fetch(daemon(routes({"a": upstream.url})), CHAT, ask(stream=True))
    assert "Grüße".encode() in answer.body
    assert answer.events()[-1] == "[DONE]"


async def test_a_chunk_arrives_when_it_is_sent(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    upstream.script(answers.stream(["one", "two", "three"], gates=gates))
    client = sdk(daemon(routes({"a": upstream.url})))
    opening = asyncio.create_task(client.chat.completions.create(model="m", messages=USER, stream=True))
    gates[0].set()
    chunks = aiter(await opening)
    for i, wanted in enumerate(["one", "two", "three"]):
        gates[i].set()
        async with asyncio.timeout(2):
            while (await anext(chunks)).choices[0].delta.content != wanted:
                pass


async def test_a_client_that_leaves_cancels_the_upstream_call_within_100_ms(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.events(ROLE, event(delta("half")), end=False))
    running = daemon(routes({"a": upstream.url}))
    for turn in range(3):
        async with RawClient(running) as client:
            await client.send(head_of(CHAT, json.dumps(ask(stream=True)).encode()))
            await client.read_until(b"half")
            left_at_s = asyncio.get_running_loop().time()
        request = (await upstream.received(turn + 1))[turn]
        async with asyncio.timeout(2):
            await request.gone.wait()
        assert request.gone_at_s - left_at_s <= 0.1


async def test_a_client_that_leaves_a_unary_call_cancels_it_too(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.hang)
    running = daemon(routes({"a": upstream.url}))
    async with RawClient(running) as client:
        await client.send(head_of(CHAT, json.dumps(ask()).encode()))
        await upstream.received(1)
        left_at_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(2):
        await upstream.requests[0].gone.wait()
    assert upstream.requests[0].gone_at_s - left_at_s <= 0.1

    async def counted() -> bool:
        samples = await running.metrics()
        return any(v for k, v in samples.items() if k.startswith("routerd_requests_total") and 'outcome="client_gone"' in k)

    await until(counted)


async def test_a_slow_client_pauses_the_upstream(daemon: Start, upstream: Upstream) -> None:
    """The upstream offers 64 MiB; a client that reads nothing must not make the daemon hold it."""
    block = event(delta("x" * 65536))
    sent = 0

    async def flood(call: object) -> None:
        nonlocal sent
        await call.head(200, answers.EVENT_STREAM)  # type: ignore[attr-defined]
        for _ in range(1024):
            await call.chunk(block)  # type: ignore[attr-defined]
            sent += 1

    upstream.always(flood)
    running = daemon(routes({"a": upstream.url}))
    async with RawClient(running) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(head_of(CHAT, json.dumps(ask(stream=True)).encode()))
        await upstream.received(1)
        before = -1
        while before != sent:  # until the upstream is stuck: nothing moved for half a second
            before = sent
            await asyncio.sleep(0.5)
        assert sent < 512, "the daemon read the whole answer for a client that reads nothing"
        assert _largest_rss_mb(running) < 100


def _largest_rss_mb(running: Daemon) -> float:
    from tests.bench.rig import rss_mb, tree

    return rss_mb(tree(running.process.pid))[0]
