"""A free-model API over a chat service with six back ends, and its move to another provider by one edit of the file."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import openai
import pytest
import yaml

from tests.e2e.systems.conftest import Serve, file_of
from tests.e2e.test_probe import probe
from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Call, Upstream

Sdk = Callable[..., openai.AsyncOpenAI]

MODELS = yaml.safe_load(file_of("chat_service"))["models"]
OLDER = ("gpt-4o", "gpt-4o-mini", "perplexed", "felo", "gpt-oss")
ASKED = {  # what clients ask for: the back end that must be asked
    **{name: body["chain"][0].partition("/")[0] for name, body in MODELS.items() if "*" not in name and name not in OLDER},
    "gemini-2.0-flash": "gemini",
    "gemini-2.5-pro-exp-03-25": "gemini",
    "deepseek/deepseek-r1:free": "openrouter",
    "mistralai/mistral-small-3.1-24b-instruct:free": "openrouter",
}


def piece(text: str, why: str | None = None) -> dict[str, Any]:
    return {"reply": {"parts": [{"text": text}], "why": why}, "trace": {"t": 1}}


async def service(call: Call) -> None:
    """Answer as the chat service does: whole, or in chunks that are split anywhere."""
    body = call.request.json()
    if not body["stream"]:
        await answers.reply(piece(f"I am {body['model']}", "stop"))(call)
        return
    events = [piece("I am "), {"heartbeat": 1}, piece(str(body["model"])), piece("", "stop")]
    raw = b"".join(answers.event(json.dumps(one, ensure_ascii=False)) for one in events) + answers.event("[END]")
    await call.head(200, answers.EVENT_STREAM)
    for at in range(0, len(raw), 11):
        await call.chunk(raw[at : at + 11])
    await call.end_chunks()


async def openai_style(call: Call) -> None:
    """Answer as the next provider does: OpenAI's API."""
    if call.request.json().get("stream"):
        await answers.stream(["I am ", call.request.json()["model"]])(call)
    else:
        await answers.reply(answers.completion(f"I am {call.request.json()['model']}"))(call)


def variables(upstream: Upstream, older: Upstream | None = None) -> dict[str, str]:
    base = upstream.url.removesuffix("/v1")
    old = (older or upstream).url.removesuffix("/v1")
    return {"CHAT_SERVICE": base, "OLDER": old, "OLDER_KEY": "sk-older-secret", "BACKOFF": "10ms"}


def test_the_file_names_all_that_the_service_has() -> None:
    backs = list(ASKED.values())
    assert (backs.count("groq"), backs.count("cerebras")) == (15, 4)
    assert set(backs) == {"exaanswer", "xai", "gemini", "openrouter", "groq", "cerebras"}


async def test_every_name_reaches_its_back_end_with_its_payload(serve: Serve, upstream: Upstream, sdk: Sdk) -> None:
    upstream.always(service)
    client = sdk(serve("chat_service", **variables(upstream)))
    for name, back in ASKED.items():
        messages: Any = [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
        ]
        answer = await client.chat.completions.create(model=name, messages=messages, temperature=0.5)
        assert (answer.object, answer.model) == ("chat.completion", name)
        assert answer.choices[0].message.content == f"I am {name}"
        assert answer.choices[0].finish_reason == "stop"
        got = upstream.requests[-1]
        assert (got.method, got.target) == ("POST", f"/api/{back}")
        assert got.header("authorization") is None
        assert got.json() == {
            "query": "System: Be short.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: Who are you?",
            "system": "Be short.",
            "model": name,
            "stream": False,
            "options": {"temperature": 0.5},
        }


async def test_every_name_streams_clean_openai_chunks(serve: Serve, upstream: Upstream) -> None:
    upstream.always(service)
    running = serve("chat_service", **variables(upstream))
    for name, back in ASKED.items():
        answer = await fetch(running, CHAT, ask(name, stream=True))
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, done = answer.events()
        assert done == "[DONE]"
        for chunk in chunks:
            assert set(chunk) <= {"id", "object", "created", "model", "choices", "usage"}, chunk
            assert (chunk["object"], chunk["model"], chunk["id"]) == ("chat.completion.chunk", name, chunks[0]["id"])
        assert "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]) == f"I am {name}"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert (upstream.requests[-1].target, upstream.requests[-1].json()["stream"]) == (f"/api/{back}", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_service_refuses_is_an_openai_error(serve: Serve, upstream: Upstream, stream: bool) -> None:
    upstream.always(answers.reply({"error": "Forbidden"}, status=403))
    running = serve("chat_service", **variables(upstream))
    refused = await fetch(running, CHAT, ask("gemini-2.0-flash", stream=stream), headers={"origin": "https://a.example"})
    assert refused.status in (502, 503)  # ours to mend, not the client's key
    assert refused.error["type"]
    assert refused.headers["access-control-allow-origin"] == "*"
    assert upstream.url.removesuffix("/v1").encode() not in refused.body


async def test_an_error_inside_a_stream_ends_it_honestly(serve: Serve, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.events(answers.event(piece("I am")), answers.event({"error": {"message": "the model has gone"}})))
    client = sdk(serve("chat_service", **variables(upstream)))
    stream = await client.chat.completions.create(model="felo/x", messages=[{"role": "user", "content": "hi"}], stream=True)
    with pytest.raises(openai.APIError, match="the model has gone"):
        [chunk async for chunk in stream]


