"""An OpenAI request in Gemini's words.

Turns: system and developer messages become `systemInstruction`, wherever they stand; neighbours of one role are one turn, so that
the results of parallel calls are in one. Signatures of thoughts travel in `extra_content.google.thought_signature` of a tool call
or a message, as at Google's own OpenAI endpoint; Gemini 3 refuses a turn of calls without one, and takes Google's placeholder for
calls that it did not make. An image by http(s) URL becomes `fileData`: Gemini fetches it, routerd never does.
Answer schemas go as JSON schema (`responseJsonSchema`, recorded), tools in the subset where that can say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from routerd.errors import BadRequest
from routerd.wire.dialect import Call, Encoded
from routerd.wire.gemini.schema import has_fields, subset
from routerd.wire.translation.pivot import (
    Chat,
    Function,
    Message,
    Part,
    arguments_of,
    data_uri,
    dump,
    joined_text,
    merged,
    read_chat,
    refuse,
    unknown,
)

__all__ = ["encode_chat", "resource"]

MAX_STOPS = 5
NO_SIGNATURE = "skip_thought_signature_validator"  # ai.google.dev/gemini-api/docs/thought-signatures
_VERSION = re.compile(r"gemini-(\d{1,3})")

# What Google's own OpenAI endpoint makes of an effort, for models that count tokens (2.5) and that know levels (3).
_BUDGET = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
_LEVEL = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_GENERATION = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_WORDS = frozenset(_GENERATION) | {
    "max_tokens", "max_completion_tokens", "n", "stop", "logprobs", "top_logprobs", "reasoning_effort", "modalities", "tools",
    "tool_choice", "response_format",
}  # fmt: skip
_MODALITIES = {"text": "TEXT", "image": "IMAGE"}
_SUFFIX_TYPE = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "pdf": "application/pdf", "mp4": "video/mp4", "mp3": "audio/mp3", "wav": "audio/wav",
}  # fmt: skip


def resource(model: str) -> str:
    """Return the path of a model: `gemini-x`, `models/gemini-x` and `tunedModels/x` are all in use."""
    kind, _, name = model.rpartition("/")
    if kind in ("", "models", "tunedModels"):
        return f"{kind or 'models'}/{quote(name, safe='')}"
    return "models/" + quote(model, safe="")


def encode_chat(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode a chat or completion. Raises BadRequest for what Gemini has no words for."""
    refuse(body)
    chat = read_chat(body, call)
    dropped = unknown(body, _WORDS)
    if chat.parallel_tool_calls is True:  # as Gemini does it anyway
        dropped.remove("parallel_tool_calls")
    turns = _Turns(call.model)
    for i, message in enumerate(chat.messages):
        turns.add(message, f"messages[{i}]")
    out = turns.body()
    out |= _tools(chat, turns.dropped)
    config = _generation(chat, call)
    if config:
        out["generationConfig"] = config
    method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
    return Encoded(
        path=f"{resource(call.model)}:{method}",
        body=dump(merged(out, call.extra)),
        dropped=(*dropped, *sorted(turns.dropped)),
    )


