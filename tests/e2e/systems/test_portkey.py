"""Models of several providers through one gateway: prefixes, what the gateway wants besides, and pages that call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.systems.conftest import Serve
from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.ports import closed_port
from tests.support.upstream import Upstream

Sdk = Callable[..., openai.AsyncOpenAI]

APP = "https://app.example"
PAGE = {"authorization": "Bearer sk-page", "origin": APP}
SLUG = "jondurbin/airoboros-l2-70b-gpt4-1.4.1"
PREFIXES = {
    "@deepinfra/": "deepinfra",
    "@openai/": "openai",
    "@anthropic/": "anthropic",
    "@xai/": "x-ai",
    "@nebius/": "nebius",
    "@cerebras/": "cerebras",
    "@novita/": "novita-ai",
}


@pytest.fixture
def start(serve: Serve) -> Callable[[str], Daemon]:
    def with_gateway(url: str) -> Daemon:
        return serve("portkey", PORTKEY_URL=url, PORTKEY_API_KEY="pk-secret", PAGE_KEY="sk-page", GUEST_KEY="sk-guest")

    return with_gateway


@pytest.fixture
def running(start: Callable[[str], Daemon], upstream: Upstream) -> Daemon:
    return start(upstream.url)


def readable(answer: Fetched) -> bool:
    """Whether a page of the application may read this answer, and find the id of its request."""
    exposed = answer.headers.get("access-control-expose-headers", "")
    return answer.headers.get("access-control-allow-origin") == APP and ("x-request-id" in exposed or exposed == "*")


async def test_a_prefix_becomes_slug_field_and_header(running: Daemon, upstream: Upstream, sdk: Sdk) -> None:
    client = sdk(running, "sk-page")
    for prefix, name in PREFIXES.items():
        upstream.script(answers.reply())
        answer = await client.chat.completions.create(model=prefix + SLUG, messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "Hello there"
        got = upstream.requests[-1]
        assert got.target == "/v1/chat/completions"
        assert got.json() == {
            "model": SLUG,
            "messages": [{"role": "user", "content": "hi"}],
            "portkey_provider": name,
        }
        assert got.header("x-portkey-provider") == name
        assert got.header("x-portkey-api-key") == "pk-secret"
        assert got.header("authorization") is None


async def test_a_request_may_name_its_provider(running: Daemon, upstream: Upstream) -> None:
    for stream in (False, True):
        upstream.script(answers.stream() if stream else answers.reply())
        answer = await fetch(running, CHAT, ask(SLUG, provider="portkey-deepinfra", stream=stream), headers=PAGE)
        assert answer.status == 200
        assert readable(answer)
        sent = upstream.requests[-1].json()
        assert (sent["model"], sent["portkey_provider"]) == (SLUG, "deepinfra")
        assert "provider" not in sent
        assert upstream.requests[-1].header("x-portkey-provider") == "deepinfra"


async def test_the_client_cannot_turn_the_gateway_to_another_provider(running: Daemon, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    forged = {**PAGE, "x-portkey-provider": "openai", "x-portkey-api-key": "mine"}
    await fetch(running, CHAT, ask("@deepinfra/x", portkey_provider="openai"), headers=forged)
    got = upstream.requests[0]
    assert got.json()["portkey_provider"] == "deepinfra"
    assert sorted(value for name, value in got.headers if name.startswith("x-portkey")) == ["deepinfra", "pk-secret"]


async def test_an_unknown_prefix_is_a_clear_404(running: Daemon, upstream: Upstream) -> None:
    for body in (ask("@mistake/llama"), ask("@deepinfar/x"), ask(SLUG), ask(SLUG, provider="portkey-mistake")):
        refused = await fetch(running, CHAT, body, headers=PAGE)
        assert refused.status == 404
        assert refused.error["code"] in ("model_not_found", "provider_not_found")
        assert readable(refused)
    near = await fetch(running, CHAT, ask("@deepinfar/x"), headers=PAGE)
    assert "@deepinfar/x" in near.error["message"]
    assert upstream.requests == []


async def test_the_preflight_allows_what_a_page_sends(running: Daemon) -> None:
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    answer = await fetch(running, CHAT, method="OPTIONS", headers=asked)
    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] == APP
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert allowed == "*" or all(name in allowed for name in ("authorization", "content-type", "x-stainless-os"))


UPSTREAM_ERRORS: Any = [
    answers.error(400, "bad"),
    answers.error(401, "no key"),
    answers.error(402, "no credit"),
    answers.error(403, "no"),
    answers.error(404, "no such model"),
    answers.error(429, "slow down"),
    answers.error(500, "broke"),
    answers.reply(b"<html>502</html>", status=502, headers=[("content-type", "text/html")]),
    answers.error(503, "busy"),
    answers.reply({"provider": "deepinfra", "error": {"message": "Model busy"}}, status=429),
    answers.reply(b"not json"),
    answers.reset,
]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_can_read_every_error_of_the_gateway(running: Daemon, upstream: Upstream, stream: bool) -> None:
    for answer in UPSTREAM_ERRORS:
        upstream.script(answer)
        refused = await fetch(running, CHAT, ask("@deepinfra/x", stream=stream), headers=PAGE)
        assert refused.status >= 400
        assert readable(refused)
        assert refused.error["message"]
    upstream.script(answers.cut(answers.event(answers.delta("Hel"))))
    cut = await fetch(running, CHAT, ask("@deepinfra/x", stream=True), headers=PAGE)
    assert readable(cut)
    assert cut.events()[-1]["error"]


async def test_a_page_can_read_our_own_refusals(running: Daemon, upstream: Upstream, start: Callable[[str], Daemon]) -> None:
    async def refusal(body: Any, status: int, path: str = CHAT, **headers: str) -> None:
        answer = await fetch(running, path, body, headers={**PAGE, **headers})
        assert (answer.status, readable(answer)) == (status, True), (answer.status, answer.headers)

    await refusal(ask("@deepinfra/x"), 401, authorization="Bearer wrong")
    await refusal(ask("@openai/x"), 403, authorization="Bearer sk-guest")
    await refusal(b"{", 400)
    await refusal(ask("@deepinfra/x", text="x" * 70_000), 413)
    await refusal(b"x", 415, **{"content-type": "text/plain"})
    await refusal(ask("@deepinfra/x"), 404, "/v1/nowhere")
    await refusal(None, 405)
    upstream.always(answers.reply())
    for status in (200, 200, 200, 429):
        await refusal(ask("@deepinfra/x"), status, authorization="Bearer sk-guest")
    dead = await fetch(start(f"http://127.0.0.1:{closed_port()}/v1"), CHAT, ask("@deepinfra/x"), headers=PAGE)
    assert dead.status in (502, 503)
    assert readable(dead)
    foreign = await fetch(running, CHAT, ask("@deepinfra/x"), headers={**PAGE, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers
