"""An edit of the file is live within a second, a bad one changes nothing, and no request notices either."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable

import pytest

from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]


def routes(upstream: Upstream, model: str = "first", more: str = "") -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}
models:
  m: {{chain: [up/{model}]}}
{more}
"""


async def served_by(running: Daemon) -> str:
    return (await fetch(running, CHAT, ask())).headers["x-routerd-target"]


async def test_an_edit_is_live_within_a_second(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream))
    assert await served_by(running) == "up/first"
    for turn, model in enumerate(["second", "third", "fourth"]):
        began_s = time.monotonic()
        running.write(routes(upstream, model))

        async def live(wanted: str = f"up/{model}") -> bool:
            return await served_by(running) == wanted

        await until(live, 1.0)
        assert time.monotonic() - began_s < 1.0, turn


async def test_the_gauges_of_a_removed_endpoint_go_and_its_counters_stay(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    old = routes(upstream).replace("models:", f'  old: {{dialect: openai, base_url: "{upstream.url}"}}\nmodels:')
    running = daemon(old.replace("up/first", "old/first"))
    assert await served_by(running) == "old/first"
    assert 'routerd_inflight_requests{endpoint="old"}' in await running.metrics()
    running.write(routes(upstream))
    await running.generation(2)
    metrics = await running.metrics()
    assert 'routerd_inflight_requests{endpoint="up"}' in metrics
    assert not [key for key in metrics if 'endpoint="old"' in key]
    assert metrics['routerd_attempts_total{result="ok",target="old/first"}'] == 1
    running.write(old)
    await running.generation(3)
    assert 'routerd_inflight_requests{endpoint="old"}' in await running.metrics()


@pytest.mark.parametrize("way", ["in-place", "rename", "delete-and-create"])
async def test_every_way_to_save_is_seen(daemon: Start, upstream: Upstream, way: str) -> None:
    running = daemon(routes(upstream))
    for turn in range(2, 5):
        text = routes(upstream, f"model-{turn}")
        if way == "in-place":
            running.config.write_text(text)
        elif way == "rename":
            running.write(text)
        else:
            running.config.unlink()
            await asyncio.sleep(0.15)  # longer than a look, so that the absence is seen
            running.config.write_text(text)
        await running.generation(turn, 2.0)


async def test_a_bad_edit_keeps_the_old_graph_and_says_why(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream))
    running.write(routes(upstream, "second", "modles: {}"))
    line = await asyncio.to_thread(running.process.wait_line, "unknown-key")
    assert "routes.yaml:" in line

    async def told() -> bool:
        return (await running.metrics())["routerd_config_last_reload_successful"] == 0

    await until(told)
    assert await served_by(running) == "up/first"
    assert (await running.status())["generation"] == 1
    running.write(routes(upstream, "third"))
    await running.generation(2)
    assert await served_by(running) == "up/third"
    assert (await running.metrics())["routerd_config_last_reload_successful"] == 1


async def test_a_missing_file_keeps_serving(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream))
    running.config.unlink()

    async def noticed() -> bool:
        return (await running.metrics())["routerd_config_file_present"] == 0

    await until(noticed)
    assert await served_by(running) == "up/first"
    running.config.write_text(routes(upstream, "back"))
    await running.generation(2)


async def test_a_comment_is_no_new_generation(daemon: Start, upstream: Upstream) -> None:
    running = daemon(routes(upstream))
    running.write(routes(upstream) + "\n# a comment\n")

    async def looked() -> bool:
        samples = await running.metrics()
        return any(v for k, v in samples.items() if k.startswith("routerd_config_reloads_total") and 'result="unchanged"' in k)

    await until(looked)
    assert (await running.status())["generation"] == 1


