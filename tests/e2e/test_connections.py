"""One client connection, byte by byte: packets of any size, requests behind each other, half-closed sockets, a drain."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Callable

import pytest

from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, RawClient, ask, head_of
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]


def routes(upstream: Upstream) -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}
models:
  m: {{chain: [up/x]}}
"""


def request(text: str, *headers: str, stream: bool = False) -> bytes:
    return head_of(CHAT, json.dumps(ask(text=text, stream=stream)).encode(), *headers)


async def answered(client: RawClient) -> tuple[int, bytes]:
    """Read one whole answer: its status and its body."""
    head = await client.read_until(b"\r\n\r\n")
    lengths = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
    if not lengths:
        return int(head[9:12]), await client.read_until(b"0\r\n\r\n")
    return int(head[9:12]), await client.reader.readexactly(lengths[0])


async def answered_times(client: RawClient, times: int) -> list[int]:
    """Read so many whole answers; return what they are."""
    return [(await answered(client))[0] for _ in range(times)]


async def test_requests_sent_behind_each_other_are_answered_in_their_order(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply(), answers.stream(["streamed"]), answers.reply())
    upstream.always(answers.reply())
    async with RawClient(daemon(routes(upstream))) as client:
        await client.send(request("one") + request("two", stream=True) + request("three"))
        got = [await answered(client) for _ in range(3)]
        assert [status for status, _ in got] == [200, 200, 200]
        assert [b"streamed" in body for _, body in got] == [False, True, False]
        await client.send(request("four"))
        assert (await answered(client))[0] == 200
    assert [sent.json()["messages"][0]["content"] for sent in upstream.requests] == ["one", "two", "three", "four"]


async def test_the_next_request_may_come_while_the_first_is_served(daemon: Start, upstream: Upstream) -> None:
    gate = asyncio.Event()
    upstream.script(answers.gated(answers.reply(), gate))
    upstream.always(answers.reply())
    async with RawClient(daemon(routes(upstream))) as client:
        await client.send(request("one"))
        await upstream.received(1)
        await client.send(request("two"))
        gate.set()
        assert await answered_times(client, 2) == [200, 200]
    assert [sent.json()["messages"][0]["content"] for sent in upstream.requests] == ["one", "two"]


@pytest.mark.parametrize("seed", range(4))
async def test_packets_of_any_size_carry_the_same_requests(daemon: Start, upstream: Upstream, seed: int) -> None:
    upstream.always(answers.reply())
    rng = random.Random(seed)
    texts = [f"{n} " + "x" * rng.choice([0, 100, 300_000]) for n in range(6)]
    data = b"".join(request(text) for text in texts)
    async with RawClient(daemon(routes(upstream))) as client:
        reading = asyncio.create_task(answered_times(client, len(texts)))
        while data:
            size = rng.choice([1, 30, 150, 1000, 70_000, 400_000])
            await client.send(data[:size])
            data = data[size:]
            await asyncio.sleep(0.002)  # else the kernel puts the packets together
        assert await reading == [200] * len(texts)
    assert [sent.json()["messages"][0]["content"] for sent in upstream.requests] == texts


async def test_a_client_that_waits_for_100_continue_hears_it(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    async with RawClient(daemon(routes(upstream))) as client:
        for _ in range(2):
            head, _, body = request("late", "Expect: 100-continue").partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            assert (await answered(client))[0] == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_client_that_wants_it_closed_gets_it_closed(daemon: Start, upstream: Upstream, version: str) -> None:
    upstream.always(answers.reply())
    async with RawClient(daemon(routes(upstream))) as client:
        await client.send(request("bye", "Connection: close").replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
        raw = await client.read_to_end()
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in raw


async def test_garbage_behind_a_request_is_told_behind_its_answer(daemon: Start, upstream: Upstream) -> None:
    gate = asyncio.Event()
    upstream.always(answers.gated(answers.reply(), gate))
    async with RawClient(daemon(routes(upstream))) as client:
        await client.send(request("one"))
        await upstream.received(1)
        await client.send(b"\x00\x01\x02 no request\r\n\r\n")
        gate.set()
        assert (await answered(client))[0] == 200
        status, body = await answered(client)
        assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_http")
        assert await client.read_to_end() == b""


async def test_a_client_that_closes_its_half_has_gone(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.hang)
    running = daemon(routes(upstream))
    async with RawClient(running) as client:
        await client.send(request("one"))
        await upstream.received(1)
        client.writer.write_eof()
        assert await client.read_to_end() == b""
    await until(lambda: "outcome=client_gone" in running.process.output)
    await until(lambda: upstream.connections_open == 0)


async def test_an_upgrade_is_answered_as_a_request(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    async with RawClient(daemon(routes(upstream))) as client:
        for kind in ("websocket", "h2c"):
            await client.send(request("one", "Connection: Upgrade", f"Upgrade: {kind}"))
            assert (await answered(client))[0] == 200
        await client.send(request("two"))
        assert (await answered(client))[0] == 200


async def test_what_is_under_way_when_a_drain_begins_is_answered_and_idle_connections_are_closed(
    daemon: Start, upstream: Upstream
) -> None:
    gate = asyncio.Event()
    upstream.script(answers.reply(), answers.gated(answers.reply(), gate))
    running = daemon(routes(upstream))
    async with RawClient(running) as idle, RawClient(running) as busy:
        await idle.send(request("one"))
        assert (await answered(idle))[0] == 200
        await busy.send(request("two"))
        await upstream.received(2)
        running.process.signal(signal.SIGTERM)
        assert await idle.read_to_end() == b""
        gate.set()
        raw = await busy.read_to_end()
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in raw
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["choices"]
    assert await asyncio.to_thread(running.process.wait) == 0
