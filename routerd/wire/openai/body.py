"""The OpenAI dialect, request side: parse a client's body, apply the route's edits once, encode for each target.

Only the top level becomes Python objects. Every other value stays raw JSON and is copied byte for byte, so a conversation of
1 MB costs one scan and one copy, and what no rule touches reaches the upstream exactly as it was written.

Rules on foreign bytes: a UTF-8 BOM is skipped; invalid UTF-8, NaN, Infinity, unpaired surrogate escapes and nesting deeper than
the interpreter's recursion limit are a BadRequest; of duplicate keys the last one wins, at the place of the first; numbers of any
size pass through unread unless a clamp names them. `null` means "not set", as in OpenAI's own schema.
Knows nothing of targets, credentials or HTTP.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import BadRequest
from routerd.graph import Clamp, Params, SystemPrompt
from routerd.messages import ModelRequest
from routerd.wire.openai.response_format import nested

MAX_MODEL_CHARS = 256  # the longest public model ids are under 100
MAX_RESERVED_TOKENS = 10_000_000  # above the output of any model; a client's fantasy number must not overflow a counter
_UTF8_PIECE_BYTES = 256 * 1024  # bounds the text that the UTF-8 check holds at a time

# What a request cannot be without. Responses may take a stored `prompt` for `input`; tokenize takes one of three.
_CONTENT_KEY = {
    "chat": "messages",
    "completion": "prompt",
    "embedding": "input",
    "image": "prompt",
    "moderation": "input",
    "rerank": "query",
    "speech": "input",
}
_SYSTEM_ROLES = frozenset({"system", "developer"})
# Two names for one limit: old and new spelling of OpenAI.
_LIMIT_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_NULL = b"null"
_BRACKET = ord("[")
_N = ord("n")
_BLANK_OR_CLOSE = frozenset(b" \t\r\n]")

# The recursion limit counts the caller's frames too: what parsed once can still be too deep for a second look.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder().decode


class _Role(msgspec.Struct):
    role: str


class _IncludeUsage(msgspec.Struct):
    include_usage: bool | None = None


_decode_roles = msgspec.json.Decoder(list[_Role]).decode
_decode_options = msgspec.json.Decoder(_IncludeUsage | None).decode


def parse_request(body: bytes, operation: str, path: str) -> ModelRequest:
    """Parse a client's body to its top level. Raises BadRequest, with `param` where one key is to blame."""
    fields = _parse_object(body)
    model = _model_of(fields.get("model"))
    _check_content(fields, operation)
    stream = False
    raw = fields.get("stream")
    if raw is not None and operation != "embedding":
        stream = _bool_of(bytes(raw), "stream")
    wants_usage = False
    raw = fields.get("stream_options")
    if raw is not None:
        wants_usage = _wants_usage(raw)
    return ModelRequest(
        operation=operation,
        path=path,
        model=model,
        body=fields,
        stream=stream,
        wants_usage=wants_usage,
        size_bytes=len(body),
    )


