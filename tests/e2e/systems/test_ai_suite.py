"""An AI suite over five providers: its checklist of ten points, one or more tests each, and what it needs besides."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.e2e.systems.conftest import Serve
from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, Fetched, ask, fetch
from tests.support.upstream import Answer, Call, Upstream

FIVE = ("openrouter", "huggingface", "featherless", "venice", "together")
MINE = {"authorization": "Bearer sk-suite"}
MODEL = "org/family/a-model"


def shape(name: str) -> Any:
    """A list of models as each of them has it."""
    one = {"id": f"{name}-org/some/model", "object": "model", "created": 1}
    if name == "together":
        return [{**one, "type": "chat"}]
    return {"data": [one]} if name == "openrouter" else {"object": "list", "data": [one]}


class Listing(Upstream):
    """A provider that answers GET models itself; everything else is scripted."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.listed = 0

    def _answer(self, request: Any) -> Answer:
        if request.method == "GET" and request.target.partition("?")[0].endswith("/models"):
            self.listed += 1
            return answers.reply(json.dumps(shape(self.name)).encode())
        return super()._answer(request)

    def _arrived(self, request: Any) -> None:
        if request.method != "GET":
            super()._arrived(request)


@dataclass
class Suite:
    """The daemon and its five providers."""

    running: Daemon
    at: dict[str, Listing]

    async def ask(self, body: dict[str, Any] | bytes, path: str = CHAT) -> Fetched:
        return await fetch(self.running, path, body, headers=MINE)


@pytest.fixture
async def suite(serve: Serve) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        at = {name: await stack.enter_async_context(Listing(name)) for name in FIVE}
        urls = {f"{name.upper()}_URL": upstream.url for name, upstream in at.items()}
        keys = {
            "OPENROUTER_API_KEY": "sk-openrouter",
            "HF_TOKEN": "sk-huggingface",
            "FEATHERLESS_API_KEY": "sk-featherless",
            "VENICE_API_KEY": "sk-venice",
            "TOGETHER_API_KEY": "sk-together",
        }
        quick = {"RETRY_FIRST": "10ms", "COLD_FIRST": "10ms", "SUITE_KEY": "sk-suite"}
        running = serve("ai_suite", **urls, **keys, **quick)
        yield Suite(running, at)


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=suite.running.url + "/v1", api_key="sk-suite", max_retries=0) as made:
        yield made


# ── 1: every provider authenticates ──


async def test_1_every_provider_gets_its_own_key(suite: Suite) -> None:
    for name in FIVE:
        suite.at[name].script(answers.reply())
        answer = await suite.ask(ask(f"{name}/{MODEL}"))
        assert answer.status == 200
        got = suite.at[name].requests[0]
        assert got.header("authorization") == f"Bearer sk-{name}"
        assert got.target == "/v1/chat/completions"
        assert got.json()["model"] == MODEL
        assert b"sk-suite" not in got.raw_head
        assert (got.header("x-title") == "AI Suite") == (name == "openrouter")


async def test_1_nobody_without_a_key_of_the_suite(suite: Suite) -> None:
    for path in (CHAT, "/providers/venice/chat/completions"):
        refused = await fetch(suite.running, path, ask(f"venice/{MODEL}"), headers={"authorization": "Bearer wrong"})
        assert refused.status == 401
    assert suite.at["venice"].requests == []


# ── 2: lists load and are cached ──


async def test_2_lists_of_all_shapes_load_and_are_cached(suite: Suite, client: openai.AsyncOpenAI) -> None:
    wanted = {f"{name}/{name}-org/some/model" for name in FIVE}

    async def there() -> bool:
        return wanted <= {model.id async for model in client.models.list()}

    await until(there)
    for _ in range(10):
        assert await there()
    assert [upstream.listed for upstream in suite.at.values()] == [1] * 5
    passed = await fetch(suite.running, "/providers/together/models", headers=MINE)
    assert passed.json() == shape("together")


# ── 3 and 4: unary and streamed ──


