"""A chat application over seven providers: recorded answers of each, through the daemon, read by two vendors' SDKs."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.systems.conftest import Serve, file_of
from tests.e2e.systems.oracles import Told, expected, finish_of
from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Answer, Call, Upstream
from tests.wire.transcripts import Recorded, load

# LM Studio was not recorded; llama.cpp's server, which it runs, and vLLM stand in.
RECORDED = {
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "deepseek": ("deepseek",),
    "gemini": ("gemini",),
    "openrouter": ("openrouter",),
    "lmstudio": ("llamacpp", "vllm"),
    "ollama": ("ollama",),
}
SEVEN = tuple(RECORDED)
KEYS = {
    "openai": ("authorization", "Bearer sk-openai"),
    "anthropic": ("x-api-key", "sk-anthropic"),
    "deepseek": ("authorization", "Bearer sk-deepseek"),
    "gemini": ("x-goog-api-key", "sk-gemini"),
    "openrouter": ("authorization", "Bearer sk-openrouter"),
    "lmstudio": ("authorization", None),
    "ollama": ("authorization", None),
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
FRAMING = ("content-length", "transfer-encoding", "content-encoding", "connection")
HI: Any = [{"role": "user", "content": "hi"}]


def of(provider: str) -> list[Recorded]:
    """The chat answers and errors that were recorded of a provider."""
    found = [one for family in RECORDED[provider] for one in load(f"{family}/*.json")]
    return [one for one in found if not one.name.endswith(("embeddings", "_responses"))]


def streams(recorded: Recorded) -> bool:
    return recorded.body.lstrip().startswith((b"data:", b":", b"event:")) or recorded.name == "ollama/chat_stream_ndjson"


def replay(recorded: Recorded, rng: random.Random | None) -> Answer:
    """Answer as recorded: whole, or split at random borders."""
    fields = [(name.decode(), value.decode()) for name, value in recorded.headers]
    head = [
        one for one in fields if one[0].lower() not in ("content-length", "transfer-encoding", "content-encoding", "connection")
    ]

    async def answer(call: Call) -> None:
        if rng is None:
            await call.body(recorded.status, head, recorded.body)
            return
        await call.head(recorded.status, [*head, ("transfer-encoding", "chunked")])
        at = 0
        while at < len(recorded.body):
            size = rng.choice((1, 2, 3, 7, 50, 400))
            await call.chunk(recorded.body[at : at + size])
            at += size
        await call.end_chunks()

    return answer


class Provider(Upstream):
    """A provider that has no list of models and whose health is `well`; chat is scripted."""

    def __init__(self, listed: bytes | None = None) -> None:
        super().__init__()
        self.listed = listed
        self.well = True

    def _answer(self, request: Any) -> Answer:
        if request.method != "GET":
            return super()._answer(request)
        if not self.well:
            return answers.error(500)
        if request.target == "/api/version":
            return answers.reply({"version": "0.12"})
        return answers.error(404) if self.listed is None else answers.reply(self.listed)

    def _arrived(self, request: Any) -> None:
        if request.method != "GET":  # lists and health come in their own time
            super()._arrived(request)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as upstream:
        yield upstream


PATHS = {
    "OPENAI": "/v1", "ANTHROPIC": "", "DEEPSEEK": "", "GEMINI": "/v1beta", "OPENROUTER": "/api/v1",
    "LM_STUDIO": "/v1", "OLLAMA": "",
}  # fmt: skip


def variables(upstream: Upstream, **more: str) -> dict[str, str]:
    """All seven at one address, each by its usual path."""
    base = upstream.url.removesuffix("/v1")
    keys = {f"{name}_API_KEY": f"sk-{name.lower()}" for name in ("OPENAI", "ANTHROPIC", "DEEPSEEK", "OPENROUTER")}
    return {**{f"{name}_URL": base + path for name, path in PATHS.items()}, **keys, "GOOGLE_API_KEY": "sk-gemini", **more}


@pytest.fixture
def running(serve: Serve, provider: Provider) -> Daemon:
    return serve("chat_application", **variables(provider))


@pytest.fixture
async def openai_sdk(running: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_sdk(running: Daemon) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key="any", max_retries=0) as client:
        yield client


async def by_openai(client: openai.AsyncOpenAI, model: str, stream: bool, **more: Any) -> Told:
    """Ask by OpenAI's SDK; return what its user has at the end."""
    asked: Any = {"model": model, "messages": HI, "tools": TOOLS, **more}
    told, parts = Told(), dict[int, list[str]]()
    if not stream:
        answer = await client.chat.completions.create(**asked)
        choice = answer.choices[0]
        told.text, told.finish = choice.message.content or "", choice.finish_reason
        told.calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or ()]  # type: ignore[union-attr]
        if answer.usage is not None:
            told.tokens = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
        return told
    async for chunk in await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for one in chunk.choices:
            told.text += one.delta.content or ""
            for call in one.delta.tool_calls or ():
                entry = parts.setdefault(call.index, ["", ""])
                assert call.function is not None
                entry[0] += call.function.name or ""
                entry[1] += call.function.arguments or ""
            told.finish = one.finish_reason or told.finish
        if chunk.usage is not None:
            told.tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
    told.calls = [(name, json.loads(arguments or "{}")) for name, arguments in parts.values()]
    return told


