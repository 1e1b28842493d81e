"""Providers behind OAuth client credentials: one token for everybody, renewed, refused, missing, and never told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.ports import closed_port
from tests.support.upstream import Answer, Call, Upstream

Start = Callable[..., Daemon]
SECRET = "client-secret-0123456789"


def routes(api: Upstream, token_url: str, backup: Upstream | None = None, more: str = "", body: str = "form") -> str:
    spare = f'  backup: {{base_url: "{backup.url}", auth: {{type: none}}}}\n' if backup else ""
    return f"""
version: 1
providers:
  corp:
    base_url: "{api.url}"
    timeouts: {{connect: 1s}}
    auth: {{type: oauth_client_credentials, token_url: "{token_url}", client_id: me, client_secret: {SECRET},
      scope: a b, body: {body}}}
{spare}models:
  m: {{chain: [corp/x{", backup/y" if backup else ""}]}}
{more}
"""


def tokens(lifetime_s: int = 3600, *, gate: asyncio.Event | None = None) -> Answer:
    """Give token-1, token-2, and so on."""
    count = 0

    async def answer(call: Call) -> None:
        nonlocal count
        count += 1
        if gate is not None:
            await gate.wait()
        body = {"access_token": f"secret-token-{count}", "token_type": "Bearer", "expires_in": lifetime_s}
        await answers.reply(body)(call)

    return answer


def bearer(upstream: Upstream) -> list[str | None]:
    return [request.header("authorization") for request in upstream.requests]


async def test_fifty_requests_at_once_get_one_token(daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]) -> None:
    login, gate = await upstreams(), asyncio.Event()
    login.always(tokens(gate=gate))
    upstream.always(answers.reply())
    running = daemon(routes(upstream, f"{login.url}/token/"), args=["--workers", "2"])
    calls = [asyncio.ensure_future(fetch(running, CHAT, ask())) for _ in range(50)]
    await login.received(1)
    gate.set()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    assert len(login.requests) == 1
    assert set(bearer(upstream)) == {"Bearer secret-token-1"}
    asked = login.requests[0]
    assert asked.target.endswith("/token/")
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"], "client_id": ["me"], "client_secret": [SECRET], "scope": ["a b"],
    }  # fmt: skip


async def test_a_token_outlives_reloads_and_workers(daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]) -> None:
    login = await upstreams()
    login.always(tokens())
    upstream.always(answers.reply())
    text = routes(upstream, login.url + "/token", body="json")
    running = daemon(text)
    assert (await fetch(running, CHAT, ask())).status == 200
    running.write(text.replace("m: {", "n: {"))
    await running.generation(2)
    assert (await fetch(running, CHAT, ask("n"))).status == 200
    worker = (await running.status())["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)

    async def replaced() -> bool:
        now = (await running.status())["workers"][0]
        return bool(now["up"] and now["pid"] != worker)

    await until(replaced)
    assert (await fetch(running, CHAT, ask("n"))).status == 200
    assert len(login.requests) == 1
    assert json.loads(login.requests[0].body)["client_secret"] == SECRET


async def test_a_token_is_renewed_before_it_expires(daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]) -> None:
    login = await upstreams()
    login.always(tokens(lifetime_s=1))
    upstream.always(answers.reply())
    running = daemon(routes(upstream, login.url + "/token"))
    assert (await fetch(running, CHAT, ask())).status == 200
    await login.received(3)
    assert (await fetch(running, CHAT, ask())).status == 200
    assert int(str(bearer(upstream)[-1]).rpartition("-")[2]) >= 2


async def test_a_refused_token_is_replaced_within_the_attempt(
    daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]
) -> None:
    login = await upstreams()
    login.always(tokens())
    upstream.script(answers.error(401), answers.reply(), answers.error(401), answers.stream(["Hi"]))
    running = daemon(routes(upstream, login.url + "/token"))
    answer = await fetch(running, CHAT, ask())
    assert (answer.status, answer.headers["x-routerd-attempts"]) == (200, "corp:ok")
    assert bearer(upstream) == ["Bearer secret-token-1", "Bearer secret-token-2"]
    streamed = await fetch(running, CHAT, ask(stream=True))
    assert streamed.events()[-1] == "[DONE]"
    assert bearer(upstream)[2:] == ["Bearer secret-token-2", "Bearer secret-token-3"]
    assert (await running.metrics())['routerd_attempts_total{result="ok",target="corp/x"}'] == 2


async def test_a_second_refusal_goes_on_to_the_next_target_and_tells_no_token(
    daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]
) -> None:
    login, backup = await upstreams(), await upstreams()
    login.always(tokens())

    async def quote(call: Call) -> None:
        status = 401 if len(upstream.requests) < 3 else 500
        await answers.error(status, f"{call.request.header('authorization')} of {SECRET} is wrong")(call)

    upstream.always(quote)
    backup.script(answers.reply())
    running = daemon(routes(upstream, login.url + "/token", backup))
    answer = await fetch(running, CHAT, ask())
    assert (answer.status, answer.headers["x-routerd-target"]) == (200, "backup/y")
    assert len(upstream.requests) == 2
    assert (await running.metrics())['routerd_attempts_total{result="upstream_auth",target="corp/x"}'] == 1
    running.write(routes(upstream, login.url + "/token", more="x-edit: 1\ndefaults: {retry: {attempts: 1}}\n"))
    await running.generation(2)
    refused = await fetch(running, CHAT, ask())
    assert refused.status >= 500
    for text in (refused.body.decode(), running.process.output, running.get_admin("/-/status")[1]):
        assert "secret-token" not in text
        assert SECRET not in text


async def test_a_token_server_that_is_down_or_refuses_fails_over(
    daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]
) -> None:
    backup, login = await upstreams(), await upstreams()
    backup.always(answers.reply())
    login.always(answers.reply({"error": "invalid_client", "error_description": SECRET}, status=401))
    down = daemon(routes(upstream, f"http://127.0.0.1:{closed_port()}/token", backup))
    assert (await fetch(down, CHAT, ask())).headers["x-routerd-target"] == "backup/y"
    assert (await down.metrics())['routerd_attempts_total{result="upstream_connect",target="corp/x"}'] == 1
    refused = daemon(routes(upstream, login.url + "/token", backup))
    assert (await fetch(refused, CHAT, ask())).headers["x-routerd-target"] == "backup/y"
    assert (await refused.metrics())['routerd_attempts_total{result="upstream_auth",target="corp/x"}'] == 1
    assert "invalid_client" in refused.process.output
    assert SECRET not in refused.process.output
    assert not upstream.requests


async def test_a_token_server_that_hangs_costs_no_more_than_connect(
    daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]
) -> None:
    login, backup = await upstreams(), await upstreams()
    login.always(answers.hang)
    backup.always(answers.reply())
    running = daemon(routes(upstream, login.url + "/token", backup))
    answer = await asyncio.wait_for(fetch(running, CHAT, ask()), 5.0)
    assert answer.headers["x-routerd-target"] == "backup/y"
    assert (await running.metrics())['routerd_attempts_total{result="upstream_timeout",target="corp/x"}'] == 1