async def test_3_a_whole_answer_of_each(suite: Suite, client: openai.AsyncOpenAI) -> None:
    for name in FIVE:
        suite.at[name].script(answers.reply(answers.completion(f"I am {name}", model=MODEL)))
        said = await client.chat.completions.create(model=f"{name}/{MODEL}", messages=[{"role": "user", "content": "hi"}])
        assert said.choices[0].message.content == f"I am {name}"
        assert said.usage is not None
        assert said.usage.total_tokens == 14


async def test_4_a_stream_of_each_with_all_that_gets_into_one(suite: Suite, client: openai.AsyncOpenAI) -> None:
    pieces = (
        *[b": OPENROUTER PROCESSING\n\n"] * 3,
        answers.event(answers.delta("", role="assistant")),
        answers.event(answers.delta("Hello")),
        b'data: {"choices": [{"delta": {"cont\n\n',
        b": keep-alive\n\n",
        answers.event(answers.delta(" there")),
        answers.event(answers.delta(finish="stop")),
        answers.event({**answers.delta(), "choices": [], "usage": answers.USAGE}),
        answers.DONE,
    )
    options: Any = {"include_usage": True}
    for name in FIVE:
        suite.at[name].script(answers.events(*pieces))
        stream = await client.chat.completions.create(
            model=f"{name}/{MODEL}", messages=[{"role": "user", "content": "hi"}], stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "Hello there"
        assert chunks[-1].usage is not None
        metrics = await suite.running.metrics()
        assert metrics[f'routerd_tokens_total{{client="suite",provider="{name}",route="{name}/*",token_type="output"}}'] == 3


# ── 5: vision ──


async def test_5_images_of_several_megabytes_arrive_byte_for_byte(suite: Suite) -> None:
    suite.at["openrouter"].script(answers.reply())
    picture = base64.b64encode(bytes(range(256)) * 16_000).decode()  # 5.4 MB
    # As a client wrote it: odd spacing, escapes and an unknown field must all survive.
    messages = (
        '[ {"role":"user", "content":[{"type":"text","text":"what\\u0020is \\/this? \\u00e9é"},'
        f'{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}","detail":"high"}} }},'
        f'{{"type":"file","file":{{"filename":"a.pdf","file_data":"data:application/pdf;base64,{picture[:9996]}"}}}}],"x":1.0}}\n]'
    )
    rest = '"plugins":[{"id":"file-parser","pdf":{"engine":"pdf-text"}}],"provider":{"order":["Azure"],"allow_fallbacks":false,'
    rest += '"sort":"price","data_collection":"deny"},"response_format":{ "type":"json_object" },"temperature":0.10'
    raw = f'{{"model":"gpt-4","messages":{messages},{rest}}}'.encode()
    answer = await suite.ask(raw)
    assert answer.status == 200
    sent = suite.at["openrouter"].requests[0].body
    assert sent == raw.replace(b'"model":"gpt-4"', b'"model":"openai/gpt-4o"')


# ── 6: a cold model warms up ──

COLD = answers.reply({"message": "This Model is Cold / Not Ready for Inference"}, status=400)
LOADING = answers.reply({"error": "Model x is currently loading", "estimated_time": 20.0}, status=503)
GATEWAY = answers.reply(b"<html>502 Bad Gateway</html>", status=502, headers=[("content-type", "text/html")])


@pytest.mark.parametrize(
    ("name", "cold"), [("featherless", [COLD] * 9), ("huggingface", [LOADING, GATEWAY, GATEWAY]), ("hf-featherless", [GATEWAY])]
)
async def test_6_a_cold_model_warms_up_behind_one_request(suite: Suite, name: str, cold: list[Answer]) -> None:
    upstream = suite.at["huggingface" if name == "hf-featherless" else name]
    for stream in (False, True):
        upstream.script(*cold, answers.stream() if stream else answers.reply())
        answer = await suite.ask(ask(f"{name}/{MODEL}", stream=stream))
        assert answer.status == 200, answer.body
        assert answer.headers["x-routerd-attempts"].count(":cold") == len(cold)
    assert len(upstream.requests) == 2 * (len(cold) + 1)


async def test_6_a_prompt_about_cold_weather_is_not_waited_for_elsewhere(suite: Suite) -> None:
    suite.at["together"].script(answers.error(400, "a cold model is not a city"))
    refused = await suite.ask(ask(f"together/{MODEL}"))
    assert (refused.status, len(suite.at["together"].requests)) == (400, 1)


# ── 7: a rate limit is obeyed ──


async def test_7_a_429_backs_off_for_as_long_as_it_says(suite: Suite) -> None:
    upstream = suite.at["together"]
    upstream.script(answers.error(429, headers=[("retry-after", "1")]), answers.reply())
    started_s = time.monotonic()
    answer = await suite.ask(ask(f"together/{MODEL}"))
    assert answer.status == 200
    assert time.monotonic() - started_s >= 1.0
    assert len(upstream.requests) == 2


async def test_7_a_429_without_a_time_is_tried_three_times_at_most(suite: Suite) -> None:
    suite.at["venice"].always(answers.error(429))
    refused = await suite.ask(ask(f"venice/{MODEL}"))
    assert refused.status == 429
    assert len(suite.at["venice"].requests) == 3


async def test_7_a_limit_that_is_used_up_rests_the_endpoint_until_its_reset(suite: Suite) -> None:
    spent = (answers.JSON, ("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1"))
    suite.at["together"].script(answers.reply(headers=spent), answers.reply())
    suite.at["featherless"].always(answers.reply())
    first = await suite.ask(ask("llama-70b"))
    assert first.headers["x-routerd-target"].startswith("together/")
    second = await suite.ask(ask("llama-70b"))  # answered at once, by the next one: no request sleeps
    assert second.headers["x-routerd-target"].startswith("featherless/")

    async def filled() -> bool:
        return (await suite.ask(ask("llama-70b"))).headers["x-routerd-target"].startswith("together/")

    await until(filled, 5.0)


async def test_7_known_limits_are_budgets(suite: Suite) -> None:
    suite.at["openrouter"].always(answers.reply())
    asked = [await suite.ask(ask("openrouter/deepseek/deepseek-r1:free")) for _ in range(21)]
    assert [answer.status for answer in asked] == [200] * 20 + [429]
    assert "openrouter-free" in asked[-1].error["message"]
    assert (await suite.ask(ask("openrouter/deepseek/deepseek-r1"))).status == 200


async def test_7_slots_are_waited_for(suite: Suite) -> None:
    gate = asyncio.Event()
    suite.at["featherless"].always(answers.gated(answers.reply(), gate))
    calls = [asyncio.ensure_future(suite.ask(ask(f"featherless/{MODEL}"))) for _ in range(6)]
    await suite.at["featherless"].received(4)
    await asyncio.sleep(0.1)  # the two others have arrived and wait in line
    assert len(suite.at["featherless"].requests) == 4
    gate.set()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}


