"""Every refusal has OpenAI's shape and raises the SDK exception that a program expects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import openai
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.ports import closed_port
from tests.support.upstream import Answer, Upstream

Start = Callable[..., Daemon]
Sdk = Callable[..., openai.AsyncOpenAI]
USER = [{"role": "user", "content": "x"}]


def routes(upstream: Upstream) -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", api_key: sk-up}}
  dead: {{dialect: openai, base_url: "http://127.0.0.1:{closed_port()}/v1", auth: {{type: none}}}}
models:
  gpt-4o: {{chain: [up/m-1]}}
  unreachable: {{chain: [dead/m-1]}}
  hidden: {{chain: [up/m-1]}}
  off: {{enabled: false, chain: [up/m-1]}}
  once: {{budgets: [one], chain: [up/m-1]}}
budgets:
  one: {{requests: 1, per: 1h}}
clients:
  plain: {{key: sk-plain, models: ["gpt-*", unreachable, "off", once]}}
  digest: {{key_sha256: "{hashlib.sha256(b"sk-digest").hexdigest()}"}}
"""


@pytest.mark.parametrize("key", ["sk-plain", "sk-digest"])
async def test_a_key_is_known_plain_or_by_digest(daemon: Start, upstream: Upstream, sdk: Sdk, key: str) -> None:
    upstream.script(answers.reply())
    answer = await sdk(daemon(routes(upstream)), key).chat.completions.create(model="gpt-4o", messages=USER)
    assert answer.choices


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-wrong"}, {"authorization": "Basic c2s="}])
async def test_no_key_or_a_wrong_one_is_401(daemon: Start, upstream: Upstream, headers: dict[str, str]) -> None:
    answer = await fetch(daemon(routes(upstream)), CHAT, ask("gpt-4o"), headers=headers)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.headers["x-routerd-error-source"] == "routerd"
    assert b"sk-wrong" not in answer.body
    assert upstream.requests == []


async def test_a_wrong_key_raises_authentication_error(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    client = sdk(daemon(routes(upstream)), "sk-wrong")
    with pytest.raises(openai.AuthenticationError):
        await client.chat.completions.create(model="gpt-4o", messages=USER)
    with pytest.raises(openai.AuthenticationError):
        await client.models.list()


async def test_a_model_of_others_raises_permission_denied_and_is_not_listed(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    client = sdk(daemon(routes(upstream)), "sk-plain")
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await client.chat.completions.create(model="hidden", messages=USER)
    assert refused.value.code == "model_forbidden"
    assert "hidden" not in {model.id async for model in client.models.list()}


async def test_an_unknown_model_raises_not_found_with_a_near_name(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4o") as refused:
        await sdk(daemon(routes(upstream)), "sk-digest").chat.completions.create(model="gtp-4o", messages=USER)
    assert refused.value.code == "model_not_found"


async def test_the_near_name_is_never_one_the_client_may_not_see(daemon: Start, upstream: Upstream) -> None:
    answer = await fetch(daemon(routes(upstream)), CHAT, ask("hiden"), headers={"authorization": "Bearer sk-plain"})
    assert answer.status in (403, 404)
    assert "hidden" not in answer.error["message"]


async def test_a_disabled_model_raises_not_found(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await sdk(daemon(routes(upstream)), "sk-digest").chat.completions.create(model="off", messages=USER)
    assert refused.value.code == "model_disabled"


async def test_a_used_up_budget_raises_rate_limit_error_with_retry_after(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.reply())
    client = sdk(daemon(routes(upstream)), "sk-digest")
    await client.chat.completions.create(model="once", messages=USER)
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(model="once", messages=USER)
    # The window slides in 32 steps: what was used leaves it at most one step late.
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 3600 * 33 / 32 + 1
    assert refused.value.code == "budget_exceeded"
    assert len(upstream.requests) == 1


async def test_the_upstreams_own_400_arrives_as_it_is(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.error(400, "temperature is too hot", code="bad_temperature"))
    with pytest.raises(openai.BadRequestError, match="temperature is too hot") as refused:
        await sdk(daemon(routes(upstream)), "sk-digest").chat.completions.create(model="gpt-4o", messages=USER)
    assert refused.value.code == "bad_temperature"
    assert refused.value.response.headers["x-routerd-error-source"] == "upstream"


async def test_a_dead_upstream_raises_internal_server_error_502_with_attempts(
    daemon: Start, upstream: Upstream, sdk: Sdk
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        await sdk(daemon(routes(upstream)), "sk-digest").chat.completions.create(model="unreachable", messages=USER)
    assert refused.value.status_code == 502
    error = refused.value.response.json()["error"]
    assert error["code"] == "upstream_connect"
    assert [attempt["target"] for attempt in error["attempts"]] == ["dead/m-1"]
    assert "127.0.0.1" not in refused.value.response.text


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (answers.error(401, "Incorrect API key: sk-up", code="invalid_api_key"), 502, "upstream_auth"),
        (answers.error(402, "Insufficient Balance"), 502, "upstream_credits"),
        (answers.error(404, "The model m-1 does not exist", code="model_not_found"), 502, "upstream_model_missing"),
        (answers.reply(b""), 502, "upstream_protocol"),
        (answers.reply(b"<html>hello</html>", headers=(("content-type", "text/html"),)), 502, "upstream_protocol"),
    ],
)
async def test_a_fault_of_ours_is_never_the_clients(
    daemon: Start, upstream: Upstream, answer: Answer, status: int, code: str
) -> None:
    upstream.script(answer)
    got = await fetch(daemon(routes(upstream)), CHAT, ask("gpt-4o"), headers={"authorization": "Bearer sk-digest"})
    assert (got.status, got.error["code"]) == (status, code)
    assert b"sk-up" not in got.body


async def test_the_upstreams_retry_after_reaches_the_client(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.error(429, "slow down", headers=[("retry-after", "17")]))
    with pytest.raises(openai.RateLimitError) as refused:
        await sdk(daemon(routes(upstream)), "sk-digest").chat.completions.create(model="gpt-4o", messages=USER)
    assert 15 <= int(refused.value.response.headers["retry-after"]) <= 17


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"not json", None),
        (b"[1]", None),
        (b'{"messages": []}', "model"),
        (b'{"model": 5, "messages": [{}]}', "model"),
        (b'{"model": "gpt-4o"}', "messages"),
        (b'{"model": "gpt-4o", "messages": "hello"}', "messages"),
        (b'{"model": "gpt-4o", "messages": []}', "messages"),
        (b'{"model": "gpt-4o", "messages": [{"role":"user","content":"x"}], "stream": "yes"}', "stream"),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
async def test_a_bad_body_is_400_and_names_the_parameter(
    daemon: Start, upstream: Upstream, body: bytes, param: str | None
) -> None:
    answer = await fetch(daemon(routes(upstream)), CHAT, body, headers={"authorization": "Bearer sk-digest"})
    assert answer.status == 400
    assert answer.error["param"] == param
    assert answer.error["type"] == "invalid_request_error"


async def test_a_wrong_path_or_method_has_openais_shape_too(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream))
    headers = {"authorization": "Bearer sk-digest"}
    missing = await fetch(running, "/v1/nothing", headers=headers)
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    for path in ("/metrics", "/ui", "/-/status"):
        elsewhere = await fetch(running, path)
        assert elsewhere.status == 404
        assert "admin listener" in elsewhere.error["message"]
    wrong = await fetch(running, CHAT, method="GET", headers=headers)
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]
