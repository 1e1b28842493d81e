"""What is sent is what was recorded: each recorded request, asked of routerd as its client would, reaches its provider the same.

A client of OpenAI's API asks the preset for what the recorder's client asked for; path, credential and body of what goes
out are compared with the recording. What a preset changes on purpose is said once more here, by hand. Recordings of APIs that are
not OpenAI's are first told as such a client would have said it. Left out are recordings without a request, or with the prompt
taken out of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from routerd.attempt.lane import Wire
from routerd.config import Loaded
from routerd.graph import Params
from routerd.plan import Planned, RoutePlan
from routerd.wire import Call, Encoded, parse_request
from routerd.wire.anthropic import MessagesClient
from routerd.wire.dialect import Dialect
from tests.attempt.test_lane import Worker
from tests.wire.transcripts import ROOT

LoadText = Callable[..., Loaded]
PRESETS = {"azure": "azure-openai", "gpustack": "vllm"}  # where the folder has another name
# Made with other surfaces than the preset's: Azure's AI inference, HuggingFace's API of single models, an example of the docs.
OTHER_PATHS = {"azure/err_429_retry_after_ms"}
OPERATIONS = {"chat/completions": "chat", "embeddings": "embedding", "responses": "response"}
CREDENTIALS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")


def exchanges() -> list[Any]:
    found = []
    for path in sorted(ROOT.glob("*/*.json")):
        name, request = f"{path.parent.name}/{path.stem}", json.loads(path.read_text())["request"]
        if isinstance(request["body"], dict) and {"messages", "contents", "input"} & request["body"].keys():
            found.append(pytest.param(name, request, id=name))
    return found


ALL = exchanges()
NATIVE = ("anthropic", "gemini", "ollama", "cohere")
LIKE_OPENAI = [one for one in ALL if str(one.values[0]).partition("/")[0] not in NATIVE]


def of(family: str) -> list[Any]:
    return [one for one in ALL if str(one.values[0]).startswith(f"{family}/")]


def wire_of(load_text: LoadText, folder: str, model: str) -> Wire:
    """Return the wire of a route through the provider's preset."""
    preset = PRESETS.get(folder, folder)
    url = ", base_url: 'https://r.example/openai/v1'" if preset == "azure-openai" else ""
    models = {"m": {"chain": [{"provider": "p", "model": model}]}}
    text = f"version: 1\nproviders: {{p: {{preset: {preset}, api_key: the-key{url}}}}}\nmodels: {json.dumps(models)}"
    graph = load_text(text).graph
    (planned,) = RoutePlan(graph, graph.routes["m"]).every
    assert isinstance(planned, Planned)
    return Wire(planned, Worker())


def sent(wire: Wire, encoded: Encoded, stream: bool) -> tuple[str, dict[str, str], Any]:
    """Return path, header fields and body as they go over the wire."""
    head, rest = wire.message(encoded, stream, "id")
    first, *lines = (head.partition(b"\r\n\r\n")[0]).decode().split("\r\n")
    body = rest or head.partition(b"\r\n\r\n")[2]
    return first.split()[1], dict(line.split(": ", 1) for line in lines), json.loads(body)


def call_of(body: dict[str, Any], path: str, operation: str = "chat") -> Call:
    wants = bool((body.get("stream_options") or {}).get("include_usage"))
    return Call(operation=operation, path=path, model=body["model"], stream=bool(body.get("stream")), wants_usage=wants)


def same_credential(fields: dict[str, str], recorded: dict[str, Any]) -> None:
    """The credential stands where the recorder's client had it, where the recording still shows that."""
    names = {name.lower() for name in recorded}
    for name in CREDENTIALS:
        if name in names:
            assert fields[name] == ("Bearer the-key" if name == "authorization" else "the-key")
    assert sum("the-key" in value for value in fields.values()) == 1


def changed_on_purpose(folder: str, body: dict[str, Any], operation: str) -> dict[str, Any]:
    """Return a recorded body with what the preset and routerd mean to change."""
    out = dict(body)
    if operation == "chat":
        if folder == "openai" and "max_tokens" in out:
            out["max_completion_tokens"] = out.pop("max_tokens")
        if folder == "mistral":  # its streams have their usage unasked
            out.pop("stream_options", None)
        elif out.get("stream"):  # routerd wants to see the usage
            out["stream_options"] = {**(out.get("stream_options") or {}), "include_usage": True}
        if folder == "together":  # parameters of the recorder's client that were null
            out.pop("max_completion_tokens", None)
    return out


