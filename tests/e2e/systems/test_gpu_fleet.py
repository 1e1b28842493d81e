"""A fleet of engines of our own with a provider behind them: a real engine, and scripted ones for what must arrive exactly."""

from __future__ import annotations

import asyncio
import json
import pathlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.e2e.systems.conftest import file_of
from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, RawClient, ask, fetch, head_of
from tests.support.llama import Engine
from tests.support.upstream import Call, Upstream

KEY = "gk-loadtest_7f3a9b2c"
MINE = {"authorization": f"Bearer {KEY}"}
R1, QWEN, DEVSTRAL = (
    "casperhansen/deepseek-r1-distill-llama-70b-awq", "Qwen/Qwen3-32B-AWQ", "btbtyler09/Devstral-Small-2507-AWQ",
)  # fmt: skip
PROMPT = "You are Devstral, an agentic model.\n\n" + "Use the tools you are given; never guess a path.\n" * 12
Sdk = Callable[..., openai.AsyncOpenAI]
Fleet = Callable[..., Daemon]


@pytest.fixture
def fleet(daemon: Callable[..., Daemon], tmp_path: pathlib.Path) -> Fleet:
    """Give a function that serves the fleet; a machine that is not named is the one of R1."""

    def start(r1: str, text: str | None = None, *, workers: int = 2, **urls: str) -> Daemon:
        prompt = tmp_path / "devstral.md"
        prompt.write_text(PROMPT)
        env = {
            "R1_URL": r1,
            "QWEN_URL": urls.get("qwen", r1),
            "DEVSTRAL_URL": urls.get("devstral", r1),
            "OPENROUTER_URL": urls.get("openrouter", r1),
            "OPENROUTER_API_KEY": "sk-or-secret",
            "LOADTEST_KEY": KEY,
        }
        placed = (text or file_of("gpu_fleet")).replace("devstral.md", str(prompt))
        return daemon(placed, args=("--workers", str(workers)), env=env)

    return start


async def _vllm(call: Call) -> None:
    """Answer as vLLM does: its health check, and completions unary and streamed."""
    if call.request.target == "/health":
        await call.body(200, (), b"")
        return
    streamed = call.request.json().get("stream")
    await (answers.stream(["from ", "vllm"]) if streamed else answers.reply(answers.completion("from vllm")))(call)


class Vllm(Upstream):
    """A scripted engine. `asked` is what models were asked, without the health checks."""

    def __init__(self) -> None:
        super().__init__()
        self.always(_vllm)

    @property
    def asked(self) -> list[Any]:
        return [request for request in self.requests if request.target != "/health"]


@pytest.fixture
async def vllm() -> Any:
    async with Vllm() as server:
        yield server


# ── what arrives at the engines ──


