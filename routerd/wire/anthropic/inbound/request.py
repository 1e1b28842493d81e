"""A Messages request of a client as an OpenAI chat body, for targets that speak anything but Anthropic.

`ModelRequest.native` keeps the client's own fields for a target that does (`native`), so nothing here need be reversible; texts,
schemas and arguments stay raw JSON. What OpenAI's form has no word for is left out and named in `ModelRequest.dropped`: whether
the request goes to such a target is not known here, so nothing but a broken request is refused.
Rules: system blocks are one system message; tool results are tool messages in front of the rest of their turn, their images
follow in the user's message; a failed result begins with "Error:". Thinking goes back to where it came from: `encoder` signs the
thinking of other engines with the name of the field that it came in, and under that name it returns (DeepSeek demands it in tool
loops, others refuse the field); thinking that Anthropic signed is of no use to others and stays out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from routerd.errors import BadRequest
from routerd.messages import ModelRequest
from routerd.wire.openai.body import parse_request

__all__ = ["DETAILS_MARK", "FIELD_MARK", "parse_count", "parse_messages"]

FIELD_MARK = "routerd.field."  # a signature: the field of the message that held this thinking
DETAILS_MARK = "routerd.details."  # a signature: its reasoning_details, as JSON in base64
MAX_USER_CHARS = 64  # OpenAI's limit for `user`; Claude Code's ids are longer

_EMPTY = msgspec.Raw(b"")
_THINKING_FIELDS = ("reasoning_content", "reasoning")
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
# Read below, or without meaning for the answer.
_KNOWN = frozenset(
    {
        "model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "stream", "tools",
        "tool_choice", "output_config", "metadata", "service_tier", "cache_control", "inference_geo", "diagnostics",
    }
)  # fmt: skip


class _Turn(msgspec.Struct):
    role: str
    content: msgspec.Raw = _EMPTY


class _Source(msgspec.Struct):
    type: str = ""
    media_type: str = ""
    data: msgspec.Raw = _EMPTY
    url: msgspec.Raw = _EMPTY
    content: Any = None


class _Block(msgspec.Struct):
    type: str
    text: msgspec.Raw = _EMPTY
    source: _Source | None = None
    title: str | None = None
    id: str = ""
    name: str = ""
    input: msgspec.Raw = _EMPTY
    tool_use_id: str = ""
    content: msgspec.Raw = _EMPTY
    is_error: bool | None = None
    thinking: str = ""
    signature: str = ""


class _Tool(msgspec.Struct):
    name: str = ""
    type: str | None = None
    description: msgspec.Raw = _EMPTY
    input_schema: msgspec.Raw = _EMPTY
    strict: bool | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


_decode_turns = msgspec.json.Decoder(list[_Turn]).decode
_decode_blocks = msgspec.json.Decoder(list[_Block]).decode
_decode_tools = msgspec.json.Decoder(list[_Tool] | None).decode
_decode_choice = msgspec.json.Decoder(_Choice | None).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def parse_messages(body: bytes) -> ModelRequest:
    """Parse a client's Messages request. Raises BadRequest, with `param` where one key is to blame."""
    request = parse_request(body, "chat", "chat/completions")
    native = request.body
    dropped: list[str] = []
    try:
        request.body = _chat_body(native, dropped)
    except _UNREADABLE as exc:
        raise BadRequest(f"The body is no Messages request: {exc}.", code="invalid_json") from None
    request.native = native
    request.dropped = tuple(dict.fromkeys(dropped))
    request.wants_usage = request.stream  # every Messages stream ends with its usage
    return request


def parse_count(body: bytes, operation: str, path: str) -> ModelRequest:
    """Parse a request to count the input of a Messages request: only a target of that API can answer it. Raises BadRequest."""
    request = parse_request(body, "chat", path)
    request.operation = operation
    request.native = request.body
    request.stream = False
    return request