# ── 8: failover on errors ──


@pytest.mark.parametrize(
    ("status", "word"), [(401, "auth"), (402, "credits"), (403, "auth"), (429, "rate_limited"), (500, "server_error")]
)
async def test_8_an_error_of_one_is_answered_by_the_next(suite: Suite, status: int, word: str) -> None:
    suite.at["openrouter"].script(answers.error(status, "no"))
    suite.at["venice"].script(answers.stream(), answers.reply())
    streamed = await suite.ask(ask("gpt-4", stream=True))
    assert (streamed.status, streamed.headers["x-routerd-target"]) == (200, "venice/openai-gpt-4o")
    assert f"openrouter:{word}" in streamed.headers["x-routerd-attempts"]
    if word != "server_error":  # who refuses a key, an account or a rate is not asked again at once
        whole = await suite.ask(ask("gpt-4"))
        assert whole.headers["x-routerd-target"] == "venice/openai-gpt-4o"
    assert len(suite.at["openrouter"].requests) == 1


async def test_8_server_errors_of_all_kinds_are_tried_again_when_nobody_else_is_left(suite: Suite) -> None:
    suite.at["openrouter"].script(*map(answers.error, (500, 504, 529)))
    suite.at["venice"].script(*map(answers.error, (502, 503, 503)))
    suite.at["together"].script(answers.error(524), answers.reply())
    answer = await suite.ask(ask("gpt-4"))
    assert answer.status == 200
    assert answer.headers["x-routerd-attempts"].count("server_error") >= 3


