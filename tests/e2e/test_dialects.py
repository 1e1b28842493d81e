"""Targets that speak something else: the client asks and is answered in OpenAI's words, whoever is behind the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import openai
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Answer, Call, Upstream
from tests.support.vendors import VENDORS

Start = Callable[..., Daemon]
Sdk = Callable[..., openai.AsyncOpenAI]


def streamed(body: bytes, kind: str = "text/event-stream", sizes: Sequence[int] = (7,)) -> Answer:
    """Answer 200 with a body in small pieces."""

    async def answer(call: Call) -> None:
        await call.head(200, [("content-type", kind), ("transfer-encoding", "chunked")])
        for i in range(0, len(body), sizes[0]):
            await call.chunk(body[i : i + sizes[0]])
        await call.end_chunks()

    return answer


def template(upstream: Upstream, stream: str = "{format: sse, text: /t, done: END}") -> str:
    base = upstream.url.removesuffix("/v1")
    return f"""
version: 1
providers:
  six:
    dialect: template
    base_url: {base}/api/gemini
    auth: {{type: none}}
    template:
      request: {{query: "{{prompt}}", model: "{{model}}", stream: "{{stream}}", t: "{{params.temperature}}"}}
      response: {{text: /answer/0/text, finish: /done}}
      stream: {stream}
  demo: {{dialect: simulator, simulator: {{first_token: 0s, tokens_per_s: 1000000, reply: "from the demo"}}}}
models:
  "gemini-*": {{chain: [{{provider: six, model: "gemini-{{1}}"}}, demo/echo]}}
  alone: {{chain: [six/x]}}
"""


async def test_a_described_service_answers_whole(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.reply({"answer": [{"text": "hello"}], "done": True}))
    client = sdk(daemon(template(upstream)))
    answer = await client.chat.completions.create(
        model="gemini-2", messages=[{"role": "user", "content": "hi"}], temperature=0.5, top_p=1
    )
    assert answer.choices[0].message.content == "hello"
    assert answer.model == "gemini-2"
    assert answer.usage is not None
    assert upstream.requests[0].target == "/api/gemini"
    assert upstream.requests[0].json() == {"query": "hi", "model": "gemini-2", "stream": False, "t": 0.5}


@pytest.mark.parametrize(
    ("stream", "body", "kind"),
    [
        ("{format: sse, text: /t, done: END}", b'data: {"t":"he"}\n\ndata: {"t":"llo"}\n\ndata: END\n\n', "text/event-stream"),
        ("{format: ndjson, text: /t, finish: /f}", b'{"t":"he"}\n{"t":"llo","f":1}\n', "application/x-ndjson"),
        ("{format: vercel}", b'0:"he"\n0:"llo"\nd:{"finishReason":"stop"}\n', "text/plain"),
        ("{format: raw}", b"hello", "text/plain"),
    ],
)
async def test_a_described_service_streams(
    daemon: Start, upstream: Upstream, sdk: Sdk, stream: str, body: bytes, kind: str
) -> None:
    upstream.script(streamed(body, kind))
    client = sdk(daemon(template(upstream, stream)))
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="gemini-2", messages=[{"role": "user", "content": "hi"}], stream=True, stream_options={"include_usage": True}
        )
    ]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert upstream.requests[0].json()["stream"] is True


async def test_a_described_service_that_fails_is_failed_over(daemon: Start, upstream: Upstream) -> None:
    upstream.script(
        answers.reply({"error": "busy"}), answers.reply({"error": "down"}, status=500), streamed(b'data: {"error":"busy"}\n\n')
    )
    node = daemon(template(upstream))
    for stream in (False, False, True):
        answer = await fetch(node, CHAT, ask("gemini-2", stream=stream))
        assert answer.status == 200
        assert b"from" in answer.body
        assert answer.headers["x-routerd-target"] == "demo/echo"


async def test_a_stream_of_a_described_service_that_was_cut_is_told_so(daemon: Start, upstream: Upstream) -> None:
    upstream.script(streamed(b'data: {"t":"he"}\n\ndata: {"t":"l'))
    events = (await fetch(daemon(template(upstream)), CHAT, ask("alone", stream=True))).events()
    assert events[-1]["error"]
    assert "[DONE]" not in events


async def test_what_was_left_out_is_told(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply({"answer": [{"text": "hello"}], "done": True}))
    answer = await fetch(daemon(template(upstream)), CHAT, ask("alone", top_p=0.5))
    assert answer.headers["x-routerd-dropped"] == "top_p"


def presets(upstream: Upstream) -> str:
    base = upstream.url.removesuffix("/v1")
    return f"""
version: 1
providers:
  anthropic: {{preset: anthropic, base_url: "{base}", api_key: sk-a}}
  gemini: {{preset: gemini, base_url: "{base}/v1beta", api_key: sk-g}}
  ollama: {{preset: ollama, base_url: "{base}"}}
  cohere: {{preset: cohere, base_url: "{base}", api_key: sk-c}}
  mistral: {{preset: mistral, base_url: "{base}/v1", api_key: sk-m}}
  groq: {{preset: groq, base_url: "{base}/v1", api_key: sk-q}}
  xai: {{preset: xai, base_url: "{base}/v1", api_key: sk-x}}
  or: {{preset: openrouter, base_url: "{base}/v1", api_key: sk-o}}
