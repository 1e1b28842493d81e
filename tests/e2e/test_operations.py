"""Operations besides chat: they take the same way through keys, budgets, chains and failover, and are forwarded as they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
Sdk = Callable[..., openai.AsyncOpenAI]

WHOLE = {
    "/v1/images/generations": ({"prompt": "a cat"}, {"created": 1, "data": [{"b64_json": "AAAA"}]}),
    "/v1/moderations": ({"input": "x"}, {"id": "modr-1", "model": "m", "results": [{"flagged": False}]}),
    "/v1/rerank": ({"query": "q", "documents": ["a", "b"]}, {"results": [{"index": 1, "relevance_score": 0.9}]}),
    "/tokenize": ({"prompt": "x"}, {"count": 1, "tokens": [7]}),
    "/api/v1/tokenize": ({"text": "x"}, {"tokens": [7]}),
    "/v1/responses": ({"input": "x"}, {"id": "resp_1", "output": [], "usage": {"input_tokens": 5, "output_tokens": 2}}),
}


def routes(*upstreams: Upstream) -> str:
    providers = "".join(f'  u{n}: {{dialect: openai, base_url: "{up.url}"}}\n' for n, up in enumerate(upstreams))
    chain = ", ".join(f"u{n}/real-{n}" for n in range(len(upstreams)))
    return f"version: 1\nproviders:\n{providers}models:\n  m: {{chain: [{chain}]}}\n"


def typed(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


@pytest.mark.parametrize("path", WHOLE)
async def test_an_operation_is_forwarded_with_the_upstreams_model(daemon: Start, upstream: Upstream, path: str) -> None:
    asked, answered = WHOLE[path]
    upstream.script(answers.reply(answered))
    answer = await fetch(daemon(routes(upstream)), path, json.dumps({"model": "m", **asked}).encode())
    assert (answer.status, answer.json()) == (200, answered)
    assert upstream.requests[0].json() == {"model": "real-0", **asked}
    assert answer.headers["x-routerd-target"] == "u0/real-0"


@pytest.mark.parametrize("path", WHOLE)
async def test_an_operation_fails_over(daemon: Start, upstreams: Callable[[], Any], path: str) -> None:
    first, second = await upstreams(), await upstreams()
    asked, answered = WHOLE[path]
    first.script(answers.error(503))
    second.script(answers.reply(answered))
    answer = await fetch(daemon(routes(first, second)), path, json.dumps({"model": "m", **asked}).encode())
    assert (answer.status, answer.json()) == (200, answered)


async def test_what_an_operation_needs_is_named(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream))
    for path, param in {"/v1/images/generations": "prompt", "/v1/moderations": "input", "/v1/rerank": "query"}.items():
        answer = await fetch(running, path, b'{"model": "m"}')
        assert (answer.status, answer.error["param"]) == (400, param)


async def test_the_sdk_streams_responses(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    done = {"id": "resp_1", "output": [], "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}}
    upstream.script(
        answers.events(
            typed("response.created", response={"id": "resp_1"}),
            typed("response.output_text.delta", delta="Hel", item_id="i", output_index=0, content_index=0),
            typed("response.output_text.delta", delta="lo", item_id="i", output_index=0, content_index=0),
            typed("response.completed", response=done),
        )
    )
    running = daemon(routes(upstream))
    stream = await sdk(running).responses.create(model="m", input="x", stream=True)
    events = [event async for event in stream]
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"
    assert "stream_options" not in upstream.requests[0].json()
    metrics = running.get_admin("/metrics")[1]
    assert 'routerd_tokens_total{client="_anonymous",provider="u0",route="m",token_type="output"} 2.0' in metrics


async def test_responses_that_fail_before_their_content_fail_over(daemon: Start, upstreams: Callable[[], Any]) -> None:
    first, second = await upstreams(), await upstreams()
    failed = typed("response.failed", response={"error": {"code": "server_error", "message": "no"}})
    first.script(answers.events(typed("response.created", response={}), failed))
    second.script(answers.events(typed("response.output_text.delta", delta="x"), typed("response.completed", response={})))
    answer = await fetch(daemon(routes(first, second)), "/v1/responses", b'{"model": "m", "input": "x", "stream": true}')
    assert b"response.output_text.delta" in answer.body
    assert b"response.failed" not in answer.body
    assert b"[DONE]" not in answer.body


async def test_a_cut_stream_of_responses_ends_with_an_error_event(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.events(typed("response.output_text.delta", delta="x")))
    answer = await fetch(daemon(routes(upstream)), "/v1/responses", b'{"model": "m", "input": "x", "stream": true}')
    last = answer.body.rstrip().rpartition(b"\n\n")[2]
    assert last.startswith(b"event: error\n")
    event = json.loads(last.partition(b"data: ")[2])
    assert event["type"] == "error"
    assert "without a finish_reason" in event["message"]