def take_provider(request: ModelRequest) -> str | None:
    """Take out of the body the provider that a client names by a string; None: it names none. An object is OpenRouter's own."""
    raw = request.body.get("provider")
    if raw is None or bytes(memoryview(raw)[:1]) != b'"':
        return None
    try:
        name = _decode_str(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("`provider` must be the name of a provider.", param="provider") from None
    del request.body["provider"]
    return name


def _parse_object(body: bytes) -> dict[str, Any]:
    if not body.isascii():
        body = _checked_utf8(body)
    try:
        return _decode_object(body)
    except msgspec.ValidationError:
        raise BadRequest("The body must be a JSON object.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        if not body.strip():
            raise BadRequest("The body is empty; it must be a JSON object.", code="invalid_json") from None
        raise BadRequest(f"The body is not valid JSON: {_reason(exc)}.", code="invalid_json") from None


def _reason(exc: Exception) -> str:
    text = str(exc).removeprefix("JSON is malformed: ")
    # msgspec says "truncated" for half a surrogate pair as well.
    return "it ends too early, or holds half a surrogate pair" if text == "Input data was truncated" else text


def _checked_utf8(body: bytes) -> bytes:
    """Return `body` without a BOM, or raise BadRequest: the JSON scan itself does not look into strings."""
    if body.startswith(codecs.BOM_UTF8):
        body = body[3:]
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for start in range(0, len(view), _UTF8_PIECE_BYTES):
            decoder.decode(view[start : start + _UTF8_PIECE_BYTES])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", code="invalid_json") from None
    return body


def _model_of(raw: msgspec.Raw | None) -> str:
    if raw is None:
        raise BadRequest("You must provide a `model`.", param="model")
    try:
        model = _decode_str(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("`model` must be a string.", param="model") from None
    if not model or model.isspace():
        raise BadRequest("`model` must not be empty.", param="model")
    if len(model) > MAX_MODEL_CHARS:
        raise BadRequest(f"`model` is longer than {MAX_MODEL_CHARS} characters.", param="model")
    if not model.isprintable():
        raise BadRequest("`model` holds control characters.", param="model")
    return model


def _check_content(fields: Mapping[str, msgspec.Raw], operation: str) -> None:
    key = _CONTENT_KEY.get(operation)
    if key is None:
        return
    raw = fields.get(key)
    view = memoryview(raw) if raw is not None else _NULL
    if view[0] == _N:  # the only JSON that begins so is `null`
        raise BadRequest(f"You must provide `{key}`.", param=key)
    if operation != "chat":
        return
    if view[0] != _BRACKET:
        raise BadRequest("`messages` must be an array.", param="messages")
    if view[1] in _BLANK_OR_CLOSE and bytes(view[1:]).lstrip(b" \t\r\n")[:1] == b"]":
        raise BadRequest("`messages` must not be empty.", param="messages")


def _bool_of(raw: bytes, param: str) -> bool:
    if raw == b"true":
        return True
    if raw in (b"false", _NULL):
        return False
    raise BadRequest(f"`{param}` must be true or false.", param=param)


def _wants_usage(raw: msgspec.Raw) -> bool:
    try:
        options = _decode_options(raw)
    except _UNREADABLE:
        raise BadRequest(
            "`stream_options` must be an object whose `include_usage` is true or false.", param="stream_options"
        ) from None
    return options is not None and options.include_usage is True


def prepare_body(request: ModelRequest, *, system_prompt: SystemPrompt | None, params: Params) -> dict[str, Any]:
    """Return the body with the route's system prompt and parameters applied; `request.body` itself is left as it is.

    Parameters in the order drop, defaults, clamp, force. `max_tokens` and `max_completion_tokens` are one limit: a default for
    one is not set beside the other, a clamp of one bounds both, forcing one removes the other. A system prompt and the
    form of a schema apply to chat only. Raises BadRequest where a value that a rule must read has the wrong type.
    """
    body = dict(request.body)
    if system_prompt is not None and request.operation == "chat":
        body["messages"] = _with_prompt(body["messages"], system_prompt)
    if "response_format" in body and request.operation == "chat":
        body["response_format"] = nested(body["response_format"])
    return apply_params(body, params) if params else body


def apply_params(body: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Return `body` with drop, defaults, clamp and force applied: for the route once, for a target that has its own."""
    body = dict(body)
    for key in params.drop:
        body.pop(key, None)
    for key, value in params.defaults.items():
        if not _is_set(body, key) and not _is_set(body, _LIMIT_TWINS.get(key, key)):
            body[key] = value
    for key, clamp in params.clamp.items():
        _clamp(body, key, clamp)
        twin = _LIMIT_TWINS.get(key)
        if twin is not None and twin not in params.clamp:
            _clamp(body, twin, clamp)
    for key, value in params.force.items():
        if key in _LIMIT_TWINS:
            body.pop(_LIMIT_TWINS[key], None)
        body[key] = value
    return body


def _is_set(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if isinstance(value, msgspec.Raw):
        return bytes(memoryview(value)[:5]) != _NULL
    return value is not None


def _clamp(body: dict[str, Any], key: str, clamp: Clamp) -> None:
    if not _is_set(body, key):
        return
    value = body[key]
    if isinstance(value, msgspec.Raw):
        value = _small_value(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRequest(f"`{key}` must be a number.", param=key)
    bound: float | None = None
    if clamp.min is not None and value < clamp.min:
        bound = clamp.min
    elif clamp.max is not None and value > clamp.max:
        bound = clamp.max
    if bound is not None:  # in range: the client's own bytes stay
        body[key] = int(bound) if isinstance(value, int) and float(bound).is_integer() else bound


def _small_value(raw: msgspec.Raw) -> Any:
    if len(memoryview(raw)) > 400:  # longer than any double; an int this long would cost time to read
        return None
    try:
        return _decode_any(raw)
    except _UNREADABLE:
        return None


def _with_prompt(raw: Any, prompt: SystemPrompt) -> list[Any]:
    """Place the operator's prompt among the messages.

    1. if_missing: in front, when the client sent no system (or developer) message.
    2. replace: in front; the client's system messages are removed.
    3. prepend, append: joined before the first or after the last system message's own text (many chat templates refuse a second
       system message); in front when there is none.
    """
    try:
        messages: list[Any] = _decode_array(raw)
        roles = _decode_roles(raw)
    except _UNREADABLE:
        raise BadRequest("`messages` must be an array of objects with a `role`.", param="messages") from None
    system = [i for i, message in enumerate(roles) if message.role in _SYSTEM_ROLES]
    own = {"role": "system", "content": prompt.text}
    if prompt.mode == "replace":
        drop = set(system)
        return [own, *(message for i, message in enumerate(messages) if i not in drop)]
    if not system:
        return [own, *messages]
    if prompt.mode == "prepend":
        messages[system[0]] = _joined(messages[system[0]], prompt.text, in_front=True)
    elif prompt.mode == "append":
        messages[system[-1]] = _joined(messages[system[-1]], prompt.text, in_front=False)
    return messages


def _joined(raw: msgspec.Raw, text: str, *, in_front: bool) -> dict[str, Any]:
    try:
        message: dict[str, Any] = _decode_object(raw)
        content = message.get("content")
        value = None if content is None else _decode_any(content)
    except _UNREADABLE:
        raise BadRequest("The `content` of a system message must be text.", param="messages") from None
    if isinstance(value, list):
        part = {"type": "text", "text": text}
        message["content"] = [part, *value] if in_front else [*value, part]
    elif isinstance(value, str) and value:
        message["content"] = f"{text}\n\n{value}" if in_front else f"{value}\n\n{text}"
    elif value is None or value == "":
        message["content"] = text
    else:
        raise BadRequest("The `content` of a system message must be text.", param="messages")
    return message


def max_tokens_of(body: Mapping[str, Any]) -> int | None:
    """Return how many tokens the answer may have, or None where nobody said, for the reservation of token budgets."""
    for key in _LIMIT_TWINS:
        value = body.get(key)
        if value.__class__ is msgspec.Raw:
            value = _small_value(value)
        if value.__class__ is int and value >= 0:  # no bool
            return value if value < MAX_RESERVED_TOKENS else MAX_RESERVED_TOKENS
    return None


def choices_of(body: Mapping[str, Any]) -> int:
    """Return how many choices are asked for: `n`, where it says so, else 1. For each prompt, where there are several."""
    value = body.get("n")
    if isinstance(value, msgspec.Raw):
        value = _small_value(value)
    return value if isinstance(value, int) and value > 1 else 1


def encode_body(body: Mapping[str, Any], *, model: str, extra: Mapping[str, Any], include_usage: bool) -> bytes:
    """Encode for one target: its model name, the provider's static fields (merged into objects, winning at leaves), and, for a
    stream whose usage routerd must see, `stream_options.include_usage`. Everything untouched keeps its bytes.
    """
    out = dict(body)
    out["model"] = model
    for key, value in extra.items():
        out[key] = _merged(out.get(key), value)
    if include_usage:
        out["stream_options"] = _merged(out.get("stream_options"), {"include_usage": True})
    return _encode(out)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping):
        return new
    if isinstance(old, msgspec.Raw):
        if bytes(memoryview(old)[:1]) != b"{":
            return new
        old = _object_of(old)
    if not isinstance(old, Mapping):
        return new
    out = dict(old)
    for key, value in new.items():
        out[key] = _merged(out.get(key), value)
    return out


def _object_of(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        return _decode_object(raw)
    except _UNREADABLE:
        raise BadRequest("The body is nested too deeply.", code="invalid_json") from None


def _plain(value: Any) -> Any:
    """Read-only mappings of the graph become dicts; msgspec knows everything else that YAML can give."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot encode {type(value).__name__} as JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
