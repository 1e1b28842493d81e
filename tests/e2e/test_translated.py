"""Providers that speak their own API, behind the OpenAI SDK: what they were recorded with, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.upstream import Call, Upstream
from tests.wire.transcripts import load

Start = Callable[..., Daemon]
Sdk = Callable[..., openai.AsyncOpenAI]

HI: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"location": {"type": "string"}}}},
    }
]


def routes(upstream: Upstream, dialect: str) -> str:
    auth = "{type: header, name: x-goog-api-key}, api_key: sk-up" if dialect == "gemini" else "{type: none}"
    provider = f'{{dialect: {dialect}, base_url: "{upstream.url}", auth: {auth}}}'
    return f"version: 1\nproviders:\n  up: {provider}\nmodels:\n  m: {{chain: [up/real-m]}}\n"


def recorded(name: str) -> Any:
    [found] = load(f"{name}.json")

    async def answer(call: Call) -> None:
        await call.head(200, [*((k.decode(), v.decode()) for k, v in found.headers), ("transfer-encoding", "chunked")])
        for start in range(0, len(found.body), 37):
            await call.chunk(found.body[start : start + 37])
        await call.end_chunks()

    return answer


async def told(stream: Any) -> dict[str, Any]:
    """What the SDK's user has at the end."""
    found: dict[str, Any] = {"text": "", "calls": [], "finish": None, "usage": None}
    async for chunk in stream:
        found["usage"] = chunk.usage.total_tokens if chunk.usage else found["usage"]
        for choice in chunk.choices:
            found["text"] += choice.delta.content or ""
            found["calls"] += [(c.function.name, json.loads(c.function.arguments)) for c in choice.delta.tool_calls or ()]
            found["finish"] = choice.finish_reason or found["finish"]
    return found


async def test_a_gemini_answer(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(recorded("gemini/gen_function_call"))
    client = sdk(daemon(routes(upstream, "gemini")))
    answer = await client.chat.completions.create(model="m", messages=HI, tools=TOOLS, user="u", max_tokens=5)
    [choice] = answer.choices
    [called] = choice.message.tool_calls or ()
    assert (answer.model, choice.finish_reason, choice.message.content) == ("m", "tool_calls", None)
    assert json.loads(called.function.arguments) == {"location": "Florence,Italy"}  # type: ignore[union-attr]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15 + 48  # what the model thought is paid for
    [sent] = upstream.requests
    assert (sent.target, sent.header("x-goog-api-key")) == ("/v1/models/real-m:generateContent", "sk-up")
    assert set(sent.json()) == {"contents", "generationConfig", "tools"}


async def test_a_gemini_stream_ends_with_usage_and_done(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(recorded("gemini/gen_stream_thinking"))
    client = sdk(daemon(routes(upstream, "gemini")))
    options: Any = {"include_usage": True}
    stream = await client.chat.completions.create(model="m", messages=HI, tools=TOOLS, stream=True, stream_options=options)
    found = await told(stream)
    assert found == {"text": "", "calls": [("weather", {"location": "Florence, Italy"})], "finish": "tool_calls", "usage": 130}
    assert upstream.requests[0].target == "/v1/models/real-m:streamGenerateContent?alt=sse"


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_gemini_stream_says_its_end_in_either_framing_and_where_that_is_cut(
    daemon: Start, upstream: Upstream, sdk: Sdk, kind: str, whole: bool
) -> None:
    [found] = load("gemini/gen_stream.json")
    body = found.body
    if kind == "application/json":  # what a proxy makes of it that drops `alt=sse`
        body = b"[" + b"\n,\r\n".join(line[6:] for line in body.split(b"\r\n") if line.startswith(b"data: ")) + b"]"

    async def answer(call: Call) -> None:
        await call.head(200, [("content-type", kind), ("transfer-encoding", "chunked")])
        for start in range(0, len(body), 37):
            await call.chunk(body[start : start + 37])
        if whole:
            await call.end_chunks()
        else:
            call.close()

    upstream.script(answer)
    options: Any = {"include_usage": True}
    client = sdk(daemon(routes(upstream, "gemini")))
    got = await told(await client.chat.completions.create(model="m", messages=HI, stream=True, stream_options=options))
    assert (got["text"] != "", got["finish"], got["usage"] > 0) == (True, "stop", True)


async def test_an_ollama_answer_and_stream(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(recorded("ollama/chat_tool_call"), recorded("ollama/chat_stream_ndjson"))
    client = sdk(daemon(routes(upstream, "ollama")))
    answer = await client.chat.completions.create(model="m", messages=HI, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    found = await told(await client.chat.completions.create(model="m", messages=HI, stream=True))
    assert found["text"].startswith("Why did the OpenTelemetry agent go to therapy?")
    assert (found["finish"], found["usage"]) == ("stop", None)
    assert [(r.target, r.json()["stream"]) for r in upstream.requests] == [("/v1/api/chat", False), ("/v1/api/chat", True)]


async def test_embeddings_come_as_arrays(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.reply({"model": "x", "embeddings": [[0.5, 1]], "prompt_eval_count": 3}))
    client = sdk(daemon(routes(upstream, "ollama")))
    answer = await client.embeddings.create(model="m", input="a")
    assert (answer.data[0].embedding, answer.usage.total_tokens) == ([0.5, 1.0], 3)


async def test_an_error_line_in_the_first_read_fails_over(daemon: Start, upstreams: Callable[[], Any], sdk: Sdk) -> None:
    first, second = await upstreams(), await upstreams()
    first.script(answers.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n{"error":"out of memory"}\n'))
    second.script(recorded("ollama/chat_stream_ndjson"))
    text = routes(first, "ollama").replace("\nmodels:", f'\n  b: {{dialect: ollama, base_url: "{second.url}"}}\nmodels:')
    client = sdk(daemon(text.replace("[up/real-m]", "[up/real-m, b/other]")))
    assert (await told(await client.chat.completions.create(model="m", messages=HI, stream=True)))["finish"] == "stop"
    assert second.requests[0].json()["model"] == "other"


async def test_what_the_target_has_no_words_for_is_refused_or_told(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(recorded("ollama/chat_basic"))
    client = sdk(daemon(routes(upstream, "ollama")))
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="m", messages=image)
    assert caught.value.param == "messages[0].content[0].image_url.url"
    assert upstream.requests == []
    answer = await client.chat.completions.with_raw_response.create(model="m", messages=HI, user="u")
    assert answer.headers["x-routerd-dropped"] == "user"
