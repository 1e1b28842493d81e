"""The OpenAI SDK talks to a real inference engine through the daemon."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest

from tests.support.daemon import Daemon, until
from tests.support.llama import Engine
from tests.support.ports import closed_port

HELLO = [{"role": "user", "content": "route the token"}]


def routes(engine: Engine, more: str = "") -> str:
    return f"""
version: 1
providers:
  engine: {{dialect: openai, base_url: "{engine.url}", auth: {{type: none}}}}
  dead: {{dialect: openai, base_url: "http://127.0.0.1:{closed_port()}/v1", auth: {{type: none}}}}
models:
  tiny:
    aliases: [tiny-random]
    chain: [engine/tiny]
  behind-dead:
    chain: [dead/tiny, engine/tiny]
{more}
"""


@pytest.fixture
def tiny(daemon: Callable[..., Daemon], engine: Engine, sdk: Callable[..., openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    return sdk(daemon(routes(engine)))


async def test_a_unary_answer_comes_whole_with_the_engines_usage(tiny: openai.AsyncOpenAI) -> None:
    answer = await tiny.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, temperature=0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_brings_what_the_engine_streams(tiny: openai.AsyncOpenAI, engine: Engine) -> None:
    same = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "temperature": 0, "seed": 1, "stream": True}
    direct = openai.AsyncOpenAI(base_url=engine.url, api_key="none")
    streamed = [[c async for c in await client.chat.completions.create(**same)] for client in (direct, tiny)]
    texts = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices) for chunks in streamed]
    assert texts[0] == texts[1]
    assert [c.choices[0].finish_reason for c in streamed[1] if c.choices and c.choices[0].finish_reason] == ["length"]
    await direct.close()


async def test_the_usage_chunk_is_withheld_unless_the_client_asks(tiny: openai.AsyncOpenAI) -> None:
    same = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "stream": True}
    silent = [chunk async for chunk in await tiny.chat.completions.create(**same)]
    assert all(chunk.usage is None and chunk.choices for chunk in silent)
    asked = [c async for c in await tiny.chat.completions.create(**same, stream_options={"include_usage": True})]
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 4


async def test_completions_are_the_engines_own_unary_and_streamed(tiny: openai.AsyncOpenAI, engine: Engine) -> None:
    same = {"model": "tiny", "prompt": "the router", "max_tokens": 8, "temperature": 0, "seed": 1}
    direct = openai.AsyncOpenAI(base_url=engine.url, api_key="none")
    told = [(await client.completions.create(**same)).choices[0].text for client in (direct, tiny)]
    assert told[0] == told[1]
    streamed = [[c async for c in await client.completions.create(**same, stream=True)] for client in (direct, tiny)]
    texts = ["".join(c.choices[0].text for c in chunks if c.choices) for chunks in streamed]
    assert texts[0] == texts[1]
    assert [c.choices[0].finish_reason for c in streamed[1] if c.choices][-1] == "length"
    await direct.close()


async def test_an_alias_answers_like_its_route(tiny: openai.AsyncOpenAI) -> None:
    answer = await tiny.chat.completions.create(model="tiny-random", messages=HELLO, max_tokens=2)
    assert answer.usage is not None


async def test_a_dead_target_is_passed_over(tiny: openai.AsyncOpenAI) -> None:
    raw = await tiny.chat.completions.with_raw_response.create(model="behind-dead", messages=HELLO, max_tokens=2)
    assert raw.headers["x-routerd-target"] == "engine/tiny"
    assert raw.headers["x-routerd-attempts"].startswith("dead:connect/")
    stream = await tiny.chat.completions.create(model="behind-dead", messages=HELLO, max_tokens=2, stream=True)
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"


async def test_the_client_that_leaves_frees_the_engines_slot(
    daemon: Callable[..., Daemon], engine: Engine, sdk: Callable[..., openai.AsyncOpenAI]
) -> None:
    running = daemon(routes(engine))
    endless = {"ignore_eos": True}  # the random weights end some answers after 18 ms, before any client could leave
    stream = await sdk(running).chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=1900, stream=True, extra_body=endless
    )
    assert (await anext(aiter(stream))).choices
    await stream.close()

    async def gone() -> bool:
        samples = await running.metrics()
        return any(v for k, v in samples.items() if k.startswith("routerd_requests_total") and 'outcome="client_gone"' in k)

    await until(gone)
    assert engine.healthy()
