"""Two SDKs, as they are published, on every dialect: each says the same thing to its user, whoever answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anthropic
import openai
import pytest

from tests.support import answers, vendors
from tests.support.daemon import Daemon
from tests.support.upstream import Call, Upstream
from tests.support.vendors import VENDORS, Vendor

Start = Callable[..., Daemon]
Told = tuple[str, list[tuple[str, Any]], str]

PNG = "iVBORw0KGgoAAAANSUhEUg=="
SYSTEM = "Be brief, please."
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}


class OpenAI:
    """OpenAI's SDK. `ask` and `stream` give text, calls and how it ended: stop, tools or length."""

    error = openai.APIError
    refused = openai.BadRequestError
    ends = {"stop": "stop", "tool_calls": "tools", "length": "length"}

    def __init__(self, url: str) -> None:
        self.client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="k", max_retries=0, timeout=30)

    def _body(self, model: str, *, tools: bool, image: bool) -> Any:
        content: Any = "Hello"
        if image:
            url = f"data:image/png;base64,{PNG}"
            content = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": url}}]
        body = {"model": model, "max_tokens": 50, "stop": ["END"], "messages": [{"role": "user", "content": content}]}
        body["messages"].insert(0, {"role": "system", "content": SYSTEM})  # type: ignore[union-attr]
        function = {"type": "function", "function": {"name": vendors.TOOL, "parameters": SCHEMA}}
        return {**body, "tools": [function]} if tools else body

    async def ask(self, model: str, *, tools: bool = False, image: bool = False) -> Told:
        choice = (await self.client.chat.completions.create(**self._body(model, tools=tools, image=image))).choices[0]
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or ()]
        return choice.message.content or "", calls, self.ends[choice.finish_reason]

    async def stream(self, model: str, *, tools: bool = False) -> Told:
        async with self.client.chat.completions.stream(**self._body(model, tools=tools, image=False)) as stream:
            choice = (await stream.get_final_completion()).choices[0]
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or ()]
        return choice.message.content or "", calls, self.ends[choice.finish_reason]

    async def send_back(self, model: str) -> None:
        function = {"name": vendors.TOOL, "arguments": json.dumps(vendors.ARGUMENTS)}
        call = {"id": "call_1", "type": "function", "function": function}
        body = self._body(model, tools=True, image=False)
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny 21"},
        ]
        await self.client.chat.completions.create(**body)


class Anthropic:
    """Anthropic's SDK, in the same words."""

    error = anthropic.APIError
    refused = anthropic.BadRequestError
    ends = {"end_turn": "stop", "tool_use": "tools", "max_tokens": "length"}

    def __init__(self, url: str) -> None:
        self.client = anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0, timeout=30)

    def _body(self, model: str, *, tools: bool, image: bool) -> Any:
        content: Any = "Hello"
        if image:
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            content = [{"type": "text", "text": "Hello"}, {"type": "image", "source": source}]
        body = {"model": model, "max_tokens": 50, "stop_sequences": ["END"], "system": SYSTEM}
        body["messages"] = [{"role": "user", "content": content}]
        return {**body, "tools": [{"name": vendors.TOOL, "input_schema": SCHEMA}]} if tools else body

    def _told(self, message: Any) -> Told:
        text = "".join(block.text for block in message.content if block.type == "text")
        calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
        return text, calls, self.ends[message.stop_reason]

    async def ask(self, model: str, *, tools: bool = False, image: bool = False) -> Told:
        return self._told(await self.client.messages.create(**self._body(model, tools=tools, image=image)))

    async def stream(self, model: str, *, tools: bool = False) -> Told:
        async with self.client.messages.stream(**self._body(model, tools=tools, image=False)) as stream:
            return self._told(await stream.get_final_message())

    async def send_back(self, model: str) -> None:
        body = self._body(model, tools=True, image=False)
        used = {"type": "tool_use", "id": "call_1", "name": vendors.TOOL, "input": vendors.ARGUMENTS}
        result = {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny 21"}
        body["messages"] += [{"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
        await self.client.messages.create(**body)


Sdk = OpenAI | Anthropic


def streamed(vendor: Vendor, body: bytes) -> Any:
    async def answer(call: Call) -> None:
        await call.head(200, [("content-type", vendor.kind), ("transfer-encoding", "chunked")])
        for start in range(0, len(body), 23):
            await call.chunk(body[start : start + 23])
        await call.end_chunks()

    return answer


@pytest.fixture(params=[OpenAI, Anthropic], ids=["openai", "anthropic"])
async def sdk(request: pytest.FixtureRequest, daemon: Start, upstream: Upstream) -> AsyncIterator[Sdk]:
    """An SDK at a daemon with a model of the name of each dialect."""
    base = upstream.url.removesuffix("/v1")
    provider = '  {0}: {{dialect: {0}, base_url: "{1}{2}", api_key: k}}\n'
    providers = "".join(provider.format(name, base, vendor.path) for name, vendor in VENDORS.items())
    models = "".join(f"  {name}: {{chain: [{name}/real]}}\n" for name in VENDORS)
    node = daemon(f"version: 1\nproviders:\n{providers}models:\n{models}")
    async with AsyncExitStack() as stack:
        made: Sdk = request.param(node.url)
        stack.push_async_callback(made.client.close)
        yield made


async def test_text_calls_and_the_limit_whole(sdk: Sdk, upstream: Upstream) -> None:
    for name, vendor in VENDORS.items():
        upstream.script(*(answers.reply(body) for body in (vendor.text, vendor.call, vendor.short, vendor.text)))
        assert (name, await sdk.ask(name)) == (name, (vendors.TEXT, [], "stop"))
        assert (name, await sdk.ask(name, tools=True)) == (name, ("", [(vendors.TOOL, vendors.ARGUMENTS)], "tools"))
        assert (name, await sdk.ask(name, image=True)) == (name, (vendors.TEXT, [], "length"))
        await sdk.send_back(name)
        plain, tools, image, back = (request.body.decode() for request in upstream.requests[-4:])
        for sent in (plain, tools, image, back):
            assert (name, SYSTEM in sent, '"END"' in sent, "50" in sent) == (name, True, True, True)
        assert (name, '"city"' in plain, '"city"' in tools, PNG in image, "sunny 21" in back) == (name, False, True, True, True)


async def test_text_and_calls_streamed(sdk: Sdk, upstream: Upstream) -> None:
    for name, vendor in VENDORS.items():
        upstream.script(streamed(vendor, vendor.text_stream), streamed(vendor, vendor.call_stream))
        assert (name, await sdk.stream(name)) == (name, (vendors.TEXT, [], "stop"))
        assert (name, await sdk.stream(name, tools=True)) == (name, ("", [(vendors.TOOL, vendors.ARGUMENTS)], "tools"))


async def test_what_went_wrong_is_told_whole_and_in_a_stream(sdk: Sdk, upstream: Upstream) -> None:
    for name, vendor in VENDORS.items():
        refusal = answers.reply(json.dumps(vendor.error).encode(), status=400)
        upstream.script(refusal, streamed(vendor, vendor.broken_stream))
        with pytest.raises(sdk.refused, match=vendors.FAILED):
            await sdk.ask(name)
        with pytest.raises(sdk.error, match=vendors.FAILED):
            await sdk.stream(name)