class _Turns:
    """The conversation as it grows."""

    def __init__(self, model: str) -> None:
        self.dropped: set[str] = set()
        self._wants_signature = _generation_of(model) >= 3
        self._system: list[dict[str, Any]] = []
        self._contents: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}  # of the functions, by the id of the call

    def body(self) -> dict[str, Any]:
        """Return the parts of the request that hold the conversation. Raises BadRequest where it is empty."""
        contents, system = self._contents, self._system
        if not contents and system:  # "contents is not specified" otherwise
            contents, system = [{"role": "user", "parts": system}], []
        if not contents:
            raise BadRequest("`messages` holds no content.", param="messages")
        return {"contents": contents, **({"systemInstruction": {"parts": system}} if system else {})}

    def add(self, message: Message, where: str) -> None:
        """Add one message."""
        if message.role in ("system", "developer"):
            text = joined_text(message, where)
            if text:
                self._system.append({"text": text})
        elif message.role == "user":
            if message.name:
                self.dropped.add("messages.name")
            self._say("user", [self._part(p, f"{where}.content[{j}]") for j, p in enumerate(message.parts)])
        elif message.role == "assistant":
            self._say("model", self._answer(message, where))
        elif message.role == "tool":
            self._say("user", [self._result(message, where)])
        else:
            raise BadRequest(f"`{where}.role` is not a role that this model knows.", param=f"{where}.role")

    def _say(self, role: str, parts: list[dict[str, Any]]) -> None:
        parts = [part for part in parts if part.get("text") != "" or "thoughtSignature" in part]
        if not parts:
            return
        if self._contents and self._contents[-1]["role"] == role:
            self._contents[-1]["parts"].extend(parts)
        else:
            self._contents.append({"role": role, "parts": parts})

    def _part(self, part: Part, where: str) -> dict[str, Any]:
        if part.type == "text" and part.text is not None:
            return {"text": part.text}
        if part.type == "refusal" and part.refusal is not None:
            return {"text": part.refusal}
        if part.type == "image_url" and part.image is not None:
            if not isinstance(part.image_url, str) and part.image_url is not None and part.image_url.detail not in (None, "auto"):
                self.dropped.add("messages.content.image_url.detail")
            return _media(part.image, f"{where}.image_url.url")
        if part.type == "input_audio" and part.input_audio is not None:
            return {"inlineData": {"mimeType": f"audio/{part.input_audio.format}", "data": part.input_audio.data}}
        if part.type == "file" and part.file is not None:
            url = part.file.file_data or part.file.url
            if url is None:
                raise BadRequest("A file must come as `file_data`: ids are known to one provider only.", param=f"{where}.file")
            return _media(url, f"{where}.file.file_data")
        raise BadRequest(f"A part of type `{part.type[:50]}` cannot be sent to this model.", param=where)

    def _answer(self, message: Message, where: str) -> list[dict[str, Any]]:
        """The model's own turn: text, then calls."""
        parts = [self._part(part, f"{where}.content[{j}]") for j, part in enumerate(message.parts)]
        if message.refusal:
            parts.append({"text": message.refusal})
        if message.reasoning_content:
            self.dropped.add("messages.reasoning_content")
        signature = _signature(message.extra_content)
        if signature is not None:
            last = parts[-1] if parts else {"text": ""}
            parts[-1:] = [{**last, "thoughtSignature": signature}]
        for j, called in enumerate(message.tool_calls or ()):
            place = f"{where}.tool_calls[{j}]"
            function: dict[str, Any] = {"name": called.function.name, "args": arguments_of(called, place)}
            if called.id:
                function["id"] = called.id
                self._names[called.id] = called.function.name
            part: dict[str, Any] = {"functionCall": function}
            signature = _signature(called.extra_content)
            if signature is None and j == 0 and self._wants_signature:
                signature = NO_SIGNATURE
            if signature is not None:
                part["thoughtSignature"] = signature
            parts.append(part)
        return parts

    def _result(self, message: Message, where: str) -> dict[str, Any]:
        call_id = message.tool_call_id or ""
        name = self._names.get(call_id) or message.name
        if name is None:
            param = f"{where}.tool_call_id"
            raise BadRequest(f"`{param}` is the id of no earlier tool call.", param=param)
        response = _as_object(joined_text(message, where))
        return {"functionResponse": {"name": name, "response": response, **({"id": call_id} if call_id else {})}}


def _as_object(text: str) -> Any:
    """Gemini wants an object: a result that is one goes as it is, any other text inside of one."""
    if text.lstrip()[:1] == "{":
        try:
            msgspec.json.decode(text, type=dict)
            return msgspec.Raw(text.encode())
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
    return {"result": text}


