"""What the client sends reaches the upstream as configured, and what it does not touch byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]
Sdk = Callable[..., openai.AsyncOpenAI]


def routes(upstream: Upstream, models: str = "  m: {chain: [up/m-1]}", more: str = "") -> str:
    return f"""
version: 1
providers:
  up: {{dialect: openai, base_url: "{upstream.url}", api_key: sk-up, direct: true}}
models:
{models}
{more}
"""


async def test_tools_reach_the_upstream_byte_for_byte(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    tools = b'[ {"type":"function", "function": {"name":"caf\\u00e9 \\/ \xc3\xa9","parameters":{"n": 1.0, "e":1e3}}} ]'
    choice = b'{"type" : "function","function":{"name":"f"}}'
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":' + tools + b',"tool_choice":' + choice + b"}"
    assert (await fetch(daemon(routes(upstream)), CHAT, body)).status == 200
    assert tools in upstream.requests[0].body
    assert choice in upstream.requests[0].body


async def test_tool_calls_come_back(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    piece = {"index": 0, **call}
    upstream.script(
        answers.reply(answers.completion("", tool_calls=[call])),
        answers.events(
            answers.event(answers.delta(tool_calls=[piece])), answers.event(answers.delta(finish="tool_calls")), answers.DONE
        ),
    )
    client = sdk(daemon(routes(upstream)))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], tools=[tool])
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}], tools=[tool], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.tool_calls[0].function.name == "f"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_plain_request_differs_in_nothing_but_the_model(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    body = ask("m", "Grüße\u2028", temperature=0.3, logit_bias={"5": -1}, unknown_field=[1, {"a": None}])
    await fetch(daemon(routes(upstream)), CHAT, body)
    assert upstream.requests[0].json() == {**body, "model": "m-1"}
    assert upstream.requests[0].method == "POST"
    assert upstream.requests[0].target == CHAT


async def test_the_providers_credential_replaces_the_clients(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    headers = {"authorization": "Bearer sk-client", "cookie": "secret=1", "x-api-key": "sk-client"}
    await fetch(daemon(routes(upstream)), CHAT, ask(), headers=headers)
    request = upstream.requests[0]
    assert request.header("authorization") == "Bearer sk-up"
    assert b"sk-client" not in request.raw_head
    assert request.header("cookie") is None


@pytest.mark.parametrize(
    ("auth", "wanted"),
    [
        ("{type: header, name: x-api-key}", "x-api-key: sk-up"),
        ('{type: header, name: x-auth, prefix: "Token "}', "x-auth: Token sk-up"),
        ("{type: query, name: key}", "?key=sk-up"),
    ],
)
async def test_a_credential_goes_where_the_provider_wants_it(daemon: Start, upstream: Upstream, auth: str, wanted: str) -> None:
    upstream.script(answers.reply())
    text = routes(upstream).replace("api_key: sk-up", f"api_key: sk-up, auth: {auth}")
    assert (await fetch(daemon(text), CHAT, ask())).status == 200
    head = upstream.requests[0].raw_head.decode()
    assert wanted.lower() in head.lower()
    assert "authorization" not in head.lower()


async def test_headers_and_body_fields_of_the_provider_are_added(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    text = routes(upstream).replace(
        "direct: true", "headers: {x-portkey-provider: deepinfra}, body: {portkey_provider: deepinfra}"
    )
    await fetch(daemon(text), CHAT, ask())
    assert upstream.requests[0].header("x-portkey-provider") == "deepinfra"
    assert upstream.requests[0].json()["portkey_provider"] == "deepinfra"


SYSTEM, USER = {"role": "system", "content": "client's"}, {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("mode", "sent", "wanted"),
    [
        ("if_missing", [USER], ["ours", "hi"]),
        ("if_missing", [SYSTEM, USER], ["client's", "hi"]),
        ("replace", [SYSTEM, USER], ["ours", "hi"]),
    ],
)
async def test_the_system_prompt_follows_its_mode(
    daemon: Start, upstream: Upstream, mode: str, sent: list[dict[str, str]], wanted: list[str]
) -> None:
    upstream.script(answers.reply())
    text = routes(upstream, f"  m: {{system_prompt: {{text: ours, mode: {mode}}}, chain: [up/m-1]}}")
    await fetch(daemon(text), CHAT, {"model": "m", "messages": sent})
    assert [message["content"] for message in upstream.requests[0].json()["messages"]] == wanted


@pytest.mark.parametrize(("mode", "first"), [("prepend", "ours"), ("append", "client's")])
async def test_prepend_and_append_keep_both_prompts_in_their_order(
    daemon: Start, upstream: Upstream, mode: str, first: str
) -> None:
    upstream.script(answers.reply())
    text = routes(upstream, f"  m: {{system_prompt: {{text: ours, mode: {mode}}}, chain: [up/m-1]}}")
    await fetch(daemon(text), CHAT, {"model": "m", "messages": [SYSTEM, USER]})
    messages = upstream.requests[0].json()["messages"]
    assert messages[-1] == USER
    system = " ".join(message["content"] for message in messages if message["role"] == "system")
    assert {"ours", "client's"} <= set(system.split())
    assert system.startswith(first)


async def test_params_are_defaulted_clamped_forced_and_dropped(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    params = """
  m:
    params:
      defaults: {temperature: 0.7, top_k: 20, max_tokens: 2000}
      force: {seed: 7}
      clamp: {max_tokens: {max: 100}, temperature: {min: 0, max: 1.2}}
      drop: [logit_bias]
    chain: [up/m-1]
