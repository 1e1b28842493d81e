"""OpenAI requests as typed records: what dialects that translate read instead of raw JSON.

One decode of the fields that are set; `null` means "not set". What has the wrong type is a BadRequest that names the place
(`messages[2].content[0].text`). What no dialect can express is refused here, once (`refuse`); what a dialect has no word for and
the answer can do without is collected by `unknown`.
Knows no provider: how a part or a tool is written for one is its dialect's affair.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from routerd.errors import BadRequest
from routerd.wire.dialect import Call

__all__ = [
    "Chat",
    "Function",
    "Message",
    "Part",
    "ToolCall",
    "arguments_of",
    "data_uri",
    "dump",
    "joined_text",
    "merged",
    "read_chat",
    "read_fields",
    "refuse",
    "unknown",
]

_Record = TypeVar("_Record")

MAX_NAME_CHARS = 64  # of a parameter that is named in a header

# Of the request itself, not of the model: a dialect writes them in its own way.
_FRAME = frozenset({"model", "messages", "prompt", "stream", "stream_options"})
# Without these the answer would be another one than was asked for, and no translated dialect has a word for them.
_NOWHERE = {
    "logit_bias": "a bias of single tokens",
    "audio": "spoken answers",
    "functions": "`functions`; send `tools`",
    "function_call": "`function_call`; send `tool_choice`",
    "web_search_options": "a web search of its own",
    "suffix": "a `suffix`",
    "echo": "an echo of the prompt",
    "best_of": "`best_of`",
}
_HARMLESS = frozenset({b"null", b"false", b"{}", b"[]", b'""', b'"none"', b'"auto"', b"1"})


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _Audio(msgspec.Struct):
    data: str
    format: str = "wav"


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None
    url: str | None = None


class Part(msgspec.Struct):
    """One part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    input_audio: _Audio | None = None
    file: _File | None = None

    @property
    def image(self) -> str | None:
        """The URL of an image part."""
        return self.image_url.url if isinstance(self.image_url, _ImageUrl) else self.image_url


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A call in an assistant's message. `extra_content` carries what other providers put beside it."""

    function: _CalledFunction
    id: str | None = None
    type: str | None = None
    extra_content: Any = None


class Message(msgspec.Struct):
    """One message of the conversation."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    extra_content: Any = None

    @property
    def parts(self) -> list[Part]:
        """The content as parts, whichever way it was written."""
        if isinstance(self.content, str):
            return [Part(type="text", text=self.content)] if self.content else []
        return self.content or []


class Function(msgspec.Struct):
    """A tool that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: Function | None = None


class _Named(msgspec.Struct):
    name: str


class _ToolChoice(msgspec.Struct):
    type: str = "function"
    function: _Named | None = None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None
    schema: dict[str, Any] | None = None  # the flat form of Together's clients


