"""HTTP as upstreams really speak it: interim answers, trailers, odd framing, connections that went stale."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.support import answers
from tests.support.answers import JSON, completion, delta, event
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Call, Upstream

BODY = json.dumps(completion("fine")).encode()
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.fixture
def running(daemon: Callable[..., Daemon], upstream: Upstream) -> Daemon:
    return daemon(f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}
models:
  m: {{chain: [up/x]}}
limits: {{response_body: 1MiB}}
""")


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + PLAIN + b"content-length: %d\r\n\r\n%s",
            False,
        ),
        (PLAIN + b"content-length: %d\r\nconnection: close\r\n\r\n%s", True),
        (PLAIN.replace(b"1.1", b"1.0") + b"x-length: %d\r\n\r\n%s", True),
        (PLAIN.replace(b"200 OK", b"200 ") + b"Content-Length:    %d\r\n\r\n%s", False),
    ],
    ids=["interim-answers", "connection-close", "http-1.0-to-the-end", "no-reason-phrase"],
)
async def test_a_whole_answer_in_odd_dress_is_an_answer(running: Daemon, upstream: Upstream, answer: bytes, closes: bool) -> None:
    upstream.always(answers.raw(answer % (len(BODY), BODY), close=closes))
    for _ in range(2):
        got = await fetch(running, CHAT, ask())
        assert got.status == 200, got.body
        assert got.json()["choices"][0]["message"]["content"] == "fine"


async def test_chunks_with_extensions_and_trailers_are_put_together(running: Daemon, upstream: Upstream) -> None:
    framed = chunked(BODY[:7], BODY[7:], trailers=b"x-checksum: 1\r\n")
    upstream.always(answers.raw(PLAIN + b"transfer-encoding: chunked\r\n\r\n" + framed, close=False))
    for _ in range(3):
        assert (await fetch(running, CHAT, ask())).json()["choices"][0]["message"]["content"] == "fine"
    assert upstream.connections_opened == 1


async def test_a_stream_byte_by_byte_is_the_same_stream(running: Daemon, upstream: Upstream) -> None:
    text = event(delta("Grüße")) + event(delta(finish="stop")) + answers.DONE

    async def answer(call: Call) -> None:
        await call.head(200, answers.EVENT_STREAM)
        for i in range(len(text)):
            await call.chunk(text[i : i + 1])
        await call.end_chunks()

    upstream.script(answer)
    got = await fetch(running, CHAT, ask(stream=True))
    assert [e["choices"][0]["delta"].get("content") for e in got.events()[:-1]] == ["Grüße", None]
    assert got.events()[-1] == "[DONE]"


async def test_a_connection_that_went_stale_costs_the_client_nothing(running: Daemon, upstream: Upstream) -> None:
    """The upstream closes each connection after its answer without saying so: the next request must not fail for it."""

    async def once(call: Call) -> None:
        await call.body(200, (JSON,), BODY)
        call.close()

    upstream.always(once)
    got = [(await fetch(running, CHAT, ask())).status for _ in range(20)]
    assert got == [200] * 20


async def test_what_may_have_been_processed_is_not_sent_again_in_silence(running: Daemon, upstream: Upstream) -> None:
    """The upstream took the request from a kept connection and hung up: that is an attempt, and the client is told."""
    upstream.script(answers.reply(), answers.hang_up)
    assert (await fetch(running, CHAT, ask())).status == 200
    got = await fetch(running, CHAT, ask())
    assert (got.status, got.error["code"]) == (502, "upstream_connect")
    assert len(upstream.requests) == 2


async def test_an_answer_over_the_limit_is_502_and_its_connection_is_closed(running: Daemon, upstream: Upstream) -> None:
    upstream.script(answers.reply(completion("x" * 2_000_000)))
    got = await fetch(running, CHAT, ask())
    assert (got.status, got.error["code"]) == (502, "upstream_protocol")
    async with asyncio.timeout(2):
        await upstream.requests[0].gone.wait()


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        PLAIN + b"content-length: -4\r\n\r\n",
        PLAIN + b"x: " + b"y" * 300_000 + b"\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
    ids=["not-http", "negative-length", "endless-head", "tls-alert"],
)
async def test_what_is_not_http_is_a_protocol_fault(running: Daemon, upstream: Upstream, raw: bytes) -> None:
    upstream.script(answers.raw(raw))
    got = await fetch(running, CHAT, ask())
    assert (got.status, got.error["code"]) == (502, "upstream_protocol")


async def test_a_bounded_pool_serves_all_over_so_many_connections_and_streams_hold_theirs(
    daemon: Callable[..., Daemon], upstream: Upstream
) -> None:
    text = f"""
version: 1
providers:
  up: {{base_url: "{upstream.url}", connections: {{max: 2, idle: 10s}}}}
  spare: {{dialect: simulator, simulator: {{first_token: 1ms, tokens_per_s: 1000}}}}
models:
  m: {{chain: [up/x], timeouts: {{connect: 10s}}}}
  hurried: {{chain: [up/x, spare/echo], timeouts: {{connect: 50ms}}}}
"""
    upstream.always(answers.reply(completion("fine")))
    running = daemon(text)
    found = await asyncio.gather(*(fetch(running, CHAT, ask("m")) for _ in range(20)))
    assert [one.status for one in found] == [200] * 20
    assert upstream.connections_opened == 2
    held = asyncio.Event()

    async def wait(call: Call) -> None:
        await held.wait()
        await answers.reply(completion("late"))(call)

    upstream.always(wait)
    busy = [asyncio.create_task(fetch(running, CHAT, ask("m"))) for _ in range(2)]
    await upstream.received(22)
    other = await fetch(running, CHAT, ask("hurried"))
    assert (other.status, other.headers.get("x-routerd-target")) == (200, "spare/echo")
    assert "up:rate_limited" in other.headers["x-routerd-attempts"]
    held.set()
    assert [one.status for one in await asyncio.gather(*busy)] == [200, 200]