async def test_8_the_clients_own_error_goes_to_nobody_else(suite: Suite) -> None:
    message = "This endpoint's maximum context length is 200000 tokens. However, you requested about 2500021 tokens"
    suite.at["openrouter"].script(answers.error(400, message))
    refused = await suite.ask(ask("gpt-4"))
    assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
    assert suite.at["venice"].requests == []


async def test_8_what_one_provider_invented_stays_with_it(suite: Suite) -> None:
    suite.at["openrouter"].always(answers.error(500))
    suite.at["venice"].script(answers.reply())
    own: Any = {
        "provider": {"order": ["Azure"], "allow_fallbacks": False},
        "plugins": [{"id": "web"}],
        "transforms": ["middle-out"],
        "venice_parameters": {"enable_web_search": "on"},
    }
    assert (await suite.ask(ask("gpt-4", temperature=0.5, **own))).status == 200
    first, second = suite.at["openrouter"].requests[0].json(), suite.at["venice"].requests[0].json()
    assert {"provider", "plugins", "transforms"} <= set(first)
    assert "venice_parameters" not in first
    assert second["venice_parameters"] == {"enable_web_search": "on"}
    assert not {"provider", "plugins", "transforms"} & set(second)
    assert (first["temperature"], second["temperature"]) == (0.5, 0.5)


async def test_8_ids_of_three_segments_are_not_cut(suite: Suite) -> None:
    suite.at["together"].script(answers.error(503), answers.error(503), answers.error(503))
    suite.at["featherless"].script(answers.reply())
    assert (await suite.ask(ask("llama-70b"))).status == 200
    assert suite.at["together"].requests[0].json()["model"] == "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    assert suite.at["featherless"].requests[0].json()["model"] == "meta-llama/Llama-3.3-70B-Instruct"


# ── 9: web search ──


@pytest.mark.parametrize("stream", [False, True])
async def test_9_web_search_reaches_venice_and_citations_come_back(suite: Suite, stream: bool) -> None:
    citations = {"web_search_citations": [{"title": "A", "url": "https://a.example", "content": "c"}], "enable_web_search": "on"}
    whole = {**answers.completion("See [1]"), "venice_parameters": citations, "cost": {"usd": 0.01}}
    chunk = {**answers.delta("See [1]"), "venice_parameters": citations}
    parts = [answers.event(chunk), answers.event(answers.delta(finish="stop")), answers.DONE]
    suite.at["venice"].script(answers.events(*parts) if stream else answers.reply(whole))
    wanted = {"enable_web_search": "on", "enable_web_citations": True, "include_venice_system_prompt": False}
    answer = await suite.ask(ask("search", stream=stream, venice_parameters=wanted))
    assert suite.at["venice"].requests[0].json()["venice_parameters"] == wanted
    got = answer.events()[0] if stream else answer.json()
    assert got["venice_parameters"] == citations
    assert stream or got["cost"] == {"usd": 0.01}


# ── 10: tools ──

TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}}


