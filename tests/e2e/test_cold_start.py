"""Models that are loaded when they are asked for, and requests that name their provider themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
COLD = answers.reply({"message": "This Model is Cold / Not Ready for Inference"}, status=400)


def routes(upstream: Upstream, **cold: str) -> str:
    block = ", ".join(f"{key}: {value}" for key, value in cold.items())
    return f"""
version: 1
providers:
  slow:
    preset: featherless
    base_url: "{upstream.url}"
    api_key: sk-f
    direct: true
    cold_start: {{when: [{{status: 400, body: "(?i)cold"}}], backoff: {{first: 10ms, factor: 1, max: 10ms, jitter: 0}}, {block}}}
  demo: {{dialect: simulator, simulator: {{first_token: 0s, tokens_per_s: 1000000, reply: demo}}}}
models:
  alone: {{chain: [slow/x]}}
  both: {{chain: [slow/x, demo/echo]}}
"""


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cold_model_warms_up_behind_one_request(daemon: Start, upstream: Upstream, stream: bool) -> None:
    upstream.script(*[COLD] * 6, answers.stream() if stream else answers.reply())
    answer = await fetch(daemon(routes(upstream)), CHAT, ask("alone", stream=stream))
    assert answer.status == 200
    assert len(upstream.requests) == 7
    assert answer.headers["x-routerd-attempts"].count("slow:cold") == 6


async def test_a_model_that_stays_cold_is_a_503_with_a_time_to_come_back(daemon: Start, upstream: Upstream) -> None:
    upstream.always(COLD)
    answer = await fetch(daemon(routes(upstream, attempts="3")), CHAT, ask("alone"))
    assert (answer.status, answer.error["code"]) == (503, "upstream_cold")
    assert int(answer.headers["retry-after"]) >= 1
    assert len(upstream.requests) == 3


@pytest.mark.parametrize(("patience", "asked"), [("0s", 1), ("35ms", 4)])
async def test_another_target_answers_after_fail_over_after(daemon: Start, upstream: Upstream, patience: str, asked: int) -> None:
    upstream.always(COLD)
    answer = await fetch(daemon(routes(upstream, fail_over_after=patience)), CHAT, ask("both"))
    assert answer.headers["x-routerd-target"] == "demo/echo"
    assert 1 <= len(upstream.requests) <= asked
    assert (len(upstream.requests) == 1) == (patience == "0s")


async def test_a_request_may_name_a_direct_provider(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    node = daemon(routes(upstream))
    answer = await fetch(node, CHAT, ask("meta/llama", provider="slow"))
    assert answer.status == 200
    sent = upstream.requests[0].json()
    assert sent["model"] == "meta/llama"
    assert "provider" not in sent
    for name in ("demo", "nobody", ""):
        refused = await fetch(node, CHAT, ask("meta/llama", provider=name))
        assert (refused.status, refused.error["code"], refused.error["param"]) == (404, "provider_not_found", "provider")
    assert len(upstream.requests) == 1


async def test_an_object_of_that_name_is_the_upstreams_affair(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    await fetch(daemon(routes(upstream)), CHAT, ask("slow/x", provider={"sort": "price"}))
    assert upstream.requests[0].json()["provider"] == {"sort": "price"}