async def test_parameters_and_prompts_reach_the_engines_exactly(fleet: Fleet, vllm: Vllm) -> None:
    running = fleet(vllm.url)
    hello = {"role": "user", "content": "hello"}
    system = {"role": "system", "content": "be brief"}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"model": "deepseek-r1", "messages": [hello]},
         {"model": R1, "messages": [hello], "temperature": 0.6, "top_p": 0.9, "max_tokens": 2000}),
        ({"model": R1, "messages": [system, hello], "temperature": 0, "max_tokens": 7, "seed": 3, "logit_bias": {"5": -1}},
         {"model": R1, "messages": [system, hello], "temperature": 0, "max_tokens": 7, "seed": 3, "logit_bias": {"5": -1},
          "top_p": 0.9}),
        ({"model": "qwen3-32b", "messages": [hello]},
         {"model": QWEN, "messages": [{"role": "system", "content": "You are a helpful assistant /no_think"}, hello],
          "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0}),
        ({"model": QWEN, "messages": [system, hello], "top_k": 5},
         {"model": QWEN, "messages": [system, hello], "top_k": 5, "temperature": 0.7, "top_p": 0.8, "min_p": 0}),
        ({"model": "devstral", "messages": [hello], "max_tokens": 4000},
         {"model": DEVSTRAL, "messages": [{"role": "system", "content": PROMPT}, hello], "max_tokens": 100}),
        ({"model": DEVSTRAL, "messages": [hello], "max_tokens": 60},
         {"model": DEVSTRAL, "messages": [{"role": "system", "content": PROMPT}, hello], "max_tokens": 60}),
    ]  # fmt: skip
    for path in (CHAT, "/api/v1/chat/completions"):
        for asked, wanted in cases:
            answer = await fetch(running, path, asked, headers=MINE)
            assert answer.status == 200, answer.body
            assert vllm.asked[-1].json() == wanted
            assert vllm.asked[-1].target == "/v1/chat/completions"
            assert vllm.asked[-1].header("authorization") is None
            streamed = await fetch(running, path, {**asked, "stream": True}, headers=MINE)
            assert streamed.events()[-1] == "[DONE]"
            assert vllm.asked[-1].json() == {**wanted, "stream": True, "stream_options": {"include_usage": True}}


async def test_a_real_engine_answers_as_if_it_had_been_told_directly(fleet: Fleet, engine: Engine, sdk: Sdk) -> None:
    client = sdk(fleet(engine.url), KEY, base="/api/v1")
    hello: Any = [{"role": "user", "content": "route the token"}]
    told: Any = [{"role": "system", "content": "You are a helpful assistant /no_think"}, *hello]
    own = {"temperature": 0.7, "top_p": 0.8, "extra_body": {"top_k": 20, "min_p": 0}}
    direct = openai.AsyncOpenAI(base_url=engine.url, api_key="none")
    for seed in range(3):
        same: Any = {"max_tokens": 24, "seed": seed}
        one = await direct.chat.completions.create(model="x", messages=told, **own, **same)
        two = await client.chat.completions.create(model="qwen3-32b", messages=hello, **same)
        assert one.choices[0].message.content == two.choices[0].message.content
        assert one.usage is not None
        assert two.usage is not None
        assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (two.usage.prompt_tokens, two.usage.completion_tokens)
    endless: Any = {"ignore_eos": True}
    capped = await client.chat.completions.create(model="devstral", messages=hello, max_tokens=500, extra_body=endless)
    assert capped.usage is not None
    assert capped.usage.completion_tokens == 100
    assert capped.usage.prompt_tokens > 500  # the long prompt was read
    await direct.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_the_engine_has_no_room_for_is_read_by_the_backup(
    fleet: Fleet, engine: Engine, vllm: Vllm, stream: bool
) -> None:
    running = fleet(engine.url, openrouter=vllm.url)
    answer = await fetch(running, CHAT, ask("qwen3-32b", "too long " * 2000, stream=stream), headers=MINE)
    assert (answer.status, answer.headers["x-routerd-target"]) == (200, "openrouter/qwen/qwen3-32b")
    assert answer.headers["x-routerd-attempts"].startswith("qwen-a:context_length/")
    answer = await fetch(running, CHAT, ask("deepseek-r1", "too long " * 2000, stream=stream), headers=MINE)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


# ── clients ──


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_keys_and_lists_are_those_of_the_clients(fleet: Fleet, vllm: Vllm, sdk: Sdk, base: str) -> None:
    running = fleet(vllm.url)
    listed = {model.id async for model in sdk(running, KEY, base=base).models.list()}
    assert {"deepseek-r1", "qwen3-32b", "devstral", R1, QWEN, DEVSTRAL} <= listed
    assert "llama-3.3-70b" not in listed
    hello: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.NotFoundError) as off:
        await sdk(running, KEY, base=base).chat.completions.create(model="llama-3.3-70b", messages=hello)
    assert off.value.code == "model_disabled"
    with pytest.raises(openai.AuthenticationError):
        await sdk(running, "gk-loadtest_wrong", base=base).models.list()


# ── many streams ──


@dataclass
class Told:
    """How streams ended: `ok`, `error event`, or a status; and who answered."""

    ends: Counter[str]
    targets: Counter[str]


async def streams(running: Daemon, count: int, model: str = "deepseek-r1", **more: Any) -> Told:
    """Ask for so many streams at once."""
    found = Told(Counter(), Counter())

    async def one() -> None:
        body = ask(model, "route the token", stream=True, **more)
        answer = await fetch(running, "/api/v1/chat/completions", body, headers=MINE)
        found.targets[answer.headers.get("x-routerd-target", "")] += 1
        if answer.status != 200:
            found.ends[str(answer.status)] += 1
            return
        events = answer.events()
        if events[-1] == "[DONE]":
            assert any(event["choices"] and event["choices"][0].get("finish_reason") for event in events[:-1])
            found.ends["ok"] += 1
        else:
            assert events[-1]["error"]["message"]
            found.ends["error event"] += 1

    await asyncio.gather(*(one() for _ in range(count)))
    return found


async def test_many_streams_of_a_real_engine_all_come_whole(fleet: Fleet, engine: Engine) -> None:
    running = fleet(engine.url)
    told = await streams(running, 60, max_tokens=40)
    assert told.ends == {"ok": 60}
    assert told.targets == {f"r1/{R1}": 60}


