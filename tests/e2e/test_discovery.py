"""Models that providers have, in /v1/models: through a real daemon, its workers, a reload and a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]


def routes(upstream: Upstream, discover: str = "true", more: str = "") -> str:
    return f"""
version: 1
providers:
  up: {{base_url: "{upstream.url}", direct: true, api_key: the-key-of-up, discover: {discover}}}
  off: {{base_url: "{upstream.url}", direct: true, api_key: "", optional: true, discover: true}}
models:
  m: {{chain: [up/x]}}
  up/known: {{chain: [up/known]}}
{more}
"""


def models(*ids: str) -> bytes:
    return json.dumps({"data": [{"id": one} for one in ids]}).encode()


async def listed(running: Daemon, key: str = "") -> list[str]:
    answer = await fetch(running, "/v1/models", headers={"authorization": f"Bearer {key}"} if key else None)
    return [model["id"] for model in answer.json()["data"]]


async def shows(running: Daemon, *names: str) -> None:
    async def as_wanted() -> bool:
        return await listed(running) == list(names)

    await until(as_wanted)


async def test_found_models_are_listed_by_every_worker_and_can_be_asked_for(daemon: Start, upstream: Upstream) -> None:
    async def answer(call: Call) -> None:
        body = models("meta/llama:free", "known", "m") if call.request.method == "GET" else None
        await answers.reply(body)(call)

    upstream.always(answer)
    running = daemon(routes(upstream), args=["--workers", "2"])
    await shows(running, "m", "up/known", "up/meta/llama:free", "up/m")
    for _ in range(10):
        assert await listed(running) == ["m", "up/known", "up/meta/llama:free", "up/m"]
    assert upstream.requests[0].header("authorization") == "Bearer the-key-of-up"
    one = await fetch(running, f"/v1/models/{quote('up/meta/llama:free', safe='')}")
    assert (one.status, one.json()["id"]) == (200, "up/meta/llama:free")
    assert (await fetch(running, CHAT, ask("up/meta/llama:free"))).status == 200
    metrics = await running.metrics()
    assert metrics['routerd_discovery_models{provider="up"}'] == 3
    assert metrics['routerd_discovery_failures_total{provider="up"}'] == 0
    assert metrics['routerd_discovery_last_success_timestamp_seconds{provider="up"}'] > 1.7e9


async def test_a_failure_and_a_reload_keep_the_list(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply(models("a", "text-embedding-3-small")))
    upstream.always(answers.error(503))
    running = daemon(routes(upstream, "{every: 1s}"))
    await shows(running, "m", "up/known", "up/a", "up/text-embedding-3-small")
    await upstream.received(2)
    assert await listed(running) == ["m", "up/known", "up/a", "up/text-embedding-3-small"]
    running.write(routes(upstream, "{every: 1s, chat_only: true, include: ['a*', 'text*']}"))
    await running.generation(2)
    await shows(running, "m", "up/known", "up/a")
    running.write(routes(upstream, "false"))
    await running.generation(3)
    await shows(running, "m", "up/known")


async def test_without_a_list_the_models_of_the_file_stand_in(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.error(404))
    running = daemon(routes(upstream))
    await upstream.received(1)
    assert await listed(running) == ["m", "up/known", "up/x"]
    assert "the-key-of-up" not in running.process.output


async def test_a_client_sees_what_it_may_use(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply(models("a", "b")))
    clients = "clients:\n  all: {key: key-of-all}\n  some: {key: key-of-some, models: [m, 'up/b']}\n"
    running = daemon(routes(upstream, more=clients))

    async def there() -> bool:
        return "up/a" in await listed(running, "key-of-all")

    await until(there)
    assert await listed(running, "key-of-all") == ["m", "up/known", "up/a", "up/b"]
    assert await listed(running, "key-of-some") == ["m", "up/b"]
    hidden = await fetch(running, "/v1/models/up%2Fa", headers={"authorization": "Bearer key-of-some"})
    assert hidden.status == 404


async def test_discovery_uses_an_access_token(daemon: Start, upstream: Upstream, upstreams: Callable[[], Any]) -> None:
    login = await upstreams()
    login.always(answers.reply({"access_token": "a-token", "expires_in": 60}))
    upstream.always(answers.reply(models("a")))
    auth = f'{{type: oauth_client_credentials, token_url: "{login.url}/t", client_id: i, client_secret: s}}'
    text = f'version: 1\nproviders:\n  up: {{base_url: "{upstream.url}", direct: true, discover: true, auth: {auth}}}\n'
    await shows(daemon(text), "up/a")
    assert upstream.requests[0].header("authorization") == "Bearer a-token"
    assert len(login.requests) == 1


async def test_a_preset_knows_where_to_ask_for_health_load_and_models(daemon: Start, upstream: Upstream) -> None:
    async def answer(call: Call) -> None:
        if call.request.target == "/metrics":
            await call.body(200, (("content-type", "text/plain"),), b"vllm:num_requests_running 3\n")
        else:
            await answers.reply(models("found") if call.request.target == "/v1/models" else b"")(call)

    upstream.always(answer)
    blocks = "health: {every: 1s, timeout: 1s}, load: true, discover: true, direct: true"
    provider = f'gpu: {{preset: vllm, base_url: "{upstream.url}", {blocks}}}'
    running = daemon(f"version: 1\nproviders:\n  {provider}\nmodels:\n  m: {{chain: [gpu/x]}}\n")
    await shows(running, "m", "gpu/found")

    async def asked() -> bool:
        return {"/health", "/metrics", "/v1/models"} <= {request.target for request in upstream.requests}

    await until(asked)
