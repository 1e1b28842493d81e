"""An OpenAI request in the words of Cohere's v2/chat.

Messages, tools and calls have OpenAI's form; text beside a tool call is the plan (`tool_plan`), as `answer` gave it out. A choice
of one function sends that function alone, and requires a call. `p` lies in 0.01 to 0.99, penalties in 0 to 1: values beyond are
cut and named. Thoughts of earlier turns stay out. Cohere's own fields (`documents`, `safety_mode`, `thinking` ...) pass.
Source: docs.cohere.com/reference/chat and github.com/cohere-ai/cohere-python (read as of 2026-08-19).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.errors import BadRequest
from routerd.wire.dialect import Call, Encoded
from routerd.wire.translation.pivot import (
    Chat,
    Message,
    Part,
    arguments_of,
    dump,
    joined_text,
    merged,
    read_chat,
    refuse,
    unknown,
)

__all__ = ["encode_chat"]

MAX_STOPS = 5
_LIMITS = {"top_p": (0.01, 0.99), "presence_penalty": (0.0, 1.0), "frequency_penalty": (0.0, 1.0)}
_SAMPLING = {
    "temperature": "temperature", "top_p": "p", "top_k": "k", "seed": "seed", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}  # fmt: skip
# The most that may be thought: Cohere counts tokens and knows no efforts; without a number it is up to the model.
_BUDGET = {"none": 0, "minimal": 1024, "low": 1024, "medium": 4096, "high": None, "xhigh": None}
_OWN = ("documents", "citation_options", "safety_mode", "thinking", "strict_tools", "priority", "k", "p")
_WORDS = frozenset({*_SAMPLING, *_OWN}) | {
    "max_tokens", "max_completion_tokens", "n", "stop", "logprobs", "reasoning_effort", "modalities", "tools", "tool_choice",
    "response_format",
}  # fmt: skip


def encode_chat(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode a chat or completion. Raises BadRequest for what Cohere has no words for."""
    refuse(body)
    chat = read_chat(body, call)
    dropped = unknown(body, _WORDS)
    if chat.parallel_tool_calls is True:  # as Cohere does it anyway
        dropped.remove("parallel_tool_calls")
    unsaid: set[str] = set()
    messages = [_message(message, f"messages[{i}]", unsaid) for i, message in enumerate(chat.messages)]
    out: dict[str, Any] = {"model": call.model, "messages": messages, "stream": call.stream}
    _tools(chat, out)
    _sampling(chat, out, unsaid)
    _shape(chat, call, out)
    out |= {key: body[key] for key in _OWN if body.get(key) is not None}
    return Encoded(path="v2/chat", body=dump(merged(out, call.extra)), dropped=(*dropped, *sorted(unsaid)))


def _message(message: Message, where: str, unsaid: set[str]) -> dict[str, Any]:
    if message.name and message.role != "tool":
        unsaid.add("messages.name")
    if message.role in ("system", "developer"):
        return {"role": "system", "content": joined_text(message, where)}
    if message.role == "user":
        if not isinstance(message.content, list):
            return {"role": "user", "content": message.content or ""}
        return {"role": "user", "content": [_part(p, f"{where}.content[{j}]") for j, p in enumerate(message.content)]}
    if message.role == "assistant":
        return _answer(message, where, unsaid)
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id or "", "content": joined_text(message, where)}
    raise BadRequest(f"`{where}.role` is not a role that this model knows.", param=f"{where}.role")


def _part(part: Part, where: str) -> dict[str, Any]:
    if part.type == "text" and part.text is not None:
        return {"type": "text", "text": part.text}
    if part.type == "image_url" and part.image is not None:
        detail = None if isinstance(part.image_url, str) or part.image_url is None else part.image_url.detail
        return {"type": "image_url", "image_url": {"url": part.image, **({"detail": detail} if detail else {})}}
    raise BadRequest(f"A part of type `{part.type[:50]}` cannot be sent to this model.", param=where)


def _answer(message: Message, where: str, unsaid: set[str]) -> dict[str, Any]:
    if message.reasoning_content:
        unsaid.add("messages.reasoning_content")
    text = joined_text(message, where) + (message.refusal or "")
    if not message.tool_calls:
        return {"role": "assistant", "content": text}
    calls = []
    for j, called in enumerate(message.tool_calls):
        place = f"{where}.tool_calls[{j}]"
        function = {"name": called.function.name, "arguments": bytes(arguments_of(called, place)).decode()}
        calls.append({"id": called.id or "", "type": "function", "function": function})
    return {"role": "assistant", "tool_calls": calls, **({"tool_plan": text} if text else {})}


def _tools(chat: Chat, out: dict[str, Any]) -> None:
    functions = chat.functions
    mode, name = chat.choice
    if not functions:
        return
    if mode == "function":
        functions = [function for function in functions if function.name == name]
    out["tools"] = [
        {
            "type": "function",
            "function": {
                "name": function.name,
                **({"description": function.description} if function.description else {}),
                "parameters": function.parameters or {"type": "object", "properties": {}},
            },
        }
        for function in functions
    ]
    if any(function.strict for function in functions):
        out["strict_tools"] = True
    if mode != "auto":
        out["tool_choice"] = "NONE" if mode == "none" else "REQUIRED"


def _sampling(chat: Chat, out: dict[str, Any], unsaid: set[str]) -> None:
    for key, word in _SAMPLING.items():
        value = getattr(chat, key)
        if value is None:
            continue
        if key in _LIMITS:
            least, most = _LIMITS[key]
            if not least <= value <= most:
                value = min(max(value, least), most)
                unsaid.add(key)
        out[word] = value
    if chat.limit is not None:
        out["max_tokens"] = chat.limit
    if len(chat.stops) > MAX_STOPS:
        raise BadRequest(f"This model takes at most {MAX_STOPS} stop sequences.", param="stop")
    if chat.stops:
        out["stop_sequences"] = chat.stops


def _shape(chat: Chat, call: Call, out: dict[str, Any]) -> None:
    """What the answer is to be: its format, thoughts and log probabilities."""
    if chat.n is not None and chat.n != 1:
        raise BadRequest("This model's provider gives one choice an answer.", param="n")
    if chat.modalities and chat.modalities != ["text"]:
        raise BadRequest("This model can answer in text only.", param="modalities")
    schema = chat.answer_schema
    if schema is not None:
        if out.get("tools"):
            raise BadRequest("This model takes no `response_format` beside `tools`.", param="response_format")
        out["response_format"] = {"type": "json_object", **({"json_schema": schema} if schema else {})}
    if chat.reasoning_effort is not None:
        if chat.reasoning_effort not in _BUDGET:
            raise BadRequest(f"`reasoning_effort` must be one of {', '.join(_BUDGET)}.", param="reasoning_effort")
        budget = _BUDGET[chat.reasoning_effort]
        out["thinking"] = {"type": "disabled" if budget == 0 else "enabled", **({"token_budget": budget} if budget else {})}
    if chat.logprobs is not None and chat.logprobs is not False:
        if call.operation == "completion":
            raise BadRequest("This model's provider has no log probabilities of completions.", param="logprobs")
        out["logprobs"] = True
