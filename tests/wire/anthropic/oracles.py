"""The vendors' own SDKs as judges: what they make of the bytes is what a client will see."""

from __future__ import annotations

import json
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message
from openai.types.chat import ChatCompletion, ChatCompletionChunk


def anthropic_message(stream: bytes) -> dict[str, Any]:
    """Let Anthropic's SDK accumulate a stream; return the final message as JSON."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in stream.decode().split("\n\n"):
        data = next((line[6:] for line in event.split("\n") if line.startswith("data: ")), "")
        value = json.loads(data) if data else {"type": "ping"}
        name = next((line[7:] for line in event.split("\n") if line.startswith("event: ")), "")
        assert not data or name == value["type"]
        if value["type"] in ("ping", "error"):
            continue
        snapshot = accumulate_event(event=value, current_snapshot=snapshot, json_bufs=buffers)
    message = json.loads(snapshot.to_json())
    Message.model_validate(message)
    return message


def openai_chunks(stream: bytes) -> list[ChatCompletionChunk]:
    """Return the chunks of a stream as OpenAI's SDK sees them; the stream must end with [DONE]."""
    events = [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event]
    assert events[-1] == "[DONE]"
    return [ChatCompletionChunk.model_validate(json.loads(event), strict=True) for event in events[:-1]]


def openai_completion(body: bytes) -> ChatCompletion:
    """Return a completion as OpenAI's SDK sees it."""
    return ChatCompletion.model_validate(json.loads(body), strict=True)


def joined(chunks: list[ChatCompletionChunk]) -> dict[str, Any]:
    """Return what a client has after the last chunk: content, reasoning, calls, finish."""
    content: list[str] = []
    thoughts: list[str] = []
    details: list[Any] = []
    calls: dict[int, dict[str, str]] = {}
    finish = None
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta.model_dump()
            content.append(delta.get("content") or "")
            thoughts.append(delta.get("reasoning_content") or "")
            details += delta.get("reasoning_details") or []
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                if call.index not in calls:
                    assert call.id is not None
                    calls[call.index] = {"id": call.id, "name": call.function.name or "", "arguments": ""}
                calls[call.index]["arguments"] += call.function.arguments or ""
    return {
        "content": "".join(content),
        "reasoning": "".join(thoughts),
        "details": details,
        "calls": [calls[i] for i in sorted(calls)],
        "finish": finish,
    }
