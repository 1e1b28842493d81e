"""What the APIs of providers answer, in their own words: the same few things said in every dialect."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["VENDORS", "Vendor"]

TEXT = "Hello there"
TOOL = "weather"
ARGUMENTS = {"city": "Rome"}
FAILED = "the engine fell over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """The answers of one dialect. A stream is its events; `broken` ends after some text with an error."""

    path: str  # behind the upstream's address
    kind: str  # the media type of a stream
    text: Any
    call: Any
    short: Any  # cut at the limit
    error: Any  # the body of a 400 whose message is FAILED
    text_stream: bytes
    call_stream: bytes
    broken_stream: bytes


def _sse(*events: Any, end: str = "\n") -> bytes:
    out = []
    for event in events:
        name = f"event: {event['type']}{end}" if isinstance(event, dict) and "type" in event else ""
        out.append(f"{name}data: {event if isinstance(event, str) else json.dumps(event)}{end}{end}")
    return "".join(out).encode()


def _openai() -> Vendor:
    def whole(message: dict[str, Any], finish: str) -> Any:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice], "usage": usage}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> Any:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [choice]}

    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    call = {"id": "call_1", "type": "function", "function": {"name": TOOL, "arguments": json.dumps(ARGUMENTS)}}
    return Vendor(
        path="/v1",
        kind="text/event-stream",
        text=whole({"content": TEXT}, "stop"),
        call=whole({"content": None, "tool_calls": [call]}, "tool_calls"),
        short=whole({"content": TEXT}, "length"),
        error={"error": {"message": FAILED, "type": "invalid_request_error", "code": None}},
        text_stream=_sse(chunk({"content": "Hello "}), chunk({"content": "there"}), chunk({}, "stop"), "[DONE]"),
        call_stream=_sse(chunk({"tool_calls": [{"index": 0, **call}]}), chunk({}, "tool_calls"), "[DONE]"),
        broken_stream=_sse(chunk({"content": "Hello "}), {"error": {"message": FAILED}}),
    )


def _anthropic() -> Vendor:
    def whole(block: Any, reason: str) -> Any:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "x", "content": [block]}
        return {**message, "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 11, "output_tokens": 3}}

    def stream(block: Any, deltas: list[Any], reason: str) -> list[Any]:
        opening = {**whole(block, reason), "content": [], "stop_reason": None}
        return [
            {"type": "message_start", "message": opening},
            {"type": "content_block_start", "index": 0, "content_block": block},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 3}},
            {"type": "message_stop"},
        ]

    texts = [{"type": "text_delta", "text": "Hello "}, {"type": "text_delta", "text": "there"}]
    said = stream({"type": "text", "text": ""}, texts, "end_turn")
    call = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {}}
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": FAILED}}
    return Vendor(
        path="",
        kind="text/event-stream",
        text=whole({"type": "text", "text": TEXT}, "end_turn"),
        call=whole({**call, "input": ARGUMENTS}, "tool_use"),
        short=whole({"type": "text", "text": TEXT}, "max_tokens"),
        error=error,
        text_stream=_sse(*said),
        call_stream=_sse(*stream(call, [{"type": "input_json_delta", "partial_json": json.dumps(ARGUMENTS)}], "tool_use")),
        broken_stream=_sse(*said[:3], error),
    )


def _gemini() -> Vendor:
    def answer(part: Any, finish: str | None = "STOP") -> Any:
        candidate = {"content": {"role": "model", "parts": [part]}, "index": 0}
        counts = {"promptTokenCount": 11, "candidatesTokenCount": 3, "totalTokenCount": 14}
        return {"candidates": [{**candidate, **({"finishReason": finish} if finish else {})}], "usageMetadata": counts}

    call = {"functionCall": {"name": TOOL, "args": ARGUMENTS}}
    error = {"error": {"code": 400, "message": FAILED, "status": "INVALID_ARGUMENT"}}
    return Vendor(
        path="/v1beta",
        kind="text/event-stream",
        text=answer({"text": TEXT}),
        call=answer(call),
        short=answer({"text": TEXT}, "MAX_TOKENS"),
        error=error,
        text_stream=_sse(answer({"text": "Hello "}, None), answer({"text": "there"}), end="\r\n"),
        call_stream=_sse(answer(call), end="\r\n"),
        broken_stream=_sse(answer({"text": "Hello "}, None), error, end="\r\n"),
    )


def _ollama() -> Vendor:
    def answer(message: Any, reason: str | None = "stop") -> Any:
        end = {"done": True, "done_reason": reason, "prompt_eval_count": 11, "eval_count": 3} if reason else {"done": False}
        return {"model": "x", "created_at": "2025-01-01T00:00:00Z", "message": {"role": "assistant", **message}, **end}

    def lines(*values: Any) -> bytes:
        return b"".join(json.dumps(value).encode() + b"\n" for value in values)

    call = {"content": "", "tool_calls": [{"function": {"name": TOOL, "arguments": ARGUMENTS}}]}
    end = answer({"content": ""})
    return Vendor(
        path="",
        kind="application/x-ndjson",
        text=answer({"content": TEXT}),
        call=answer(call),
        short=answer({"content": TEXT}, "length"),
        error={"error": FAILED},
        text_stream=lines(answer({"content": "Hello "}, None), answer({"content": "there"}, None), end),
        call_stream=lines(answer(call, None), end),
        broken_stream=lines(answer({"content": "Hello "}, None), {"error": FAILED}),
    )


def _cohere() -> Vendor:
    def whole(message: Any, reason: str) -> Any:
        usage = {"tokens": {"input_tokens": 11, "output_tokens": 3}}
        return {"id": "i", "message": {"role": "assistant", **message}, "finish_reason": reason, "usage": usage}

    def event(kind: str, message: Any, **more: Any) -> Any:
        return {"type": kind, "delta": {"message": message}, **more}

    def end(reason: str, **more: Any) -> Any:
        return {"type": "message-end", "delta": {"finish_reason": reason, **more}}

    def text(said: str) -> Any:
        return event("content-delta", {"content": {"text": said}}, index=0)

    start = event("message-start", {"role": "assistant", "content": [], "tool_calls": []}, id="i")
    function = {"name": TOOL, "arguments": json.dumps(ARGUMENTS)}
    opening = {"id": "call_1", "type": "function", "function": {"name": TOOL, "arguments": ""}}
    rest = {"function": {"arguments": json.dumps(ARGUMENTS)}}
    return Vendor(
        path="",
        kind="text/event-stream",
        text=whole({"content": [{"type": "text", "text": TEXT}]}, "COMPLETE"),
        call=whole({"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}, "TOOL_CALL"),
        short=whole({"content": [{"type": "text", "text": TEXT}]}, "MAX_TOKENS"),
        error={"id": "i", "message": FAILED},
        text_stream=_sse(start, text("Hello "), text("there"), end("COMPLETE"), "[DONE]"),
        call_stream=_sse(
            start,
            event("tool-call-start", {"tool_calls": opening}, index=0),
            event("tool-call-delta", {"tool_calls": rest}, index=0),
            end("TOOL_CALL"),
        ),
        broken_stream=_sse(start, text("Hello "), end("ERROR", error=FAILED)),
    )


VENDORS = {"openai": _openai(), "anthropic": _anthropic(), "gemini": _gemini(), "ollama": _ollama(), "cohere": _cohere()}