@pytest.mark.parametrize(("name", "recorded"), LIKE_OPENAI)
async def test_a_request_to_an_api_like_openais_is_sent_as_recorded(load_text: LoadText, name: str, recorded: Any) -> None:
    folder, given = name.partition("/")[0], recorded["body"]
    path = next(one for one in OPERATIONS if recorded["path"].partition("?")[0].endswith(one))
    operation = OPERATIONS[path]
    wire = wire_of(load_text, folder, given["model"])
    request = parse_request(json.dumps({**given, "model": "m"}).encode(), operation, path)
    encoded = wire.dialect.encode(request.body, call_of(given, path, operation))
    where, fields, body = sent(wire, encoded, bool(given.get("stream")))
    if name not in OTHER_PATHS:
        assert where == recorded["path"]
    same_credential(fields, recorded["headers"])
    assert body == changed_on_purpose(folder, given, operation)
    assert not encoded.dropped


@pytest.mark.parametrize(("name", "recorded"), of("anthropic"))
async def test_a_messages_request_reaches_anthropic_as_it_was(load_text: LoadText, name: str, recorded: Any) -> None:
    del name
    given, client = recorded["body"], MessagesClient()
    wire = wire_of(load_text, "anthropic", given["model"])
    request = client.parse(json.dumps({**given, "model": "m"}).encode(), "chat", "messages")
    own = client.passes(wire.dialect, "chat")
    assert own is not None
    encoded = own.encode(client.native(request, None, (Params(),)), call_of(given, "messages"))
    where, fields, body = sent(wire, encoded, request.stream)
    assert (where, body) == (recorded["path"], given)
    assert fields["anthropic-version"] == "2023-06-01"
    same_credential(fields, recorded["headers"])


def translated(dialect: Dialect, asked: dict[str, Any], model: str) -> tuple[str, Any]:
    """Return path and body of what a client of OpenAI's API asked for."""
    request = parse_request(json.dumps({**asked, "model": "m"}).encode(), "chat", "chat/completions")
    encoded = dialect.encode(request.body, call_of({**asked, "model": model}, "chat/completions"))
    return encoded.path, json.loads(encoded.body)


# ── Gemini ──


def gemini_as_openai(body: dict[str, Any]) -> dict[str, Any]:
    """Say a recorded generateContent as a client of OpenAI's API would have."""
    messages: list[dict[str, Any]] = []
    if "systemInstruction" in body:
        messages.append({"role": "system", "content": body["systemInstruction"]["parts"][0]["text"]})
    for content in body["contents"]:
        messages += gemini_turn(content)
    config = body.get("generationConfig", {})
    asked: dict[str, Any] = {"messages": messages}
    if "maxOutputTokens" in config:
        asked["max_tokens"] = config["maxOutputTokens"]
    if "temperature" in config:
        asked["temperature"] = config["temperature"]
    if "responseJsonSchema" in config:
        schema = {"name": "s", "schema": config["responseJsonSchema"]}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    for tool in body.get("tools", ()):
        asked["tools"] = [{"type": "function", "function": lowered(one)} for one in tool["functionDeclarations"]]
    if "toolConfig" in body:
        asked["tool_choice"] = body["toolConfig"]["functionCallingConfig"]["mode"].lower()
    return asked


