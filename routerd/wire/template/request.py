"""The request of a template: placeholders replaced by what the client sent.

A placeholder that is a whole text keeps the type of its value, and takes its key with it where there is no value; inside a longer
text it is put in as text. `{{` is a brace. The template is taken apart once; a request only fills the places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from routerd.errors import BadRequest
from routerd.wire.dialect import Call
from routerd.wire.translation.pivot import Chat, Message, dump, joined_text, read_chat

__all__ = ["PLACEHOLDER", "Filler"]

PLACEHOLDER = re.compile(r"\{\{|\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_ABSENT: Any = object()
_TITLES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
_decode_any = msgspec.json.Decoder().decode

Make = Callable[["_Given"], Any]


class Filler:
    """One request template. `params`: the parameters of the client that it has places for."""

    __slots__ = ("_make", "_path", "params")

    def __init__(self, request: Mapping[str, Any], path: str) -> None:
        self.params: set[str] = set()
        self._make = self._prepared(request)
        self._path = path

    def fill(self, body: Mapping[str, Any], call: Call, *, stream: bool) -> tuple[dict[str, Any], str, int]:
        """Return the body, the path, and the length of the conversation in bytes. Raises BadRequest for what is no text."""
        given = _Given(body, call, stream)
        path = self._path.replace("{model}", quote(call.model, safe=""))
        return self._make(given), path, given.size_bytes()

    def _prepared(self, value: Any) -> Make:
        """Return a function that fills `value`."""
        if isinstance(value, Mapping):
            entries = [(key, self._prepared(one)) for key, one in value.items()]
            return lambda given: {key: one for key, make in entries if (one := make(given)) is not _ABSENT}
        if isinstance(value, (list, tuple)):
            items = [self._prepared(one) for one in value]
            return lambda given: [one for make in items if (one := make(given)) is not _ABSENT]
        if isinstance(value, str) and "{" in value:
            return self._text(value)
        return lambda _: value

    def _text(self, text: str) -> Make:
        parts: list[str | Make] = []
        at = 0
        for found in PLACEHOLDER.finditer(text):
            parts += [text[at : found.start()], "{" if found[1] is None else self._place(found[1])]
            at = found.end()
        parts.append(text[at:])
        parts = [part for part in parts if part != ""]
        if len(parts) == 1:
            only = parts[0]
            return (lambda _: only) if isinstance(only, str) else only
        return lambda given: "".join(part if isinstance(part, str) else _as_text(part(given)) for part in parts)

    def _place(self, name: str) -> Make:
        if name.startswith("params."):
            key = name.removeprefix("params.")
            self.params.add(key)
            return lambda given: given.param(key)
        return _PLACES[name]


class _Given:
    """What one request gives for the places."""

    __slots__ = ("_body", "_chat", "call", "stream")

    def __init__(self, body: Mapping[str, Any], call: Call, stream: bool) -> None:
        self._body = body
        self.call = call
        self.stream = stream
        self._chat: Chat | None = None

    def param(self, key: str) -> Any:
        value = self._body.get(key)
        absent = value is None or (isinstance(value, msgspec.Raw) and bytes(memoryview(value)[:5]) == b"null")
        return _ABSENT if absent else value

    @property
    def _messages(self) -> list[Message]:
        if self._chat is None:
            self._chat = read_chat(self._body, self.call)
        return self._chat.messages

    def messages(self) -> Any:
        if self.call.operation == "chat":
            return self._body["messages"]
        return [{"role": one.role, "content": one.content} for one in self._messages]

    def _texts(self, *roles: str) -> list[tuple[str, str]]:
        out = []
        for i, message in enumerate(self._messages):
            if not roles or message.role in roles:
                if message.tool_calls:
                    raise BadRequest("Tool calls cannot be sent to this model.", param=f"messages[{i}].tool_calls")
                text = joined_text(message, f"messages[{i}]")
                if text:
                    out.append((message.role, text))
        return out

    def prompt(self) -> str:
        """The conversation as one text; a single message stands for itself."""
        texts = self._texts()
        if len(texts) == 1:
            return texts[0][1]
        return "\n\n".join(f"{_TITLES.get(role, role)}: {text}" for role, text in texts)

    def system(self) -> Any:
        texts = [text for _, text in self._texts("system", "developer")]
        return "\n\n".join(texts) if texts else _ABSENT

    def last_user(self) -> Any:
        texts = [text for _, text in self._texts("user")]
        return texts[-1] if texts else _ABSENT

    def size_bytes(self) -> int:
        raw = self._body.get("messages" if self.call.operation == "chat" else "prompt")
        return len(memoryview(raw)) if isinstance(raw, msgspec.Raw) else len(dump(raw))


_PLACES: Mapping[str, Make] = {
    "prompt": _Given.prompt,
    "messages": _Given.messages,
    "system": _Given.system,
    "last_user": _Given.last_user,
    "model": lambda given: given.call.model,
    "stream": lambda given: given.stream,
}


def _as_text(value: Any) -> str:
    if value is _ABSENT:
        return ""
    if isinstance(value, msgspec.Raw) and bytes(memoryview(value)[:1]) == b'"':
        value = _decode_any(value)
    return value if isinstance(value, str) else dump(value).decode()
