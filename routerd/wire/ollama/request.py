"""An OpenAI request in Ollama's words.

`stream` is always sent: Ollama streams unless told not to. Arguments of calls are objects, images bare base64 on their message;
Ollama takes no URLs, and routerd fetches none. It has no `tool_choice`: `none` sends no tools, and what forces a call is refused.
The context length is the operator's: `options.num_ctx` in the provider's `body` (4096 by default, longer prompts are cut in
silence). Clients that know Ollama may send `options` and `keep_alive` themselves.
Source: github.com/ollama/ollama docs/api.md; log probabilities since 0.12.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.errors import BadRequest
from routerd.wire.dialect import Call, Encoded
from routerd.wire.translation.pivot import (
    Chat,
    Message,
    arguments_of,
    data_uri,
    dump,
    joined_text,
    merged,
    read_chat,
    refuse,
    unknown,
)

__all__ = ["encode_chat"]

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_WORDS = frozenset(_OPTIONS) | {
    "max_tokens", "max_completion_tokens", "n", "stop", "logprobs", "top_logprobs", "reasoning_effort", "modalities", "tools",
    "tool_choice", "response_format", "options", "keep_alive",
}  # fmt: skip
_THINK: dict[str, bool | str] = {
    "none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high",
}  # fmt: skip


def encode_chat(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode a chat or completion. Raises BadRequest for what Ollama has no words for."""
    refuse(body)
    chat = read_chat(body, call)
    dropped = unknown(body, _WORDS)
    if chat.parallel_tool_calls is True:  # the model decides
        dropped.remove("parallel_tool_calls")
    messages = _Messages()
    for i, message in enumerate(chat.messages):
        messages.add(message, f"messages[{i}]")
    out: dict[str, Any] = {"model": call.model, "messages": messages.written, "stream": call.stream}
    _tools(chat, out, messages.dropped)
    _shape(chat, call, out)
    options = _options(chat)
    if options:
        out["options"] = options
    return Encoded(path="api/chat", body=dump(merged(out, call.extra)), dropped=(*dropped, *sorted(messages.dropped)))


class _Messages:
    """The conversation as it grows."""

    def __init__(self) -> None:
        self.dropped: set[str] = set()
        self.written: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}  # of the functions, by the id of the call

    def add(self, message: Message, where: str) -> None:
        """Add one message."""
        if message.name and message.role != "tool":
            self.dropped.add("messages.name")
        if message.role in ("system", "developer"):
            self.written.append({"role": "system", "content": joined_text(message, where)})
        elif message.role == "user":
            self.written.append(self._user(message, where))
        elif message.role == "assistant":
            self.written.append(self._answer(message, where))
        elif message.role == "tool":
            self.written.append(self._result(message, where))
        else:
            raise BadRequest(f"`{where}.role` is not a role that this model knows.", param=f"{where}.role")

    def _user(self, message: Message, where: str) -> dict[str, Any]:
        texts, images = [], []
        for j, part in enumerate(message.parts):
            place = f"{where}.content[{j}]"
            if part.type == "text" and part.text is not None:
                texts.append(part.text)
            elif part.type == "image_url" and part.image is not None:
                images.append(_base64_of(part.image, f"{place}.image_url.url"))
                if (
                    not isinstance(part.image_url, str)
                    and part.image_url is not None
                    and part.image_url.detail not in (None, "auto")
                ):
                    self.dropped.add("messages.content.image_url.detail")
            else:
                raise BadRequest(f"A part of type `{part.type[:50]}` cannot be sent to this model.", param=place)
        return {"role": "user", "content": "\n".join(texts), **({"images": images} if images else {})}

    def _answer(self, message: Message, where: str) -> dict[str, Any]:
        out: dict[str, Any] = {"role": "assistant", "content": joined_text(message, where) + (message.refusal or "")}
        if message.reasoning_content:
            out["thinking"] = message.reasoning_content
        calls = []
        for j, called in enumerate(message.tool_calls or ()):
            function = {"name": called.function.name, "arguments": arguments_of(called, f"{where}.tool_calls[{j}]")}
            calls.append({"function": function, **({"id": called.id} if called.id else {})})
            if called.id:
                self._names[called.id] = called.function.name
        if calls:
            out["tool_calls"] = calls
        return out

    def _result(self, message: Message, where: str) -> dict[str, Any]:
        out = {"role": "tool", "content": joined_text(message, where)}
        name = self._names.get(message.tool_call_id or "") or message.name
        if name:
            out["tool_name"] = name
        if message.tool_call_id:
            out["tool_call_id"] = message.tool_call_id
        return out


def _base64_of(url: str, param: str) -> str:
    inline = data_uri(url, param)
    if inline is None:
        raise BadRequest(f"`{param}` must be a data URI: this model's provider fetches no images.", param=param)
    return inline[1]


def _tools(chat: Chat, out: dict[str, Any], dropped: set[str]) -> None:
    functions = chat.functions
    mode, _ = chat.choice
    if mode in ("required", "function"):
        raise BadRequest("This model's provider cannot be forced to call a tool.", param="tool_choice")
    if not functions or mode == "none":
        return
    tools = []
    for function in functions:
        if function.strict:
            dropped.add("tools.function.strict")
        parameters = function.parameters or {"type": "object", "properties": {}}
        written = {"name": function.name, "description": function.description or "", "parameters": parameters}
        tools.append({"type": "function", "function": written})
    out["tools"] = tools


def _shape(chat: Chat, call: Call, out: dict[str, Any]) -> None:
    """What the answer is to be: its format, thoughts and log probabilities."""
    if chat.n is not None and chat.n != 1:
        raise BadRequest("This model's provider gives one choice an answer.", param="n")
    if chat.modalities and chat.modalities != ["text"]:
        raise BadRequest("This model can answer in text only.", param="modalities")
    schema = chat.answer_schema
    if schema is not None:
        out["format"] = schema or "json"
    if chat.reasoning_effort is not None:
        if chat.reasoning_effort not in _THINK:
            raise BadRequest(f"`reasoning_effort` must be one of {', '.join(_THINK)}.", param="reasoning_effort")
        out["think"] = _THINK[chat.reasoning_effort]
    if chat.logprobs is not None and chat.logprobs is not False:
        if call.operation == "completion":
            raise BadRequest("This model's provider has no log probabilities of completions.", param="logprobs")
        out["logprobs"] = True
        if chat.top_logprobs:
            out["top_logprobs"] = chat.top_logprobs
    if chat.keep_alive is not None:
        out["keep_alive"] = chat.keep_alive


def _options(chat: Chat) -> dict[str, Any]:
    options: dict[str, Any] = dict(chat.options or {})
    for key, word in _OPTIONS.items():
        value = getattr(chat, key)
        if value is not None:
            options[word] = value
    if chat.limit is not None:
        options["num_predict"] = chat.limit
    if chat.stops:
        options["stop"] = chat.stops
    return options