async def test_10_a_tool_call_makes_its_round_through_together(suite: Suite, client: openai.AsyncOpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    called = answers.completion("", model=MODEL)
    called["choices"][0] = {
        "index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}, "finish_reason": "tool_calls",
    }  # fmt: skip
    suite.at["together"].script(answers.reply(called), answers.reply(answers.completion("It is 31 degrees.")))
    messages: list[Any] = [{"role": "user", "content": "How warm is Rome?"}]
    first = await client.chat.completions.create(model="llama-70b", messages=messages, tools=[TOOL], tool_choice="auto")
    [asked] = first.choices[0].message.tool_calls or ()
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": asked.id, "content": "31"},
    ]
    second = await client.chat.completions.create(model="llama-70b", messages=messages, tools=[TOOL])
    assert second.choices[0].message.content == "It is 31 degrees."
    sent = suite.at["together"].requests[1].json()
    assert sent["messages"][1]["tool_calls"] == [call]
    assert sent["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "31"}
    assert sent["tools"] == [TOOL]


# ── and besides ──


@pytest.mark.parametrize("prefix", ["/providers", "/api/providers"])
async def test_a_provider_whole_under_our_key(suite: Suite, prefix: str) -> None:
    suite.at["featherless"].script(answers.reply())
    suite.at["huggingface"].script(answers.reply(), answers.reply())
    plain = await suite.ask(ask("zai-org/GLM-4.6"), f"{prefix}/featherless/chat/completions")
    assert (plain.status, suite.at["featherless"].requests[0].json()["model"]) == (200, "zai-org/GLM-4.6")
    for model in ("zai-org/GLM-4.6", "zai-org/GLM-4.6:featherless-ai"):
        assert (await suite.ask(ask(model), f"{prefix}/hf-featherless/chat/completions")).status == 200
        assert suite.at["huggingface"].requests[-1].json()["model"] == "zai-org/GLM-4.6:featherless-ai"


async def test_files_go_up_as_they_are(suite: Suite) -> None:
    suite.at["together"].script(answers.reply({"id": "file-1"}))
    content = bytes(range(256)) * 4096
    form = b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    form += b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content + b"\r\n--B--\r\n"
    kind = {**MINE, "content-type": "multipart/form-data; boundary=B"}
    answer = await fetch(suite.running, "/providers/together/files", form, headers=kind)
    assert (answer.status, answer.json()) == (200, {"id": "file-1"})
    got = suite.at["together"].requests[0]
    assert (got.target, got.body) == ("/v1/files", form)
    assert got.header("content-type") == "multipart/form-data; boundary=B"


async def test_tokens_embeddings_completions_and_images(suite: Suite, client: openai.AsyncOpenAI) -> None:
    embedded = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "usage": answers.USAGE}
    picture = {"created": 1, "data": [{"b64_json": "AAAA"}]}
    suite.at["together"].script(answers.reply(embedded), answers.reply(picture))
    made = await client.embeddings.create(model="embed", input="hi", encoding_format="float")
    assert made.data[0].embedding == [0.5]
    image = await client.images.generate(model="picture", prompt="a cat", extra_body={"steps": 4})
    assert image.data is not None
    assert image.data[0].b64_json == "AAAA"
    assert [request.target for request in suite.at["together"].requests] == ["/v1/embeddings", "/v1/images/generations"]
    assert suite.at["together"].requests[1].json()["steps"] == 4
    suite.at["featherless"].script(
        answers.reply({"tokens": [1, 2]}), answers.reply({**answers.completion(), "choices": [{"text": "x"}]})
    )
    counted = await suite.ask({"model": f"featherless/{MODEL}", "text": "hi"}, "/v1/tokenize")
    assert counted.json() == {"tokens": [1, 2]}
    written = await suite.ask({"model": f"featherless/{MODEL}", "prompt": "hi"}, "/v1/completions")
    assert written.json()["choices"][0]["text"] == "x"
    assert [request.target for request in suite.at["featherless"].requests] == ["/v1/tokenize", "/v1/completions"]


async def test_a_stalled_client_of_one_provider_is_no_concern_of_another(suite: Suite) -> None:
    """Many at once, over all five."""

    async def named(call: Call) -> None:
        await answers.reply(answers.completion(call.request.json()["model"]))(call)

    for upstream in suite.at.values():
        upstream.always(named)
    hanging = asyncio.Event()
    suite.at["venice"].always(answers.gated(answers.reply(), hanging))
    stuck = asyncio.ensure_future(suite.ask(ask(f"venice/{MODEL}")))
    others = [name for name in FIVE if name != "venice"]
    said = await asyncio.gather(*(suite.ask(ask(f"{name}/{MODEL}/{n}")) for n in range(10) for name in others))
    assert [answer.json()["choices"][0]["message"]["content"] for answer in said] == [
        f"{MODEL}/{n}" for n in range(10) for _ in others
    ]
    hanging.set()
    assert (await stuck).status == 200