"""
    running = daemon(routes(upstream, params))
    await fetch(running, CHAT, ask())
    await fetch(running, CHAT, ask(temperature=2, seed=1, logit_bias={"1": 1}, max_completion_tokens=5000, top_p=0.5))
    first, second = (request.json() for request in upstream.requests)
    assert {k: first[k] for k in ("temperature", "top_k", "max_tokens", "seed")} == {
        "temperature": 0.7, "top_k": 20, "max_tokens": 100, "seed": 7
    }  # fmt: skip
    assert second["temperature"] == 1.2
    assert second["seed"] == 7
    assert second["top_p"] == 0.5
    assert second["max_completion_tokens"] == 100
    assert "logit_bias" not in second
    assert "max_tokens" not in second


async def test_a_targets_params_apply_to_that_target_only(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.error(500), answers.reply())
    text = routes(upstream, "  m: {chain: [up/first, {provider: up, model: second, params: {defaults: {top_k: 5}}}]}")
    await fetch(daemon(text), CHAT, ask())
    first, second = (request.json() for request in upstream.requests)
    assert (first["model"], first.get("top_k")) == ("first", None)
    assert (second["model"], second["top_k"]) == ("second", 5)


@pytest.mark.parametrize(
    ("asked", "upstream_model"),
    [
        ("m", "m-1"),
        ("alias-of-m", "m-1"),
        ("table-alias", "m-1"),
        ("gemini-pro", "google/gemini-pro"),
        ("@deepinfra/a/b-70b", "a/b-70b"),
        ("together/meta-llama/Llama-3.3-70B", "meta-llama/Llama-3.3-70B"),
        ("up/x/y:free", "x/y:free"),
    ],
)
async def test_a_name_finds_its_route(daemon: Start, upstream: Upstream, asked: str, upstream_model: str) -> None:
    upstream.script(answers.reply())
    models = """
  m: {aliases: [alias-of-m], chain: [up/m-1]}
  "gemini-*": {chain: [{provider: up, model: "google/gemini-{1}"}]}
  "@deepinfra/*": {chain: [{provider: up, model: "{1}"}]}
  "together/*": {chain: [{provider: up, model: "{1}"}]}
