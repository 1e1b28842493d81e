"""A whole Messages answer as an OpenAI chat completion.

Text blocks are joined to `content` (null where there are none); tool calls keep their input's own JSON text; thinking is
`reasoning_content`, and again, with its signature, in `reasoning_details`: send that back and `prompt` restores the blocks, which
the API demands in a tool loop. Citations stand beside the text, as they came. Blocks of server tools say nothing to an OpenAI
client and stay out.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.wire.anthropic.outbound.prompt import DETAILS_FORMAT
from routerd.wire.anthropic.outbound.tools import JSON_TOOL
from routerd.wire.anthropic.tokens import FINISH_OF_STOP, counts_of
from routerd.wire.dialect import Call
from routerd.wire.faults.classify import classify_value
from routerd.wire.foreign import read_json
from routerd.wire.openai.answer import UnaryAnswer

__all__ = ["Block", "Message", "decode", "mend", "named", "read_message", "refusal_of", "thinking_detail"]

EMPTY = msgspec.Raw(b"")


class Block(msgspec.Struct):
    """One content block of any kind."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = EMPTY
    citations: Any = None


class Message(msgspec.Struct):
    """A whole answer, or an error in its place."""

    content: list[Block] | None = None
    id: Any = None
    model: Any = None
    stop_reason: Any = None
    stop_details: Any = None
    usage: Any = None
    error: Any = None


_HALF_PAIR = re.compile("[\ud800-\udfff]")
_decode = msgspec.json.Decoder(Message).decode
_encode = msgspec.json.encode


def read_message(body: bytes) -> Message:
    """Parse the body of a 200. Raises ProtocolFault where it is empty, not JSON or no message."""
    if body.startswith(codecs.BOM_UTF8):
        body = body[3:]
    try:
        message = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        message = _read_patiently(body)
    if message.content is None and not message.error:
        raise ProtocolFault("the upstream's answer holds no content")
    return message


def _read_patiently(body: bytes) -> Message:
    if not body.strip():
        raise ProtocolFault("the upstream answered 200 with an empty body")
    try:
        mended, value = mend(body)
    except ValueError:
        raise ProtocolFault("the upstream answered 200 with a body that is not JSON") from None
    try:
        return _decode(mended)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        if isinstance(value, dict) and value.get("error"):
            return Message(error=value["error"])
        raise ProtocolFault("the upstream answered 200 with JSON of another shape") from None


def mend(body: bytes) -> tuple[bytes, Any]:
    """Return the JSON with every half surrogate pair replaced, and its value as it was. Raises ValueError where it is none.

    Engines that cut an emoji between two tokens send halves; the grammar allows them, UTF-8 has no bytes for them.
    """
    value = read_json(body)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", text).encode(), value


def decode(body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
    """Return the chat completion and what routing must know. Raises ProtocolFault."""
    message = read_message(body)
    if message.error:
        return b"", UnaryAnswer(error=classify_value(message.error))
    try:
        content, finish = _openai_message(message)
        counts = counts_of(message.usage)
        encoded = _encode(
            {
                "id": message.id if isinstance(message.id, str) and message.id else f"chatcmpl-{call.answer_id}",
                "object": "chat.completion",
                "created": call.created_unix_s,
                "model": call.asked_model or (message.model if isinstance(message.model, str) else call.model),
                "choices": [{"index": 0, "message": content, "finish_reason": finish, "logprobs": None}],
                **({"usage": counts.openai()} if counts is not None else {}),
            }
        )
    except (UnicodeError, RecursionError):
        raise ProtocolFault("the upstream's answer holds text that is not Unicode") from None
    answer = UnaryAnswer(
        usage=counts.usage() if counts is not None else None,
        response_model=message.model if isinstance(message.model, str) else None,
        finish_reason=finish,
    )
    return encoded, answer


def _openai_message(message: Message) -> tuple[dict[str, Any], str]:
    texts: list[str] = []
    thoughts: list[str] = []
    details: list[dict[str, Any]] = []
    citations: list[Any] = []
    calls: list[dict[str, Any]] = []
    for block in message.content or ():
        if block.type == "text":
            texts.append(block.text or "")
            citations += block.citations if isinstance(block.citations, list) else ()
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
            details.append(thinking_detail(block, len(details)))
        elif block.type == "redacted_thinking":
            details.append(thinking_detail(block, len(details)))
        elif block.type == "tool_use":
            arguments = bytes(block.input).decode("utf-8", "replace").strip() or "{}"
            if block.name == JSON_TOOL:
                texts.append(arguments)
            else:
                function = {"name": named(block.name), "arguments": arguments}
                calls.append({"id": named(block.id), "type": "function", "function": function})
    out: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    out["refusal"] = refusal_of(message.stop_reason, message.stop_details)
    if any(thoughts):
        out["reasoning_content"] = "".join(thoughts)
    if details:
        out["reasoning_details"] = details
    if citations:
        out["citations"] = citations
    if calls:
        out["tool_calls"] = calls
    finish = FINISH_OF_STOP.get(message.stop_reason if isinstance(message.stop_reason, str) else "", "stop")
    if finish == "tool_calls" and not calls:
        finish = "stop"  # only the tool that stands for response_format
    return out, finish


def named(value: Any) -> str:
    """Return a name or an id, empty where it is no text."""
    return value if isinstance(value, str) else ""


def thinking_detail(block: Block, index: int) -> dict[str, Any]:
    """Return a thinking block as an entry of reasoning_details."""
    if block.type == "redacted_thinking":
        return {"type": "reasoning.encrypted", "data": block.data, "format": DETAILS_FORMAT, "index": index}
    return {
        "type": "reasoning.text",
        "text": block.thinking or "",
        "signature": block.signature or "",
        "format": DETAILS_FORMAT,
        "index": index,
    }


def refusal_of(stop_reason: Any, details: Any) -> str | None:
    """Return why the model refused, where it did and says so."""
    if stop_reason != "refusal" or not isinstance(details, dict):
        return None
    explanation = details.get("explanation")
    return explanation if isinstance(explanation, str) and explanation else None
