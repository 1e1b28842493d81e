"""Anthropic's own SDK against routerd: on a model that speaks OpenAI, and on one that speaks its own API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
Make = Callable[[Daemon], anthropic.AsyncAnthropic]

HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
async def messages() -> AsyncIterator[Make]:
    made: list[anthropic.AsyncAnthropic] = []

    def make(running: Daemon) -> anthropic.AsyncAnthropic:
        made.append(anthropic.AsyncAnthropic(base_url=running.url, api_key="sk-client-1", max_retries=0))
        return made[-1]

    yield make
    for client in made:
        await client.close()


def routes(*upstreams: Upstream, dialect: str = "openai") -> str:
    providers = "".join(
        f'  u{n}: {{dialect: {dialect}, base_url: "{up.url.removesuffix("/v1")}", api_key: sk-up-{n}-secret}}\n'
        for n, up in enumerate(upstreams)
    )
    chain = ", ".join(f"u{n}/real-{n}" for n in range(len(upstreams)))
    model = f'  m: {{chain: [{chain}], system_prompt: {{text: "Be kind."}}, params: {{clamp: {{max_tokens: {{max: 50}}}}}}}}\n'
    return f"version: 1\nproviders:\n{providers}models:\n{model}clients: {{a: {{key: sk-client-1}}}}\n"


def named(*events: dict[str, Any]) -> list[bytes]:
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


async def test_a_message_from_a_model_that_speaks_openai(daemon: Start, upstream: Upstream, messages: Make) -> None:
    upstream.script(answers.reply())
    said = await messages(daemon(routes(upstream))).messages.create(model="m", max_tokens=100, messages=HELLO)
    assert (said.model, said.stop_reason) == ("m", "end_turn")
    assert said.content[0].text == "Hello there"
    assert (said.usage.input_tokens, said.usage.output_tokens) == (11, 3)
    got = upstream.requests[0]
    assert got.target.endswith("/chat/completions")
    sent = got.json()
    assert sent["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert (sent["model"], sent["max_tokens"]) == ("real-0", 50)


async def test_a_stream_with_a_tool_call(daemon: Start, upstream: Upstream, messages: Make) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    upstream.script(
        answers.events(
            answers.event(answers.delta("Let me ")),
            answers.event(answers.delta("see.")),
            answers.event(answers.delta(tool_calls=[call])),
            answers.event(answers.delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":"Rome"}'}}])),
            answers.event(answers.delta(finish="tool_calls")),
            answers.DONE,
        )
    )
    client = messages(daemon(routes(upstream)))
    async with client.messages.stream(model="m", max_tokens=100, messages=HELLO, tools=[TOOL]) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "Let me see."
    assert final.stop_reason == "tool_use"
    assert (final.content[1].name, final.content[1].input) == ("weather", {"city": "Rome"})
    assert upstream.requests[0].json()["tools"][0]["function"]["name"] == "weather"


async def test_errors_are_of_anthropics_shape(daemon: Start, upstream: Upstream, messages: Make) -> None:
    upstream.script(answers.error(400, "bad temperature"), answers.error(429, headers=[("retry-after", "7")]))
    running = daemon(routes(upstream))
    client = messages(running)
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        await client.messages.create(model="nobody", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError, match="bad temperature"):
        await client.messages.create(model="m", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.RateLimitError) as limited:
        await client.messages.create(model="m", max_tokens=5, messages=HELLO)
    assert limited.value.response.headers["retry-after"] == "7"
    wrong = anthropic.AsyncAnthropic(base_url=running.url, api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        await wrong.messages.create(model="m", max_tokens=5, messages=HELLO)
    await wrong.close()
    refused = await fetch(running, "/v1/messages", b'{"model": "m"}', headers={"x-api-key": "sk-client-1"})
    assert (refused.status, refused.json()["type"], refused.json()["error"]["type"]) == (400, "error", "invalid_request_error")


async def test_a_cut_stream_is_told(daemon: Start, upstream: Upstream, messages: Make) -> None:
    upstream.script(answers.events(answers.event(answers.delta("Let me "))))
    client = messages(daemon(routes(upstream)))
    with pytest.raises(anthropic.APIStatusError, match="finish_reason"):
        async with client.messages.stream(model="m", max_tokens=100, messages=HELLO) as stream:
            await stream.get_final_message()


WHOLE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "real-0",
    "content": [{"type": "thinking", "thinking": "hm", "signature": "SIG"}, {"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 4, "cache_read_input_tokens": 6, "cache_creation_input_tokens": 0, "output_tokens": 2},
}


async def test_a_message_to_its_own_api_goes_through_as_it_came(daemon: Start, upstream: Upstream, messages: Make) -> None:
    upstream.script(answers.reply(WHOLE))
    running = daemon(routes(upstream, dialect="anthropic"))
    marked: Any = [{"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]}]
    said = await messages(running).messages.create(
        model="m", max_tokens=100, messages=marked, extra_headers={"anthropic-beta": "b-1"}, extra_body={"odd": 1}
    )
    assert said.content[0].signature == "SIG"
    assert said.model == "real-0"
    got = upstream.requests[0]
    assert got.target == "/v1/messages"
    assert got.json() == {"max_tokens": 50, "messages": marked, "model": "real-0", "odd": 1, "system": "Be kind."}
    assert got.header("anthropic-beta") == "b-1"
    metrics = running.get_admin("/metrics")[1]
    assert 'routerd_tokens_total{client="a",provider="u0",route="m",token_type="input"} 10.0' in metrics


async def test_its_own_stream_goes_through_byte_for_byte(daemon: Start, upstream: Upstream) -> None:
    start = {**WHOLE, "content": [], "stop_reason": None}
    pieces = named(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    )
    upstream.script(answers.events(*pieces))
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": HELLO}
    got = await fetch(daemon(routes(upstream, dialect="anthropic")), "/v1/messages", body, headers={"x-api-key": "sk-client-1"})
    assert got.body == b"".join(pieces)


async def test_tokens_are_counted_by_who_can(daemon: Start, upstream: Upstream, messages: Make) -> None:
    upstream.script(answers.reply({"input_tokens": 12}))
    counted = await messages(daemon(routes(upstream, dialect="anthropic"))).messages.count_tokens(model="m", messages=HELLO)
    assert counted.input_tokens == 12
    assert upstream.requests[0].target == "/v1/messages/count_tokens"
    assert set(upstream.requests[0].json()) == {"model", "messages", "system"}
    with pytest.raises(anthropic.BadRequestError, match=r"count_tokens.* A provider that can do it says so in its `offers`"):
        await messages(daemon(routes(upstream))).messages.count_tokens(model="m", messages=HELLO)


async def test_an_engine_that_counts_besides_its_own_api_is_asked_and_others_are_passed_over(
    daemon: Start, upstreams: Any, messages: Make
) -> None:
    plain, engine = await upstreams(), await upstreams()
    engine.script(answers.reply({"input_tokens": 25}))
    text = f"""
version: 1
providers:
  plain: {{base_url: "{plain.url}"}}
  engine: {{preset: llamacpp, base_url: "{engine.url}"}}
models:
  m: {{chain: [plain/x, engine/theirs]}}
"""
    counted = await messages(daemon(text)).messages.count_tokens(model="m", messages=HELLO)
    assert counted.input_tokens == 25
    assert plain.requests == []
    asked = engine.requests[0]
    assert (asked.target, asked.json()) == ("/v1/messages/count_tokens", {"model": "theirs", "messages": HELLO})


async def test_a_message_fails_over_from_its_own_api_to_another(daemon: Start, upstreams: Any, messages: Make) -> None:
    first, second = await upstreams(), await upstreams()
    first.script(answers.error(529))
    second.script(answers.reply())
    text = routes(first, second, dialect="anthropic").replace("u1: {dialect: anthropic", "u1: {dialect: openai")
    said = await messages(daemon(text)).messages.create(model="m", max_tokens=100, messages=HELLO)
    assert said.content[0].text == "Hello there"
