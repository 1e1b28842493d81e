"""Bad input of every kind gets a clear answer or a closed connection; the daemon serves on and keeps nothing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable

import pytest

from tests.bench.rig import rss_mb, tree
from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, Fetched, RawClient, ask, fetch, head_of
from tests.support.upstream import Upstream


@pytest.fixture
async def running(daemon: Callable[..., Daemon], upstream: Upstream) -> AsyncIterator[Daemon]:
    """A daemon that must answer well after the test, too, with no more descriptors than before."""
    upstream.always(answers.reply())
    text = f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}
models:
  m: {{chain: [up/x]}}
limits: {{request_body: 16MiB}}
"""
    started = daemon(text)
    assert (await fetch(started, CHAT, ask())).status == 200
    worker = (await started.status())["workers"][0]["pid"]

    def held() -> int:
        """Descriptors of the worker besides the connections that it keeps to the upstream."""
        return len(os.listdir(f"/proc/{worker}/fd")) - upstream.connections_open

    before = held()
    yield started
    assert (await fetch(started, CHAT, ask())).status == 200
    await until(lambda: held() <= before + 1, 5)
    assert not [line for line in started.process.lines if "Traceback" in line], started.process.output


def status_of(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.") else 0


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_wrong_content_type_is_415(running: Daemon, kind: str) -> None:
    answer = await fetch(running, CHAT, json.dumps(ask()).encode(), headers={"content-type": kind})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_by_any_spelling_is_taken(running: Daemon, kind: str) -> None:
    assert (await fetch(running, CHAT, json.dumps(ask()).encode(), headers={"content-type": kind})).status == 200


@pytest.mark.parametrize("authority", ["http://routerd", "HTTP://127.0.0.1:8080", "https://elsewhere:1/api"])
async def test_an_absolute_request_target_is_taken(running: Daemon, authority: str) -> None:
    body = json.dumps(ask()).encode()
    async with RawClient(running) as client:
        await client.send(head_of(f"{authority}{CHAT}", body))
        assert status_of(await client.read_until(b"\r\n\r\n")) == 200


async def test_an_absolute_request_target_without_a_path_is_the_root(running: Daemon) -> None:
    async with RawClient(running) as client:
        await client.send(b"GET http://routerd HTTP/1.1\r\nHost: routerd\r\n\r\n")
        assert status_of(await client.read_until(b"\r\n\r\n")) == 404


async def test_a_declared_body_over_the_limit_is_413_before_it_is_sent(running: Daemon) -> None:
    async with RawClient(running) as client:
        await client.send(head_of(CHAT, b"").replace(b"Content-Length: 0", b"Content-Length: 17000000"))
        head = await client.read_until(b"\r\n\r\n", 5)
    assert status_of(head) == 413


async def test_a_chunked_body_over_the_limit_is_413(running: Daemon) -> None:
    async with RawClient(running) as client:
        await client.send(head_of(CHAT, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        reading = asyncio.create_task(client.read_until(b"}}", 20))
        block = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        try:
            for _ in range(40):
                await client.send(block)
                if reading.done():
                    break
        except ConnectionError:
            pass
        answer = await reading
    assert status_of(answer) == 413
    assert b"request_too_large" in answer


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_ten_megabytes_of_nested_json_are_refused_or_passed_without_harm(running: Daemon, opening: bytes) -> None:
    depth = 10_000_000 // len(opening)
    answer = await fetch(running, CHAT, b'{"model":"m","messages":' + opening * depth)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


async def test_nested_json_that_closes_is_an_answer_too(running: Daemon) -> None:
    nested = b"[" * 1_000_000 + b"]" * 1_000_000
    answer = await fetch(running, CHAT, b'{"model":"m","messages":[{"role":"user","content":"x"}],"deep":' + nested + b"}")
    assert answer.status in (200, 400)


async def test_a_header_flood_is_refused(running: Daemon) -> None:
    for headers in ([f"x-{i}: {'y' * 50}" for i in range(20_000)], ["x-long: " + "y" * 1_000_000]):
        async with RawClient(running) as client:
            try:
                await client.send(head_of(CHAT, b"{}", *headers))
            except ConnectionError:
                continue
            raw = await client.read_to_end()
        assert status_of(raw) in (0, 400, 413, 431), raw[:100]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["tls", "no-target", "long-target", "negative-length", "two-lengths", "bad-chunk", "smuggling"],
)
async def test_what_is_not_http_is_refused_with_a_closed_connection(running: Daemon, raw: bytes) -> None:
    async with RawClient(running) as client:
        await client.send(raw)
        client.writer.write_eof()
        answer = await client.read_to_end()
    assert status_of(answer) in (0, 400, 404, 414, 431)


async def test_a_client_that_closes_half_way_costs_nothing(running: Daemon, upstream: Upstream) -> None:
    before = len(upstream.requests)
    whole = head_of(CHAT, json.dumps(ask()).encode())
    for at in (5, 40, len(whole) - 30, len(whole) - 1):
        async with RawClient(running) as client:
            await client.send(whole[:at])
    await asyncio.sleep(0.2)  # for what must not happen
    assert len(upstream.requests) == before


async def test_slow_loris_clients_do_not_keep_others_out(running: Daemon) -> None:
    whole = head_of(CHAT, json.dumps(ask()).encode())
    clients = [RawClient(running) for _ in range(200)]
    for client in clients:
        await client.__aenter__()
        await client.send(whole[:60])
    async with asyncio.timeout(5):
        assert (await fetch(running, CHAT, ask())).status == 200
    for client in clients:
        await client.__aexit__()


@pytest.mark.parametrize("model", ["x" * 257, "a\nb", "", "\u0000"])
async def test_a_model_name_that_is_none_is_400(running: Daemon, model: str) -> None:
    answer = await fetch(running, CHAT, ask(model))
    assert (answer.status, answer.error["param"]) == (400, "model")


async def test_unknown_names_do_not_become_series(running: Daemon) -> None:
    for i in range(50):
        assert (await fetch(running, CHAT, ask(f"no-such-{i}"))).status == 404
    samples = await running.metrics()
    assert not [key for key in samples if "no-such" in key]


async def test_a_hundred_clients_with_big_bodies_leave_no_memory_behind(running: Daemon) -> None:
    async def one() -> Fetched:
        return await fetch(running, CHAT, ask(text="x" * 1_000_000))

    for _ in range(2):
        assert {answer.status for answer in await asyncio.gather(*(one() for _ in range(25)))} == {200}
    after_two = rss_mb(tree(running.process.pid))[0]
    for _ in range(4):
        await asyncio.gather(*(one() for _ in range(25)))
    assert rss_mb(tree(running.process.pid))[0] <= after_two + 25