aliases: {table-alias: m}
"""
    assert (await fetch(daemon(routes(upstream, models)), CHAT, ask(asked))).status == 200
    assert upstream.requests[0].json()["model"] == upstream_model


@pytest.mark.parametrize("asked", ["up/no/such", "pattern-such"])
async def test_a_model_that_the_client_named_and_the_upstream_lacks_is_404(daemon: Start, upstream: Upstream, asked: str) -> None:
    upstream.always(answers.error(404, "no such model", code="model_not_found"))
    running = daemon(routes(upstream, '  "pattern-*": {chain: [{provider: up, model: "no/{1}"}]}'))
    answer = await fetch(running, CHAT, ask(asked))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert [attempt["target"] for attempt in answer.error["attempts"]] == ["up/no/such"]
    upstream.always(answers.reply())
    assert (await fetch(running, CHAT, ask(asked))).status == 200
    running.process.wait_line(lambda line: "target=up/no/such" in line and "status=200" in line)
    outcomes = [key for key in await running.metrics() if key.startswith("routerd_requests_total")]
    assert any('outcome="client_error"' in key for key in outcomes)
    assert not any("such" in key for key in await running.metrics())


async def test_embeddings_pass_through(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}
    upstream.script(
        answers.reply({"object": "list", "data": [vector], "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2}})
    )
    client = sdk(daemon(routes(upstream)))
    made = await client.embeddings.create(model="m", input="hello", encoding_format="float")
    assert made.data[0].embedding == [0.25, -1.5]
    assert upstream.requests[0].target == "/v1/embeddings"
    assert upstream.requests[0].json()["input"] == "hello"


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_models_are_listed_and_retrieved(daemon: Start, upstream: Upstream, sdk: Sdk, base: str) -> None:
    models = "  m: {aliases: [alias], chain: [up/m-1]}\n  off: {enabled: false, chain: [up/m-1]}\n  a/b: {chain: [up/m-1]}"
    client = sdk(daemon(routes(upstream, models)), base=base)
    listed = {model.id async for model in client.models.list()}
    assert {"m", "a/b"} <= listed
    assert "off" not in listed
    assert (await client.models.retrieve("m")).id == "m"
    assert (await client.models.retrieve("a/b")).id == "a/b"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


async def test_the_api_v1_prefix_serves_chat(daemon: Start, upstream: Upstream, sdk: Sdk) -> None:
    upstream.script(answers.reply())
    client = sdk(daemon(routes(upstream)), base="/api/v1")
    answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert answer.choices[0].message.content == "Hello there"


async def test_answers_carry_what_happened(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream))
    first = await fetch(running, CHAT, ask())
    assert first.headers["x-request-id"]
    assert first.headers["x-routerd-route"] == "m"
    assert first.headers["x-routerd-target"] == "up/m-1"
    assert first.headers["x-routerd-generation"] == "1"
    assert first.headers["x-routerd-attempts"] == "up:ok"
    own = await fetch(running, CHAT, ask(), headers={"x-request-id": "abc-123"})
    assert own.headers["x-request-id"] == "abc-123"


async def test_the_headers_can_be_turned_off(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.reply())
    answer = await fetch(daemon(routes(upstream, more="response_headers: false")), CHAT, ask())
    assert not [name for name in answer.headers if name.lower().startswith("x-routerd-")]
    assert answer.headers["x-request-id"]


async def test_a_compressed_answer_reaches_the_client_readable(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.zipped(answers.completion("zipped")))
    answer = await fetch(daemon(routes(upstream)), CHAT, ask())
    assert answer.json()["choices"][0]["message"]["content"] == "zipped"


async def test_stream_options_of_the_client_are_kept(daemon: Start, upstream: Upstream) -> None:
    upstream.script(answers.stream())
    answer = await fetch(daemon(routes(upstream)), CHAT, ask(stream=True, stream_options={"continuous_usage_stats": True}))
    assert upstream.requests[0].json()["stream_options"] == {"continuous_usage_stats": True, "include_usage": True}
    assert answer.events()[-1] == "[DONE]"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not [event for event in answer.events()[:-1] if event.get("usage")]


async def test_connections_to_the_upstream_are_kept(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream))
    for _ in range(5):
        assert (await fetch(running, CHAT, ask())).status == 200
    assert upstream.connections_opened == 1


async def test_the_simulator_answers_without_network(daemon: Start, sdk: Sdk) -> None:
    text = """
version: 1
providers: {demo: {dialect: simulator, simulator: {first_token: 1ms, tokens_per_s: 1000}}}
models: {demo: {chain: [demo/echo]}}
"""
    client = sdk(daemon(text))
    messages = [{"role": "user", "content": "say this"}]
    whole = await client.chat.completions.create(model="demo", messages=messages)
    assert "say this" in (whole.choices[0].message.content or "")
    chunks = [c async for c in await client.chat.completions.create(model="demo", messages=messages, stream=True)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert json.loads(chunks[-1].model_dump_json())["choices"][0]["finish_reason"] == "stop"