def _chat_body(native: Mapping[str, Any], dropped: list[str]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": native["model"]}
    messages = [*_system(native.get("system")), *_messages(native["messages"], dropped)]
    if not messages:
        raise BadRequest("`messages` must not be empty.", param="messages")
    body["messages"] = msgspec.Raw(_encode(messages))
    for key, name in (("max_tokens",) * 2, ("temperature",) * 2, ("top_p",) * 2, ("top_k",) * 2, ("stop_sequences", "stop")):
        if _is_set(native, key):
            body[name] = native[key]
    if "stream" in native:
        body["stream"] = native["stream"]
    _tools(native, body, dropped)
    _output(native, body, dropped)
    metadata = _read(native, "metadata", _decode_object) or {}
    user = metadata.get("user_id")
    if user is not None and _is_text(user) and len(_decode_str(user)) <= MAX_USER_CHARS:
        body["user"] = user
    if _is_set(native, "service_tier") and bytes(native["service_tier"]) != b'"auto"':
        dropped.append("service_tier")
    dropped += [key for key in native if key not in _KNOWN and _is_set(native, key)]
    return body


def _is_set(native: Mapping[str, Any], key: str) -> bool:
    value = native.get(key)
    return value is not None and bytes(memoryview(value)[:5]) != b"null"


def _is_text(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b'"'


def _read(native: Mapping[str, Any], key: str, decode: Any) -> Any:
    raw = native.get(key)
    if raw is None:
        return None
    try:
        return decode(raw)
    except _UNREADABLE as exc:
        raise BadRequest(f"`{key}` is not as the Messages API has it: {exc}.", param=key) from None


def _texts(raw: msgspec.Raw, param: str) -> str:
    """Return a string, or the texts of an array of blocks with a blank line between them."""
    if _is_text(raw):
        return _decode_str(raw)
    blocks = _read({param: raw}, param, _decode_blocks)
    return "\n\n".join(_decode_str(b.text) for b in blocks if b.type == "text" and _is_text(b.text))


def _system(raw: msgspec.Raw | None) -> list[dict[str, Any]]:
    if raw is None or bytes(memoryview(raw)) == b"null":
        return []
    if _is_text(raw):
        return [{"role": "system", "content": raw}] if bytes(memoryview(raw)) != b'""' else []
    text = _texts(raw, "system")
    return [{"role": "system", "content": text}] if text else []


def _messages(raw: msgspec.Raw, dropped: list[str]) -> Iterator[dict[str, Any]]:
    turns = _read({"messages": raw}, "messages", _decode_turns)
    for i, turn in enumerate(turns):
        if turn.role not in ("user", "assistant", "system"):
            raise BadRequest(f"`messages[{i}].role` must be user or assistant.", param="messages")
        if _is_text(turn.content):
            yield {"role": turn.role, "content": turn.content}
            continue
        blocks = _read({"messages": turn.content}, "messages", _decode_blocks) if turn.content != _EMPTY else None
        if blocks is None:
            raise BadRequest(f"`messages[{i}]` needs a `content`.", param="messages")
        if turn.role == "assistant":
            yield from _assistant(blocks, dropped)
        elif turn.role == "user":
            yield from _user(blocks, dropped)
        else:
            yield {"role": "system", "content": _texts(turn.content, "messages")}


def _assistant(blocks: list[_Block], dropped: list[str]) -> Iterator[dict[str, Any]]:
    texts: list[msgspec.Raw] = []
    calls: list[dict[str, Any]] = []
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for block in blocks:
        if block.type == "text" and _is_text(block.text):
            texts.append(block.text)
        elif block.type == "tool_use":
            arguments = bytes(block.input).decode("utf-8", "replace") or "{}"
            calls.append({"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}})
        elif block.type == "thinking":
            _give_back(block, message)
        elif block.type != "redacted_thinking":
            dropped.append(f"messages.{block.type}"[:64])
    if texts:
        message["content"] = texts[0] if len(texts) == 1 else "".join(map(_decode_str, texts))
    elif not calls:
        message["content"] = ""
    if calls:
        message["tool_calls"] = calls
    if texts or calls or len(message) > 2:
        yield message


def _give_back(block: _Block, message: dict[str, Any]) -> None:
    """Put thinking under the field that it came in, where `encoder` has noted one."""
    field = block.signature.removeprefix(FIELD_MARK)
    if block.signature.startswith(FIELD_MARK) and field in _THINKING_FIELDS:
        message[field] = message.get(field, "") + block.thinking
    elif block.signature.startswith(DETAILS_MARK):
        try:
            details = _decode_any(base64.b64decode(block.signature[len(DETAILS_MARK) :], validate=True))
        except (binascii.Error, ValueError, *_UNREADABLE):
            return
        if isinstance(details, list):
            message["reasoning"] = message.get("reasoning", "") + block.thinking
            message["reasoning_details"] = [*message.get("reasoning_details", ()), *details]


def _user(blocks: list[_Block], dropped: list[str]) -> Iterator[dict[str, Any]]:
    later: list[dict[str, Any]] = []  # images of tool results: a tool message takes text only
    for block in blocks:
        if block.type == "tool_result":
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block, later, dropped)}
    parts = later + [p for b in blocks if b.type != "tool_result" and (p := _part(b, dropped)) is not None]
    if len(parts) == 1 and parts[0]["type"] == "text":
        yield {"role": "user", "content": parts[0]["text"]}
    elif parts:
        yield {"role": "user", "content": parts}


def _result(block: _Block, later: list[dict[str, Any]], dropped: list[str]) -> Any:
    texts: list[Any] = []
    if block.content == _EMPTY or bytes(memoryview(block.content)[:5]) == b"null":
        pass
    elif _is_text(block.content):
        texts.append(block.content)
    else:
        for inner in _read({"messages": block.content}, "messages", _decode_blocks):
            part = _part(inner, dropped)
            if part is not None:
                (texts if part["type"] == "text" else later).append(part["text"] if part["type"] == "text" else part)
    if len(texts) == 1 and not block.is_error:
        return texts[0]
    text = "\n".join(_decode_str(t) if isinstance(t, msgspec.Raw) else t for t in texts)
    return f"Error: {text}" if block.is_error and not text.lower().startswith("error") else text


def _part(block: _Block, dropped: list[str]) -> dict[str, Any] | None:
    source = block.source
    if block.type == "text" and _is_text(block.text):
        return {"type": "text", "text": block.text}
    if block.type == "image" and source is not None and (url := _url_of(source)) is not None:
        return {"type": "image_url", "image_url": {"url": url}}
    if block.type == "document" and source is not None:
        if source.type == "text" and _is_text(source.data):
            return {"type": "text", "text": source.data}
        if source.type == "content" and isinstance(source.content, str):
            return {"type": "text", "text": source.content}
        if (url := _url_of(source)) is not None:
            return {"type": "file", "file": {"filename": block.title or "document.pdf", "file_data": url}}
    dropped.append(f"messages.{block.type}"[:64])
    return None


def _url_of(source: _Source) -> Any:
    """Return the URL or the data URI, whose megabytes stay raw."""
    if source.type == "url" and _is_text(source.url):
        return source.url
    if source.type == "base64" and _is_text(source.data):
        head = msgspec.json.encode(f"data:{source.media_type};base64,")
        return msgspec.Raw(head[:-1] + bytes(source.data)[1:])
    return None


def _tools(native: Mapping[str, Any], body: dict[str, Any], dropped: list[str]) -> None:
    tools: list[dict[str, Any]] = []
    for tool in _read(native, "tools", _decode_tools) or ():
        if tool.type not in (None, "custom"):
            dropped.append(f"tools.{tool.type}"[:64])  # it runs at Anthropic, or has a schema that only Claude knows
            continue
        function: dict[str, Any] = {"name": tool.name}
        if tool.description != _EMPTY:
            function["description"] = tool.description
        if tool.input_schema != _EMPTY:
            function["parameters"] = tool.input_schema
        if tool.strict:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    choice = _read(native, "tool_choice", _decode_choice)
    if not tools:
        return
    body["tools"] = tools
    if choice is None:
        return
    if choice.type == "tool":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.type in _TOOL_CHOICES:
        body["tool_choice"] = _TOOL_CHOICES[choice.type]
    else:
        raise BadRequest("`tool_choice.type` must be auto, any, tool or none.", param="tool_choice")
    if choice.disable_parallel_tool_use:
        body["parallel_tool_calls"] = False


def _output(native: Mapping[str, Any], body: dict[str, Any], dropped: list[str]) -> None:
    """Translate effort and format. `thinking` has no counterpart that engines without reasoning do not refuse, so it is named."""
    config = _read(native, "output_config", _decode_object) or {}
    for key, raw in config.items():
        if bytes(memoryview(raw)) == b"null":
            continue
        value = _decode_any(raw)
        if key == "effort" and isinstance(value, str) and value in _EFFORTS:
            body["reasoning_effort"] = value if value != "max" else "xhigh"
        elif key == "format" and isinstance(value, dict) and value.get("type") == "json_schema" and "schema" in value:
            schema = {"name": "answer", "schema": value["schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        else:
            dropped.append(f"output_config.{key}"[:64])