async def test_an_engine_that_dies_under_load_is_replaced_by_the_backup(fleet: Fleet, vllm: Vllm) -> None:
    mortal = Engine()
    try:
        running = fleet(mortal.url, openrouter=vllm.url)
        before = asyncio.create_task(streams(running, 40, max_tokens=1500, ignore_eos=True))

        async def runs() -> bool:
            return int(next(one for one in (await running.status())["endpoints"] if one["endpoint"] == "r1-a")["inflight"]) >= 4

        await until(runs, 15)
        await asyncio.sleep(0.5)  # some of them have their first tokens
    finally:
        mortal.stop()
    after = asyncio.create_task(streams(running, 40))
    told = await before
    # Who had tokens is told that the rest is missing; who had none is answered by the backup.
    assert set(told.ends) <= {"ok", "error event"}
    assert told.ends["error event"] >= 1
    assert told.targets["openrouter/deepseek/deepseek-r1:free"] == told.ends["ok"]
    told = await after
    assert told.ends == {"ok": 40}
    assert told.targets == {"openrouter/deepseek/deepseek-r1:free": 40}
    assert {request.header("authorization") for request in vllm.asked} == {"Bearer sk-or-secret"}
    assert {request.json()["temperature"] for request in vllm.asked} == {0.6}
    endpoint = next(one for one in (await running.status())["endpoints"] if one["endpoint"] == "r1-a")
    assert endpoint["inflight"] == 0


async def test_an_edit_moves_a_model_to_another_machine_and_cuts_no_stream(fleet: Fleet, vllm: Vllm) -> None:
    gate = asyncio.Event()
    async with Upstream() as old:

        async def slow(call: Call) -> None:
            if call.request.target == "/health":
                await call.body(200, (), b"")
                return
            opened = asyncio.Event()
            opened.set()
            await answers.stream(["from the old", " machine"], gates=[opened, gate])(call)

        old.always(slow)
        running = fleet(old.url, openrouter=vllm.url, workers=2)
        clients = [RawClient(running) for _ in range(30)]
        request = json.dumps(ask("deepseek-r1", stream=True)).encode()
        for client in clients:
            await client.__aenter__()
            await client.send(head_of(CHAT, request, f"authorization: Bearer {KEY}"))
        for client in clients:
            await client.read_until(b"from the old")
        text = running.config.read_text()
        moved_text = text.replace('name: r1-a, url: "${R1_URL}"', f'name: r1-b, url: "{vllm.url}"')
        running.write(moved_text.replace("[r1-a]", "[r1-b]"))
        await running.generation(2)
        moved = await streams(running, 30)
        assert moved.ends == {"ok": 30}
        assert len([r for r in vllm.asked if r.json()["model"] == R1]) == 30
        gate.set()
        for client in clients:
            rest = await client.read_until(b"[DONE]")
            assert b" machine" in rest
            assert b'"error"' not in rest
            await client.__aexit__()


# ── the ledger ──


async def test_the_ledger_charges_exactly_what_the_engine_reported(fleet: Fleet, engine: Engine, sdk: Sdk) -> None:
    running = fleet(engine.url)
    client = sdk(running, KEY, base="/api/v1")
    hello: Any = [{"role": "user", "content": "route the token"}]
    reported: list[tuple[int, int]] = []

    async def one(stream: bool, tokens: int) -> None:
        same: Any = {"model": "qwen3-32b", "messages": hello, "max_tokens": tokens}
        if stream:
            options: Any = {"stream": True, "stream_options": {"include_usage": True}}
            usage = [chunk async for chunk in await client.chat.completions.create(**same, **options)][-1].usage
        else:
            usage = (await client.chat.completions.create(**same)).usage
        assert usage is not None
        reported.append((usage.prompt_tokens, usage.completion_tokens))

    await asyncio.gather(*(one(stream, tokens) for stream in (False, True) for tokens in range(3, 15)))
    endless: Any = {"model": "qwen3-32b", "messages": hello, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
    left = await client.chat.completions.create(**endless, stream=True)
    for _ in range(5):
        await anext(aiter(left))
    await left.close()
    database = running.config.parent / "state" / "ledger.sqlite3"
    columns = "outcome, input_tokens, output_tokens, cost_nano_usd, estimated"

    def rows() -> list[tuple[str, int, int, int, int]]:
        with sqlite3.connect(database) as connection:
            return connection.execute(f"SELECT {columns} FROM routerd_requests WHERE client = 'loadtest'").fetchall()

    await until(lambda: len(rows()) == len(reported) + 1)
    told = Counter((given, said, cost, guessed) for outcome, given, said, cost, guessed in rows() if outcome == "ok")
    assert told == Counter((given, said, 100 * given + 300 * said, 0) for given, said in reported)
    ((given, said, cost, guessed),) = [row[1:] for row in rows() if row[0] == "client_gone"]
    assert given > 0
    assert said > 0
    assert (cost, guessed) == (100 * given + 300 * said, 1)