def _media(url: str, param: str) -> dict[str, Any]:
    inline = data_uri(url, param)
    if inline is not None:
        return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
    if url[:8].lower() != "https://" and url[:7].lower() != "http://":
        raise BadRequest(f"`{param}` must be a data URI or an http(s) URL.", param=param)
    file: dict[str, Any] = {"fileUri": url}
    suffix = url.partition("?")[0].rpartition(".")[2].lower()
    if suffix in _SUFFIX_TYPE:
        file["mimeType"] = _SUFFIX_TYPE[suffix]
    return {"fileData": file}


def _signature(extra_content: Any) -> str | None:
    google = extra_content.get("google") if isinstance(extra_content, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) and signature else None


def _tools(chat: Chat, dropped: set[str]) -> dict[str, Any]:
    functions = chat.functions
    mode, name = chat.choice
    if not functions:
        return {}
    out: dict[str, Any] = {"tools": [{"functionDeclarations": [_declaration(f, dropped) for f in functions]}]}
    if chat.tool_choice is not None:
        config: dict[str, Any] = {"mode": {"auto": "AUTO", "none": "NONE"}.get(mode, "ANY")}
        if name is not None:
            config["allowedFunctionNames"] = [name]
        out["toolConfig"] = {"functionCallingConfig": config}
    return out


def _declaration(function: Function, dropped: set[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"name": function.name}
    if function.description:
        out["description"] = function.description
    if function.strict:
        dropped.add("tools.function.strict")
    if function.parameters is not None and has_fields(function.parameters):
        parameters, left_out = subset(function.parameters)
        if parameters is None:
            out["parametersJsonSchema"] = function.parameters
        else:
            out["parameters"] = parameters
            dropped.update(f"tools.function.parameters.{keyword}" for keyword in left_out)
    return out


def _generation(chat: Chat, call: Call) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, word in _GENERATION.items():
        value = getattr(chat, key)
        if value is not None:
            config[word] = value
    if chat.limit is not None:
        config["maxOutputTokens"] = chat.limit
    if chat.n is not None and chat.n != 1:
        config["candidateCount"] = chat.n
    if len(chat.stops) > MAX_STOPS:
        raise BadRequest(f"This model takes at most {MAX_STOPS} stop sequences.", param="stop")
    if chat.stops:
        config["stopSequences"] = chat.stops
    _logprobs(chat, call, config)
    if chat.modalities and chat.modalities != ["text"]:
        if not set(chat.modalities) <= _MODALITIES.keys():
            raise BadRequest("This model can answer in text and images only.", param="modalities")
        config["responseModalities"] = [_MODALITIES[word] for word in chat.modalities]
    schema = chat.answer_schema
    if schema is not None:
        config["responseMimeType"] = "application/json"
        if schema:
            config["responseJsonSchema"] = schema
    if chat.reasoning_effort is not None:
        config["thinkingConfig"] = _thinking(chat.reasoning_effort, call.model)
    return config


def _logprobs(chat: Chat, call: Call, config: dict[str, Any]) -> None:
    if chat.logprobs is None or chat.logprobs is False:
        return
    if call.operation == "completion":
        raise BadRequest("This model's provider has no log probabilities of completions.", param="logprobs")
    config["responseLogprobs"] = True
    if chat.top_logprobs:
        config["logprobs"] = chat.top_logprobs


def _generation_of(model: str) -> int:
    """Return the major version in a model's name. `gemini-flash-latest` is new; what is not called Gemini counts as old."""
    version = _VERSION.search(model)
    if version is not None:
        return int(version.group(1))
    return 3 if model.removeprefix("models/").startswith("gemini-") else 2


def _thinking(effort: str, model: str) -> dict[str, Any]:
    if effort not in _LEVEL:
        raise BadRequest(f"`reasoning_effort` must be one of {', '.join(_LEVEL)}.", param="reasoning_effort")
    if _generation_of(model) < 3:
        return {"thinkingBudget": _BUDGET[effort], **({"includeThoughts": True} if effort != "none" else {})}
    return {"thinkingLevel": _LEVEL[effort], **({"includeThoughts": True} if effort != "none" else {})}