def gemini_turn(content: dict[str, Any]) -> list[dict[str, Any]]:
    parts, calls, results = [], [], []
    for part in content["parts"]:
        if "text" in part:
            parts.append({"type": "text", "text": part["text"]})
        elif "inlineData" in part:
            url = f"data:{part['inlineData']['mimeType']};base64,{part['inlineData']['data']}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif "functionCall" in part:
            call = part["functionCall"]
            function = {"name": call["name"], "arguments": json.dumps(call["args"])}
            one = {"id": call["id"], "type": "function", "function": function}
            if "thoughtSignature" in part:
                one["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
            calls.append(one)
        else:
            result = part["functionResponse"]
            results.append({"role": "tool", "tool_call_id": result["id"], "content": result["response"]["result"]})
    if results:
        return results
    role = "assistant" if content["role"] == "model" else "user"
    return [{"role": role, "content": parts or None, **({"tool_calls": calls} if calls else {})}]


def lowered(value: Any) -> Any:
    """Types of schemas in lower case: Gemini takes both."""
    if isinstance(value, dict):
        return {key: one.lower() if key == "type" and isinstance(one, str) else lowered(one) for key, one in value.items()}
    return [lowered(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "recorded"), of("gemini"))
async def test_a_request_to_gemini_is_sent_as_recorded(load_text: LoadText, name: str, recorded: Any) -> None:
    given = dict(recorded["body"])
    model, _, method = recorded["path"].rpartition("/")[2].partition("?")[0].partition(":")
    wire = wire_of(load_text, "gemini", model)
    asked = {**gemini_as_openai(given), "stream": method == "streamGenerateContent"}
    path, body = translated(wire.dialect, asked, model)
    where, fields, _ = sent(wire, Encoded(path=path, body=b"{}"), asked["stream"])
    assert where == recorded["path"]
    same_credential(fields, recorded["headers"])
    assert lowered(body.get("tools")) == lowered(given.get("tools"))
    assert body.get("toolConfig") == given.get("toolConfig")
    assert body["contents"] == given["contents"]
    theirs = given.get("systemInstruction")
    assert body.get("systemInstruction", {}).get("parts") == (theirs["parts"] if theirs else None)
    config = dict(given.get("generationConfig", {}))
    config.pop("thinkingConfig", None)  # what OpenAI's clients have no word for
    assert body.get("generationConfig", {}) == config, name


# ── Ollama ──


@pytest.mark.parametrize(("name", "recorded"), of("ollama"))
async def test_a_request_to_ollama_is_sent_as_recorded(load_text: LoadText, name: str, recorded: Any) -> None:
    del name
    given = recorded["body"]
    wire = wire_of(load_text, "ollama", given["model"])
    messages, last = [], ""
    for number, message in enumerate(given["messages"]):
        one = dict(message)
        if "tool_calls" in message:
            last = f"call_{number}"
            functions = [call["function"] for call in message["tool_calls"]]
            one["tool_calls"] = [
                {"id": last, "type": "function", "function": {**function, "arguments": json.dumps(function["arguments"])}}
                for function in functions
            ]
        if message["role"] == "tool":
            one["tool_call_id"] = last
        messages.append(one)
    asked = {"messages": messages, "stream": given["stream"], **({"tools": given["tools"]} if given.get("tools") else {})}
    if "think" in given:
        asked["reasoning_effort"] = "medium"
    path, body = translated(wire.dialect, asked, given["model"])
    where, fields, _ = sent(wire, Encoded(path=path, body=b"{}"), given["stream"])
    assert where == recorded["path"]
    same_credential(fields, recorded["headers"])
    assert (body["model"], body["stream"]) == (given["model"], given["stream"])
    assert [slim(one) for one in body["messages"]] == [slim(one) for one in given["messages"]]
    assert body.get("tools", []) == given.get("tools", [])
    assert bool(body.get("think")) == bool(given.get("think"))
    assert not body.get("options")


def slim(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without what ties a call to its result, which the recorder's client left out."""
    out = {key: value for key, value in message.items() if key not in ("tool_name", "tool_call_id") and value not in ("", None)}
    if "tool_calls" in out:
        out["tool_calls"] = [{"function": call["function"]} for call in out["tool_calls"]]
    return out


# ── Anthropic, from OpenAI's words ──


def blocks(content: Any) -> Any:
    """A text alone and a list of one text are the same there; marks for the cache are the client's own."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{key: value for key, value in one.items() if key != "cache_control"} for one in content]


@pytest.mark.parametrize(("name", "recorded"), of("anthropic"))
async def test_a_messages_request_survives_the_way_through_openais_words(load_text: LoadText, name: str, recorded: Any) -> None:
    """What a Messages client said, put into OpenAI's form and back into Anthropic's, is what it said."""
    given = recorded["body"]
    wire = wire_of(load_text, "anthropic", given["model"])
    request = MessagesClient().parse(json.dumps({**given, "model": "m"}).encode(), "chat", "messages")
    encoded = wire.dialect.encode(request.body, call_of(given, "chat/completions"))
    where, fields, body = sent(wire, encoded, request.stream)
    assert where == recorded["path"]
    same_credential(fields, recorded["headers"])
    for key in ("model", "max_tokens", "temperature"):
        assert body.get(key) == given.get(key), key
    assert bool(body.get("stream")) == bool(given.get("stream"))
    choice = {key: value for key, value in given.get("tool_choice", {}).items() if value is not False}
    assert body.get("tool_choice", {}) == choice
    assert blocks(body.get("system", [])) == blocks(given.get("system", []))
    assert [one["role"] for one in body["messages"]] == [one["role"] for one in given["messages"]]
    assert [shaped(one["content"]) for one in body["messages"]] == [shaped(one["content"]) for one in given["messages"]], name
    assert [one["input_schema"] for one in body.get("tools", [])] == [one["input_schema"] for one in given.get("tools", [])]


def shaped(content: Any) -> list[dict[str, Any]]:
    out = []
    for block in blocks(content):
        one = dict(block)
        if one["type"] == "tool_result":
            one["content"] = blocks(one["content"])
            if not one.get("is_error"):
                one.pop("is_error", None)
        out.append(one)
    return out