async def test_a_prompt_file_is_an_input_too(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    text = routes(upstream).replace("{chain:", "{system_prompt: {file: prompt.md}, chain:")
    prompts = []

    def start(directory_text: str) -> Daemon:
        return daemon(directory_text)

    # The prompt must exist before the first load, beside a routes.yaml that does not need it yet.
    running = start(routes(upstream))
    prompt = running.config.with_name("prompt.md")
    prompt.write_text("one")
    running.write(text)
    await running.generation(2)
    await fetch(running, CHAT, ask())
    prompt.write_text("two")
    await running.generation(3)
    await fetch(running, CHAT, ask())
    prompts = [request.json()["messages"][0]["content"] for request in upstream.requests]
    assert prompts == ["one", "two"]


async def test_a_key_that_changes_in_its_file_is_used_at_once(daemon: Start, upstream: Upstream, tmp_path: pathlib.Path) -> None:
    upstream.always(answers.reply())
    key = tmp_path / "up.key"
    key.write_text("sk-old\n")
    running = daemon(routes(upstream).replace("auth: {type: none}", f"api_key: {{file: {key}}}"))
    await served_by(running)
    assert upstream.requests[-1].header("authorization") == "Bearer sk-old"
    key.write_text("sk-new\n")
    await running.generation(2)
    await served_by(running)
    assert upstream.requests[-1].header("authorization") == "Bearer sk-new"


async def test_the_api_reloads_at_once_and_answers_with_the_problems(daemon: Start, upstream: Upstream) -> None:
    import aiohttp

    running = daemon(routes(upstream))
    async with aiohttp.ClientSession() as session:
        running.config.write_text(routes(upstream, "second"))
        async with session.post(running.admin + "/-/reload") as answer:
            assert answer.status == 200
            assert (await answer.json())["generation"] == 2
        running.config.write_text(routes(upstream, "second").replace("[up/", "[upp/"))
        async with session.post(running.admin + "/-/reload") as answer:
            assert answer.status == 422
            assert "upp" in await answer.text()


async def test_a_stream_ends_in_the_generation_it_began_with(daemon: Start, upstreams: Callable[[], object]) -> None:
    old, new = await upstreams(), await upstreams()  # type: ignore[misc]
    gate = asyncio.Event()
    old.script(answers.stream(["before", "after"], gates=[_open(), gate]))
    new.always(answers.reply())
    running = daemon(routes(old))
    held = asyncio.create_task(fetch(running, CHAT, ask(stream=True)))
    await old.received(1)
    running.write(routes(new, "second"))
    await running.generation(2)
    assert (await fetch(running, CHAT, ask())).headers["x-routerd-generation"] == "2"
    gate.set()
    answer = await held
    assert answer.headers["x-routerd-generation"] == "1"
    assert answer.events()[-1] == "[DONE]"
    assert b"after" in answer.body


async def test_edits_under_a_load_of_streams_cost_no_request(daemon: Start, upstream: Upstream) -> None:
    """Twenty edits while 24 clients stream and ask without a pause: no error, and no answer that mixes two generations."""
    upstream.always(_either)
    running = daemon(routes(upstream, "model-1"))
    done = asyncio.Event()
    seen: set[str] = set()
    count = 0

    async def client(stream: bool) -> None:
        nonlocal count
        while not done.is_set():
            answer = await fetch(running, CHAT, ask(stream=stream))
            assert answer.status == 200, answer.body
            assert answer.headers["x-routerd-target"] == f"up/model-{answer.headers['x-routerd-generation']}"
            assert not stream or answer.events()[-1] == "[DONE]"
            seen.add(answer.headers["x-routerd-generation"])
            count += 1

    clients = [asyncio.create_task(client(i % 3 > 0)) for i in range(24)]
    try:
        for number in range(2, 22):
            running.write(routes(upstream, f"model-{number}"))
            await running.generation(number, 10)
    finally:
        done.set()
        outcomes = await asyncio.gather(*clients, return_exceptions=True)
    assert [o for o in outcomes if o is not None] == []
    assert len(seen) >= 15
    assert count > 100


async def _either(call: object) -> None:
    streams = call.request.json().get("stream")  # type: ignore[attr-defined]
    await (answers.stream(["a", "b", "c"]) if streams else answers.reply())(call)  # type: ignore[arg-type]


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
