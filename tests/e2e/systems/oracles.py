"""What a recorded answer says, by other means than routerd's: read as the vendor's own description has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.wire.transcripts import Recorded

_STOPS = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length",
    "STOP": "stop", "MAX_TOKENS": "length",
}  # fmt: skip


@dataclass(slots=True)
class Told:
    """What a user has at the end of an answer. `calls`: name and arguments; `finish` in OpenAI's words."""

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    finish: str | None = None
    tokens: tuple[int, int] | None = None  # all that went in, all that came out


def finish_of(reason: str | None) -> str | None:
    """Say a stop reason in OpenAI's words."""
    return _STOPS.get(reason, reason) if reason is not None else None


def expected(recorded: Recorded) -> Told:
    """Return what this recording says."""
    family = recorded.name.partition("/")[0]
    read = {"anthropic": _anthropic, "gemini": _gemini, "ollama": _ollama}.get(family, _openai)
    told = read(list(_objects(recorded.body)))
    if told.calls and told.finish == "stop" and family in ("gemini", "ollama"):
        told.finish = "tool_calls"  # both say "stop" where they call a tool
    return told


def _objects(body: bytes) -> Iterator[Any]:
    """Yield the JSON values of an answer: of a whole one, an event stream, JSON lines."""
    try:
        yield json.loads(body)
        return
    except ValueError:
        pass
    for line in body.decode().splitlines():
        text = line.removeprefix("data:").strip()
        if text.startswith("{"):
            yield json.loads(text)


def _openai(values: list[Any]) -> Told:
    told, parts = Told(), dict[int, list[str]]()
    for value in values:
        for choice in value["choices"]:
            message = choice.get("message") or choice["delta"]
            told.text += message.get("content") or ""
            for at, call in enumerate(message.get("tool_calls") or ()):
                name, arguments = call["function"].get("name") or "", call["function"].get("arguments") or ""
                entry = parts.setdefault(call.get("index", at), ["", ""])
                entry[0] += name
                entry[1] += arguments
            told.finish = choice.get("finish_reason") or told.finish
        if usage := value.get("usage"):
            told.tokens = (usage["prompt_tokens"], usage["completion_tokens"])
    told.calls = [(name, json.loads(arguments or "{}")) for name, arguments in parts.values()]
    return told


def _anthropic(values: list[Any]) -> Told:
    told, blocks, usage = Told(), dict[int, list[Any]](), dict[str, Any]()
    for value in values:
        kind = value["type"]
        if kind in ("message", "message_start"):
            message = value if kind == "message" else value["message"]
            usage |= message["usage"]
            told.finish = finish_of(message["stop_reason"])
            for at, block in enumerate(message["content"]):
                blocks[at] = [block, ""]
        elif kind == "content_block_start":
            blocks[value["index"]] = [value["content_block"], ""]
        elif kind == "content_block_delta":
            delta = value["delta"]
            blocks[value["index"]][1] += delta.get("text") or delta.get("partial_json") or ""
        elif kind == "message_delta":
            told.finish = finish_of(value["delta"]["stop_reason"])
            usage |= value["usage"]
    for _, (block, more) in sorted(blocks.items()):
        if block["type"] == "text":
            told.text += block["text"] + more
        elif block["type"] == "tool_use":
            told.calls.append((block["name"], json.loads(more) if more else block["input"]))
    read = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)
    told.tokens = (read, usage["output_tokens"])
    return told


def _gemini(values: list[Any]) -> Told:
    told = Told()
    for value in values:
        for candidate in value.get("candidates", ())[:1]:
            for part in candidate.get("content", {}).get("parts", ()):
                if "functionCall" in part:
                    told.calls.append((part["functionCall"]["name"], part["functionCall"].get("args", {})))
                elif not part.get("thought"):
                    told.text += part.get("text", "")
            told.finish = finish_of(candidate.get("finishReason")) or told.finish
        usage = value["usageMetadata"]
        out = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
        told.tokens = (usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0), out)
    return told


def _ollama(values: list[Any]) -> Told:
    told = Told()
    for value in values:
        told.text += value["message"].get("content", "")
        for call in value["message"].get("tool_calls", ()):
            told.calls.append((call["function"]["name"], call["function"]["arguments"]))
        if value["done"]:
            told.finish = value["done_reason"]
            told.tokens = (value["prompt_eval_count"], value["eval_count"])
    return told