async def by_anthropic(client: anthropic.AsyncAnthropic, model: str, stream: bool, **more: Any) -> Told:
    """Ask by Anthropic's SDK; return what its user has at the end."""
    tools: Any = [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}]
    asked: Any = {"model": model, "messages": HI, "max_tokens": 1000, "tools": tools, **more}
    if stream:
        async with client.messages.stream(**asked) as events:
            message = await events.get_final_message()
    else:
        message = await client.messages.create(**asked)
    usage, told = message.usage, Told(finish=finish_of(message.stop_reason))
    read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    told.tokens = (read, usage.output_tokens)
    for block in message.content:
        if block.type == "text":
            told.text += block.text
        elif block.type == "tool_use":
            told.calls.append((block.name, block.input))
    return told


@pytest.mark.parametrize("name", SEVEN)
async def test_every_recorded_answer_says_the_same_to_openais_sdk(
    provider: Provider, openai_sdk: openai.AsyncOpenAI, name: str
) -> None:
    rng = random.Random(7)
    for recorded in of(name):
        if recorded.status != 200 or "midstream" in recorded.name:
            continue
        wanted = expected(recorded)
        for splits in (None, rng, rng):
            provider.script(replay(recorded, splits))
            told = await by_openai(openai_sdk, f"{name}/some/model", streams(recorded))
            assert told == wanted, recorded.name
            header, key = KEYS[name]
            assert provider.requests[-1].header(header) == key


@pytest.mark.parametrize("name", SEVEN)
async def test_every_recorded_answer_says_the_same_to_anthropics_sdk(
    provider: Provider, anthropic_sdk: anthropic.AsyncAnthropic, name: str
) -> None:
    rng = random.Random(8)
    for recorded in of(name):
        if recorded.status != 200 or "midstream" in recorded.name:
            continue
        wanted = expected(recorded)
        for splits in (None, rng):
            provider.script(replay(recorded, splits))
            told = await by_anthropic(anthropic_sdk, f"{name}/some/model", streams(recorded))
            if wanted.tokens is None:
                told.tokens = None
            assert told == wanted, recorded.name


ERRORS = {  # the end of a recording's name: what OpenAI's SDK raises, what Anthropic's raises
    "err_400_ctx": (openai.BadRequestError, anthropic.BadRequestError),
    "err_400_max_tokens_unsupported": (openai.BadRequestError, anthropic.BadRequestError),
    "err_401": (openai.InternalServerError, anthropic.InternalServerError),  # our key, not the client's
    "err_401_key": (openai.InternalServerError, anthropic.InternalServerError),
    "err_400_api_key": (openai.InternalServerError, anthropic.InternalServerError),
    "err_402_balance": (openai.InternalServerError, anthropic.InternalServerError),
    "err_404_model": (openai.NotFoundError, anthropic.NotFoundError),
    "err_429_tpm": (openai.RateLimitError, anthropic.RateLimitError),
    "err_429_retryinfo": (openai.RateLimitError, anthropic.RateLimitError),
    "err_429_platform": (openai.RateLimitError, anthropic.RateLimitError),
    "err_429_insufficient_quota": (openai.InternalServerError, anthropic.InternalServerError),
    "err_500_tools": (openai.InternalServerError, anthropic.InternalServerError),
    "err_503_overloaded": (openai.InternalServerError, anthropic.InternalServerError),
    "err_529_overloaded": (openai.InternalServerError, anthropic.InternalServerError),
}


