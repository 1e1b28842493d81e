"""Browsers: the preflight is answered, and every answer that a page may read says so, errors of every kind included."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.ports import closed_port
from tests.support.upstream import Upstream

APP = "https://app.example"
KEY = {"authorization": "Bearer sk-app"}


def routes(upstream: Upstream, origins: str) -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", api_key: sk-up}}
  dead: {{dialect: openai, base_url: "http://127.0.0.1:{closed_port()}/v1", auth: {{type: none}}}}
models:
  m: {{chain: [up/m-1]}}
  unreachable: {{chain: [dead/m-1]}}
  private: {{chain: [up/m-1]}}
  once: {{budgets: [one], chain: [up/m-1]}}
budgets:
  one: {{requests: 1, per: 1h}}
clients:
  app: {{key: sk-app, models: [m, unreachable, once]}}
cors: {{origins: [{origins}]}}
limits: {{request_body: 64KiB}}
"""


@pytest.fixture
def running(daemon: Callable[..., Daemon], upstream: Upstream) -> Daemon:
    return daemon(routes(upstream, f'"{APP}"'))


async def test_the_preflight_needs_no_key_and_allows_what_the_sdk_sends(running: Daemon) -> None:
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    answer = await fetch(running, CHAT, method="OPTIONS", headers=asked)
    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] == APP
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert allowed == "*" or {"authorization", "content-type", "x-stainless-lang"} <= {h.strip() for h in allowed.split(",")}


async def test_another_origin_gets_no_permission(running: Daemon, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    answer = await fetch(running, CHAT, ask(), headers={**KEY, "origin": "https://evil.example"})
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_every_answer_carries_the_permission(running: Daemon, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    headers = {**KEY, "origin": APP}
    await fetch(running, CHAT, ask("once"), headers=headers)
    cases = {
        200: fetch(running, CHAT, ask(), headers=headers),
        400: fetch(running, CHAT, b"no", headers=headers),
        401: fetch(running, CHAT, ask(), headers={"origin": APP}),
        403: fetch(running, CHAT, ask("private"), headers=headers),
        404: fetch(running, CHAT, ask("nothing"), headers=headers),
        405: fetch(running, CHAT, method="DELETE", headers=headers),
        413: fetch(running, CHAT, ask(text="x" * 70_000), headers=headers),
        415: fetch(running, CHAT, b"{}", headers={**headers, "content-type": "text/plain"}),
        429: fetch(running, CHAT, ask("once"), headers=headers),
        502: fetch(running, CHAT, ask("unreachable"), headers=headers),
    }
    for status, coming in cases.items():
        answer = await coming
        assert answer.status == status
        assert answer.headers.get("access-control-allow-origin") == APP, status
        assert "origin" in answer.headers.get("vary", "").lower(), status
    lost = await fetch(running, "/nowhere", headers={"origin": APP})
    assert lost.headers["access-control-allow-origin"] == APP


async def test_a_page_may_read_routerds_headers(running: Daemon, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    answer = await fetch(running, CHAT, ask(), headers={**KEY, "origin": APP})
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert exposed == "*" or "x-request-id" in exposed


async def test_a_stream_carries_the_permission(running: Daemon, upstream: Upstream) -> None:
    upstream.script(answers.stream())
    answer = await fetch(running, CHAT, ask(stream=True), headers={**KEY, "origin": APP})
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.events()[-1] == "[DONE]"


async def test_a_star_allows_any_origin(daemon: Callable[..., Daemon], upstream: Upstream) -> None:
    answer = await fetch(daemon(routes(upstream, '"*"')), CHAT, b"no", headers={"origin": "https://any.example"})
    assert answer.headers["access-control-allow-origin"] in ("*", "https://any.example")