async def test_what_it_cannot_be_told_is_refused_by_name(serve: Serve, upstream: Upstream, sdk: Sdk) -> None:
    client = sdk(serve("chat_service", **variables(upstream)))
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="exaanswer", messages=image)
    assert str(refused.value.param).startswith("messages[0]")
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    assert upstream.requests == []


async def test_older_models_work_beside_them_and_no_key_is_needed(
    serve: Serve, upstream: Upstream, upstreams: Callable[[], Any], sdk: Sdk
) -> None:
    older = await upstreams()
    upstream.always(service)
    older.always(openai_style)
    running = serve("chat_service", **variables(upstream, older))
    client = sdk(running)
    for name in OLDER:
        answer = await client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == f"I am {name}"
        assert older.requests[-1].target == "/v1/chat/completions"
    assert older.requests[0].header("authorization") == "Bearer sk-older-secret"
    assert (await fetch(running, CHAT, ask("exaanswer"))).status == 200
    listed = [model.id async for model in client.models.list()]
    assert set(listed) == {name for name in MODELS if "*" not in name}


def migrated(text: str) -> str:
    """The same file with every model's provider swapped: six addresses become one, another API and a key."""
    fresh = 'dialect: openai, base_url: "${NEXT}/v1", api_key: "${NEXT_KEY}"'
    return re.sub(r'<<: \*service, base_url: "[^"]*"', fresh, text)


async def test_every_provider_is_swapped_by_one_edit_under_load(
    serve: Serve, upstream: Upstream, upstreams: Callable[[], Any]
) -> None:
    following = await upstreams()
    upstream.always(service)
    following.always(openai_style)
    more = {"NEXT": following.url.removesuffix("/v1"), "NEXT_KEY": "sk-next-secret"}
    running = serve("chat_service", args=("--workers", "2"), **variables(upstream, following), **more)
    names, served, ended = list(ASKED), [0, 0], asyncio.Event()

    async def client(offset: int) -> None:
        turn = offset
        while not ended.is_set():
            name, stream = names[turn % len(names)], turn % 2 == 0
            answer = await fetch(running, CHAT, ask(name, stream=stream))
            assert answer.status == 200, answer.body
            assert said(answer, stream) == f"I am {name}"
            served[answer.headers["x-routerd-generation"] != "1"] += 1
            turn += 1

    clients = [asyncio.ensure_future(client(i)) for i in range(12)]
    await asyncio.wait([asyncio.ensure_future(upstream.received(60)), *clients], return_when=asyncio.FIRST_COMPLETED)
    running.write(migrated(file_of("chat_service")))
    await running.generation(2)
    before = len(upstream.requests)
    await asyncio.wait([asyncio.ensure_future(following.received(120)), *clients], return_when=asyncio.FIRST_COMPLETED)
    ended.set()
    await asyncio.gather(*clients)  # raises what a client saw
    assert served[0] >= 48
    assert served[1] >= 100
    assert len(upstream.requests) - before <= len(clients)  # what ran then; nothing new goes there
    assert {request.target for request in following.requests} == {"/v1/chat/completions"}
    assert following.requests[0].header("authorization") == "Bearer sk-next-secret"
    counted = {key: value for key, value in (await running.metrics()).items() if key.startswith("routerd_requests_total")}
    assert sum(counted.values()) == sum(value for key, value in counted.items() if 'outcome="ok"' in key)


async def test_the_probe_tells_who_answers_before_and_after_the_move(
    serve: Serve, upstream: Upstream, upstreams: Callable[[], Any]
) -> None:
    following = await upstreams()

    async def service_without_groq(call: Call) -> None:
        gone = call.request.target == "/api/groq"
        await (answers.reply({"error": "Forbidden"}, status=403) if gone else service)(call)

    upstream.always(service_without_groq)
    following.always(openai_style)
    more = {"NEXT": following.url.removesuffix("/v1"), "NEXT_KEY": "sk-next-secret"}
    running = serve("chat_service", **variables(upstream, following), **more)
    before = await probe("--url", running.url, "--json")
    told = {one["model"]: one["ok"] for one in json.loads(before.stdout)["models"]}
    assert before.returncode == 1
    assert {name for name, well in told.items() if not well} == {name for name, back in ASKED.items() if back == "groq"}
    assert len(told) == len([name for name in MODELS if "*" not in name])
    running.write(migrated(file_of("chat_service")))
    await running.generation(2)
    for names in ((), ("--model", "gemini-2.0-flash", "--model", "deepseek/deepseek-r1:free")):
        after = await probe("--url", running.url, *names)
        assert (after.returncode, "all answer" in after.stdout) == (0, True), after.stdout


def said(answer: Any, stream: bool) -> str:
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    *chunks, done = answer.events()
    assert done == "[DONE]"
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def test_the_file_checks_itself(serve: Serve) -> None:
    running: Daemon = serve("chat_service", CHAT_SERVICE="http://127.0.0.1:9", OLDER="http://127.0.0.1:9", OLDER_KEY="k")
    assert running.get_admin("/-/ready")[0] == 200