@pytest.mark.parametrize("name", SEVEN)
async def test_every_recorded_error_has_its_class(
    provider: Provider, openai_sdk: openai.AsyncOpenAI, anthropic_sdk: anthropic.AsyncAnthropic, name: str
) -> None:
    for recorded in of(name):
        if recorded.status == 200:
            continue
        kinds = ERRORS[recorded.name.rpartition("/")[2]]
        for stream in (False, True):
            provider.script(replay(recorded, None), replay(recorded, random.Random(9)))
            with pytest.raises(kinds[0]) as one:
                await by_openai(openai_sdk, f"{name}/some/model", stream)
            with pytest.raises(kinds[1]):
                await by_anthropic(anthropic_sdk, f"{name}/some/model", stream)
            assert one.value.body, recorded.name
            if recorded.name.endswith("_ctx"):
                assert one.value.code == "context_length_exceeded"
            if recorded.name.endswith(("_tpm", "_retryinfo")):  # those that say when
                assert int(one.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("name", ["anthropic", "openrouter"])
async def test_an_error_inside_a_recorded_stream_is_raised(
    provider: Provider, openai_sdk: openai.AsyncOpenAI, anthropic_sdk: anthropic.AsyncAnthropic, name: str
) -> None:
    [recorded] = [one for one in of(name) if "midstream" in one.name]
    provider.script(*[replay(recorded, random.Random(n)) for n in range(2)])
    with pytest.raises(openai.APIError, match=r"(?i)overloaded|disconnected"):
        await by_openai(openai_sdk, f"{name}/x", True)
    with pytest.raises(anthropic.APIError, match=r"(?i)overloaded|disconnected"):
        await by_anthropic(anthropic_sdk, f"{name}/x", True)


PICTURE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    }
]
SEEN: dict[str, Callable[[Any], bool]] = {
    "openai": lambda sent: bool(sent["messages"] == PICTURE),
    "openrouter": lambda sent: bool(sent["messages"] == PICTURE),
    "lmstudio": lambda sent: bool(sent["messages"] == PICTURE),
    "deepseek": lambda sent: bool(sent["messages"] == PICTURE),
    "anthropic": lambda sent: (
        sent["messages"][0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    ),
    "gemini": lambda sent: sent["contents"][0]["parts"][1]["inlineData"] == {"mimeType": "image/png", "data": "iVBORw0KGgo="},
    "ollama": lambda sent: bool(sent["messages"][0]["images"] == ["iVBORw0KGgo="]),
}


async def test_a_picture_and_tools_reach_everybody_in_their_own_words(
    provider: Provider, openai_sdk: openai.AsyncOpenAI, anthropic_sdk: anthropic.AsyncAnthropic
) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    theirs: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]}]
    for name in SEVEN:
        good = next(one for one in of(name) if one.status == 200 and not streams(one))
        provider.script(replay(good, None), replay(good, None))
        await by_openai(openai_sdk, f"{name}/m", False, messages=PICTURE)
        await by_anthropic(anthropic_sdk, f"{name}/m", False, messages=theirs)
        for request in provider.requests[-2:]:
            sent = request.json()
            assert SEEN[name](sent), (name, sent)
            assert "weather" in json.dumps(sent["tools"])


# ── lists, health, an eighth provider ──


async def names(running: Daemon) -> set[str]:
    return {model["id"] for model in (await fetch(running, "/v1/models")).json()["data"]}


async def test_lists_are_filtered_to_chat_and_fall_back_on_the_file(serve: Serve) -> None:
    lists: dict[str, Any] = {
        "OPENAI": {"data": [{"id": "gpt-4o"}, {"id": "text-embedding-3-small"}, {"id": "whisper-1"}]},
        "ANTHROPIC": {"data": [{"type": "model", "id": "claude-x", "display_name": "X"}], "has_more": False},
        "GEMINI": {
            "models": [
                {"name": "models/gemini-x", "supportedGenerationMethods": ["generateContent"]},
                {"name": "models/embedding-001", "supportedGenerationMethods": ["embedContent"]},
            ]
        },
        "OPENROUTER": {"data": [{"id": "meta-llama/llama-3:free"}]},
        "OLLAMA": {"models": [{"name": "llama3.2:latest", "model": "llama3.2:latest"}]},
        "LM_STUDIO": {"object": "list", "data": [{"id": "qwen3-4b"}, {"id": "text-embedding-nomic"}]},
    }
    started = [Provider(json.dumps(listed).encode()) for listed in lists.values()]
    down = Provider()  # DeepSeek: no list today
    for one in (*started, down):
        await one.__aenter__()
    try:
        urls = variables(down)
        for name, one in zip(lists, started, strict=True):
            urls[f"{name}_URL"] = urls[f"{name}_URL"].replace(str(down.port), str(one.port))
        running = serve("chat_application", **urls)
        static = {"gpt-4o", "claude", "deepseek-chat", "gemini", "free", "local", "llama3.2"}
        found = {
            "openai/gpt-4o", "anthropic/claude-x", "gemini/gemini-x", "openrouter/meta-llama/llama-3:free", "lmstudio/qwen3-4b",
            "ollama/llama3.2:latest", "deepseek/deepseek-chat",
        }  # fmt: skip

        async def there() -> bool:
            return await names(running) == static | found

        await until(there)
    finally:
        for one in (*started, down):
            await one.__aexit__()