class Chat(msgspec.Struct):
    """A request for chat, or for a completion with its prompt as the user's message."""

    messages: list[Message] = []
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    options: dict[str, Any] | None = None  # Ollama's own words
    keep_alive: str | int | float | None = None

    @property
    def limit(self) -> int | None:
        """How many tokens the answer may have; the newer of the two names wins."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def functions(self) -> list[Function]:
        """The tools. Raises BadRequest for one that is no function."""
        found = []
        for i, tool in enumerate(self.tools or ()):
            if tool.type != "function" or tool.function is None:
                raise BadRequest("Only tools of type `function` can be sent to this model.", param=f"tools[{i}]")
            found.append(tool.function)
        return found

    @property
    def choice(self) -> tuple[str, str | None]:
        """`tool_choice` as (auto | none | required | function, the function's name). Raises BadRequest for another one."""
        choice = self.tool_choice
        if choice is None or choice in ("auto", "none", "required"):
            return (choice or "auto", None)
        if isinstance(choice, _ToolChoice) and choice.type == "function" and choice.function is not None:
            if choice.function.name not in {f.name for f in self.functions}:
                raise BadRequest("`tool_choice` names a function that is not in `tools`.", param="tool_choice")
            return ("function", choice.function.name)
        raise BadRequest("This `tool_choice` cannot be sent to this model.", param="tool_choice")

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow; an empty one for any JSON. Raises BadRequest for an unknown format."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return {}
        if wanted.type == "json_schema":
            schema = wanted.json_schema.schema if wanted.json_schema is not None else wanted.schema
            if schema is not None:
                return schema
        raise BadRequest("`response_format` must be text, json_object, or json_schema with a `schema`.", param="response_format")


class _Prompt(msgspec.Struct):
    prompt: str | list[str]


_KNOWN = frozenset(Chat.__struct_fields__) - {"messages"}
_decode_chat = msgspec.json.Decoder(Chat).decode
_decode_prompt = msgspec.json.Decoder(_Prompt).decode
_decode_any = msgspec.json.Decoder().decode
_PLACE = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)
_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"cannot encode {type(value).__name__} as JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def dump(value: Any) -> bytes:
    """Encode as JSON; half a surrogate pair, which msgspec refuses, becomes U+FFFD."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_mended(value))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_mended(key): _mended(entry) for key, entry in value.items()}
    return [_mended(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and bytes(memoryview(value)[:5]) == b"null")


def read_chat(body: Mapping[str, Any], call: Call) -> Chat:
    """Decode a chat or completion request. Raises BadRequest, naming the place of what has the wrong type."""
    content = "prompt" if call.operation == "completion" else "messages"
    fields = {key: value for key, value in body.items() if (key in _KNOWN or key == content) and not _is_null(value)}
    if content not in fields:
        raise BadRequest(f"You must provide `{content}`.", param=content)
    data = _typed(_encode, fields)
    chat: Chat = _typed(_decode_chat, data)
    if content == "prompt":
        prompts = _typed(_decode_prompt, data).prompt
        if isinstance(prompts, list) and len(prompts) != 1:
            raise BadRequest("Only one prompt a request can be sent to this model.", param="prompt")
        chat.messages = [Message(role="user", content=prompts if isinstance(prompts, str) else prompts[0])]
    return chat


def read_fields(body: Mapping[str, Any], words: Iterable[str], decode: Callable[[bytes], _Record]) -> _Record:
    """Decode the fields of `words` that are set. Raises BadRequest, naming the place of what has the wrong type."""
    record: _Record = _typed(decode, _typed(_encode, {key: body[key] for key in words if not _is_null(body.get(key))}))
    return record


def _typed(read: Any, value: Any) -> Any:
    try:
        return read(value)
    except msgspec.ValidationError as exc:
        text = str(exc)
        place = _PLACE.search(text)
        where = place.group(1)[:200] if place is not None else ""
        name = f"`{where}`" if where else "The body"
        raise BadRequest(f"{name} has the wrong type: {_PLACE.sub('', text)}.", param=where or None) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        raise BadRequest("The body is nested too deeply, or holds half a surrogate pair.", code="invalid_json") from None


def refuse(body: Mapping[str, Any]) -> None:
    """Raise BadRequest for a parameter without which the answer would be another one, and that no dialect can translate."""
    for key in _NOWHERE.keys() & body.keys():
        value = body[key]
        if (bytes(value) if isinstance(value, msgspec.Raw) else _encode(value)) not in _HARMLESS:
            raise BadRequest(f"This model's provider cannot do this: {_NOWHERE[key]}.", param=key)


def unknown(body: Mapping[str, Any], words: Iterable[str]) -> list[str]:
    """Return the parameters that are set and neither in `words` nor part of the request's frame, fit for a header."""
    spare = [key for key, value in body.items() if key not in _FRAME and key not in _NOWHERE and not _is_null(value)]
    return [_header_safe(key) for key in spare if key not in words]


def _header_safe(name: str) -> str:
    good = name.isascii() and name.isprintable() and "," not in name and len(name) <= MAX_NAME_CHARS
    return name if good else "?"


def joined_text(message: Message, where: str) -> str:
    """Return the text of a message that can hold nothing else. Raises BadRequest for another part."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for i, part in enumerate(message.parts):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("text", "refusal") or text is None:
            raise BadRequest(f"A message of role `{message.role}` can only hold text here.", param=f"{where}.content[{i}]")
        texts.append(text)
    return "\n".join(texts)


def arguments_of(call: ToolCall, where: str) -> msgspec.Raw:
    """Return the arguments of a call as the JSON object they are. Raises BadRequest where they are none."""
    text = call.function.arguments or "{}"
    try:
        data = text.encode()
        if isinstance(_decode_any(data), dict):
            return msgspec.Raw(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    param = f"{where}.function.arguments"
    raise BadRequest(f"`{param}` must be a JSON object.", param=param)


def data_uri(url: str, param: str) -> tuple[str, str] | None:
    """Return media type and base64 of a `data:` URI (RFC 2397), None for any other URL. Raises BadRequest for a broken one."""
    if url[:5].lower() != "data:":
        return None
    found = _DATA_URI.match(url, 0, 400)
    if found is None:
        raise BadRequest(f"`{param}` holds a data URI without a comma.", param=param)
    media, options, data = found.group(1).lower() or "text/plain", found.group(2).lower(), url[found.end() :]
    if options.endswith(";base64"):
        return media, "".join(unquote_to_bytes(data).decode("ascii", "replace").split()) if "%" in data else "".join(data.split())
    return media, base64.b64encode(unquote_to_bytes(data)).decode()


def merged(old: Any, new: Any) -> Any:
    """Merge `new` over `old`: objects key by key, everything else is replaced."""
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