models:
  claude: {{chain: [anthropic/claude-x]}}
  gemini: {{chain: [gemini/gemini-x]}}
  llama: {{chain: [ollama/llama-x]}}
  command: {{chain: [cohere/command-x]}}
  strict: {{chain: [mistral/mistral-x]}}
  both: {{chain: [or/x, groq/x]}}
  embed: {{chain: [xai/x, mistral/embed]}}
"""


ANTHROPIC = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip
GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
}
OLLAMA = {
    "model": "llama-x", "created_at": "2025-01-01T00:00:00Z", "message": {"role": "assistant", "content": "hello"},
    "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "body", "target", "header"),
    [
        ("claude", ANTHROPIC, "/v1/messages", ("x-api-key", "sk-a")),
        ("gemini", GEMINI, "/v1beta/models/gemini-x:generateContent", ("x-goog-api-key", "sk-g")),
        ("llama", OLLAMA, "/api/chat", ("authorization", None)),
        ("command", VENDORS["cohere"].text, "/v2/chat", ("authorization", "Bearer sk-c")),
    ],
)
async def test_a_preset_is_all_that_another_api_needs(
    daemon: Start, upstream: Upstream, model: str, body: object, target: str, header: tuple[str, str | None]
) -> None:
    upstream.script(answers.reply(json.dumps(body).encode()))
    answer = await fetch(daemon(presets(upstream)), CHAT, ask(model))
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"].lower().startswith("hello")
    assert answer.json()["usage"]["total_tokens"] == (14 if model == "command" else 5)
    request = upstream.requests[0]
    assert request.target == target
    assert request.header(header[0]) == header[1]
    assert request.header("anthropic-version") == ("2023-06-01" if model == "claude" else None)


async def test_quirks_of_a_preset_reach_the_wire(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.stream())
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]
    params = {"seed": 1, "max_completion_tokens": 5, "tool_choice": "required", "logit_bias": {"1": 1}}
    answer = await fetch(daemon(presets(upstream)), CHAT, {"model": "strict", "messages": messages, "stream": True, **params})
    assert answer.status == 200
    assert answer.headers["x-routerd-dropped"] == "logit_bias"
    assert upstream.requests[0].json() == {
        "model": "mistral-x",
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
        "stream": True,
        "random_seed": 1,
        "max_tokens": 5,
        "tool_choice": "any",
    }


async def test_several_answers_are_asked_of_who_gives_them_else_refused_by_name(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    text = presets(upstream) + "  alone: {chain: [groq/x]}\n  either: {chain: [groq/x, xai/y]}\n"
    node = daemon(text)
    refused = await fetch(node, CHAT, ask("alone", n=2))
    assert (refused.status, refused.error["param"], refused.error["code"]) == (400, "n", "unsupported_value")
    assert upstream.requests == []
    assert (await fetch(node, CHAT, ask("alone", n=1))).status == 200
    elsewhere = await fetch(node, CHAT, ask("either", n=2))
    assert (elsewhere.status, elsewhere.headers["x-routerd-target"]) == (200, "xai/y")
    assert upstream.requests[-1].json()["n"] == 2


async def test_a_conversation_with_tools_may_go_on_at_mistral(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    call = {"id": "call_PTLP8xhu3uwZk4l3nlnrrJha", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    begun = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "42"}
    messages = [{"role": "user", "content": "hi"}, begun, result]
    answer = await fetch(daemon(presets(upstream)), CHAT, {"model": "strict", "messages": messages})
    assert answer.status == 200
    _, theirs, answered = upstream.requests[0].json()["messages"]
    (made,) = theirs["tool_calls"]
    assert len(made["id"]) == 9
    assert made["id"].isalnum()
    assert answered == {"role": "tool", "tool_call_id": made["id"], "content": "42"}
    assert theirs.keys() == {"role", "content", "tool_calls"}


async def test_what_one_vendor_invented_does_not_follow_to_the_next(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.error(500), answers.reply())
    answer = await fetch(daemon(presets(upstream)), CHAT, ask("both", provider={"sort": "price"}, plugins=[]))
    assert answer.status == 200
    first, second = (request.json() for request in upstream.requests)
    assert (first["provider"], first["plugins"]) == ({"sort": "price"}, [])
    assert "provider" not in second
    assert "plugins" not in second


async def test_who_does_not_offer_embeddings_is_not_asked_for_them(daemon: Start, upstream: Upstream) -> None:
    body = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "usage": answers.USAGE}
    upstream.script(answers.reply(body))
    node = daemon(presets(upstream))
    answer = await fetch(node, "/v1/embeddings", {"model": "embed", "input": "x"})
    assert answer.headers["x-routerd-target"] == "mistral/embed"
    assert upstream.requests[0].target == "/v1/embeddings"
    refused = await fetch(node, "/v1/embeddings", {"model": "claude", "input": "x"})
    assert (refused.status, refused.error["code"]) == (400, "unsupported_operation")


async def test_a_rerank_of_cohere_goes_to_its_own_path_and_comes_back_as_it_is(daemon: Start, upstream: Upstream) -> None:
    ranked = {"id": "x", "results": [{"index": 1, "relevance_score": 0.5}], "meta": {"billed_units": {"search_units": 1}}}
    upstream.script(answers.reply(ranked))
    asked = {"model": "command", "query": "q", "documents": ["a", "b"], "top_n": 1}
    answer = await fetch(daemon(presets(upstream)), "/v1/rerank", asked)
    assert (answer.status, answer.json()) == (200, ranked)
    assert upstream.requests[0].target == "/v2/rerank"
    assert upstream.requests[0].json() == {**asked, "model": "command-x"}