async def test_a_local_server_that_falls_ill_is_passed_over_and_comes_back(
    serve: Serve, provider: Provider, upstreams: Callable[[], Any]
) -> None:
    ill = Provider(b'{"data": [{"id": "qwen3-4b"}]}')
    async with ill:
        message = {"role": "assistant", "content": "ollama"}
        provider.always(answers.reply({"model": "l", "message": message, "done": True, "done_reason": "stop"}))
        ill.always(answers.reply(answers.completion("lmstudio")))
        running = serve(
            "chat_application", **variables(provider, LM_STUDIO_URL=ill.url, HEALTH_EVERY="100ms", HEALTH_TIMEOUT="100ms")
        )

        async def served_by(target: str) -> bool:
            return (await fetch(running, CHAT, ask("local"))).headers["x-routerd-target"] == target

        await until(lambda: served_by("lmstudio/qwen3-4b"))
        ill.well = False
        await until(lambda: served_by("ollama/llama3.2"))
        before = len(ill.requests)
        assert await served_by("ollama/llama3.2")
        assert len(ill.requests) == before
        ill.well = True
        await until(lambda: served_by("lmstudio/qwen3-4b"))


EIGHTH = """  corporate:
    dialect: openai
    base_url: ${CORP_URL}
    direct: true
    auth:
      type: oauth_client_credentials
      token_url: ${LOGIN_URL}/oauth/token
      client_id: app
      client_secret: ${CORP_SECRET}
      body: json
models:
"""


async def test_an_eighth_provider_is_yaml_alone_and_its_token_is_got_once(
    serve: Serve, provider: Provider, upstreams: Callable[[], Any]
) -> None:
    corporate, login = await upstreams(), await upstreams()
    gate, gone = asyncio.Event(), 0

    async def token(call: Call) -> None:
        nonlocal gone
        await gate.wait()
        gone += 1
        await answers.reply({"access_token": f"token-{gone}", "expires_in": 2})(call)

    login.always(token)
    corporate.always(answers.reply())
    more = {"CORP_URL": corporate.url, "LOGIN_URL": login.url, "CORP_SECRET": "s3cret-s3cret"}
    running = serve("chat_application", args=("--workers", "2"), **variables(provider), **more)
    assert (await fetch(running, CHAT, ask("corporate/x"))).status == 404
    running.write(file_of("chat_application").replace("models:\n", EIGHTH, 1))
    await running.generation(2)
    waiting = [asyncio.ensure_future(fetch(running, CHAT, ask("corporate/x"))) for _ in range(40)]
    await login.received(1)
    gate.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert {request.header("authorization") for request in corporate.requests} == {"Bearer token-1"}
    assert len(login.requests) == 1
    await login.received(2)  # renewed before it expires, by nobody's request

    async def renewed() -> bool:
        assert (await fetch(running, CHAT, ask("corporate/x"))).status == 200
        return bool(corporate.requests[-1].header("authorization") != "Bearer token-1")

    await until(renewed)
    provider.script(answers.reply())
    assert (await fetch(running, CHAT, ask("gpt-4o"))).status == 200


async def test_a_provider_without_its_key_is_left_out(serve: Serve, provider: Provider) -> None:
    keys = {**variables(provider), "OPENAI_API_KEY": ""}
    running = serve("chat_application", **keys)
    refused = await fetch(running, CHAT, ask("gpt-4o"))
    assert refused.status in (404, 503)
    assert "openai" in json.dumps(await running.status())
    provider.script(answers.reply())
    assert (await fetch(running, CHAT, ask("deepseek-chat"))).status == 200
