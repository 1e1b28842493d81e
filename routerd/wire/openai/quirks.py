"""Where a provider's API deviates from OpenAI's: what is done to a request for it. Prepared once a generation.

In the order of the code, on what the client and the route set (never on the operator's own `body` fields):
 1. for chat: a value that the provider refuses and without which the answer would be another one is refused: another target
    may take it;
 2. parameters that the provider refuses, or that belong to another vendor, are left out and named;
 3. for chat: parameters of another name; where both are set, the provider's own word stays;
 4. for chat: words of values, and where the schema of a structured answer stands;
 5. for chat: the role `developer`, fields of messages that it refuses, ids of tool calls in a form of its own (the same id
    becomes the same, so that calls and results still meet). Messages are opened only when such a word is in them.
What is not touched keeps its bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import BadRequest
from routerd.graph import Provider, Quirks
from routerd.wire.openai.response_format import flattened

__all__ = ["RequestQuirks"]

_NO_QUIRKS = Quirks()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_any = msgspec.json.Decoder().decode
_decode_calls = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_DEVELOPER = b'"developer"'
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NOT_MESSAGES = "`messages` must be an array of objects."


class RequestQuirks:
    """The changes to requests for one provider."""

    __slots__ = ("_drop", "_fields", "_flat", "_id_chars", "_only", "_rename", "_role", "_values", "_words", "asks_usage")

    def __init__(self, quirks: Quirks, foreign: tuple[str, ...]) -> None:
        self._drop = tuple(dict.fromkeys((*quirks.drop_params, *foreign)))
        self.asks_usage = "stream_options" not in self._drop
        self._rename = tuple(quirks.rename_params.items())
        self._values = tuple((name, dict(words)) for name, words in quirks.param_values.items())
        self._flat = quirks.response_format == "flat"
        self._role = msgspec.Raw(msgspec.json.encode(quirks.developer_role)) if quirks.developer_role != "developer" else None
        self._fields = quirks.drop_message_fields
        self._only = tuple(quirks.only_values.items())
        self._id_chars = quirks.tool_call_id_chars or 0
        words = [msgspec.json.encode(name) for name in self._fields]
        if self._id_chars:
            words += [b'"tool_calls"', b'"tool_call_id"']
        if self._role is not None:
            words.append(_DEVELOPER)
        self._words = re.compile(b"|".join(map(re.escape, words))) if words else None

    @classmethod
    def of(cls, provider: Provider) -> RequestQuirks | None:
        """Return the quirks of a provider; None where it has none."""
        if provider.quirks == _NO_QUIRKS and not provider.foreign_params:
            return None
        return cls(provider.quirks, provider.foreign_params)

    def apply(self, body: Mapping[str, Any], operation: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the changed body, and the parameters that were left out.

        Raises BadRequest for messages that are none, and for a value that the provider cannot take.
        """
        out = dict(body)
        for name, accepted in self._only if operation == "chat" else ():
            if _is_set(out.get(name)) and not any(_same(_plain(out[name]), value) for value in accepted):
                raise BadRequest(_refusal(name, accepted), code="unsupported_value", param=name)
        dropped = []
        for name in self._drop:
            if name in out:
                del out[name]
                dropped.append(name)
        if operation == "chat":
            for name, theirs in self._rename:
                if name in out:
                    value = out.pop(name)
                    if not _is_set(out.get(theirs)):
                        out[theirs] = value
            self._values_of(out)
            if self._words is not None:
                self._messages(out)
        return out, tuple(name for name in dropped if name != "stream_options")  # answered all the same

    def _values_of(self, out: dict[str, Any]) -> None:
        for name, words in self._values:
            if name in out:
                value = _plain(out[name])
                if isinstance(value, str) and value in words:
                    out[name] = words[value]
        if self._flat and "response_format" in out:
            out["response_format"] = flattened(out["response_format"])

    def _messages(self, out: dict[str, Any]) -> None:
        given = out.get("messages")
        assert self._words is not None
        raw = bytes(given) if isinstance(given, msgspec.Raw) else msgspec.json.encode(given)
        if self._words.search(raw) is None:
            return
        try:
            messages = _decode_messages(raw)
        except _UNREADABLE:
            raise BadRequest(_NOT_MESSAGES, param="messages") from None
        for message in messages:
            if self._id_chars:
                self._tool_ids(message)
            for name in self._fields:
                message.pop(name, None)
            if self._role is not None and bytes(message.get("role", b"")) == _DEVELOPER:
                message["role"] = self._role
        out["messages"] = messages


    def _tool_ids(self, message: dict[str, Any]) -> None:
        """Give the ids of the calls in a message, or of the one that it answers, the provider's form."""
        if "tool_call_id" in message:
            message["tool_call_id"] = self._tool_id(message["tool_call_id"])
        if "tool_calls" in message:
            try:
                calls: list[dict[str, Any]] = _decode_calls(message["tool_calls"])
            except _UNREADABLE:
                return  # null, or what the provider may refuse by itself
            message["tool_calls"] = [{**one, "id": self._tool_id(one["id"])} if "id" in one else one for one in calls]

    def _tool_id(self, raw: Any) -> Any:
        try:
            given = _decode_any(raw) if isinstance(raw, msgspec.Raw) else raw
        except _UNREADABLE:
            return raw
        if not isinstance(given, str) or (len(given) == self._id_chars and given.isascii() and given.isalnum()):
            return raw
        number = int.from_bytes(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest(), "big")
        out = ""
        for _ in range(self._id_chars):
            number, at = divmod(number, len(_DIGITS))
            out += _DIGITS[at]
        return out


def _same(given: Any, accepted: Any) -> bool:
    """Tell whether two values are one in JSON, where `true` is not 1."""
    return isinstance(given, bool) == isinstance(accepted, bool) and bool(given == accepted)


def _refusal(name: str, accepted: tuple[Any, ...]) -> str:
    words = " or ".join(msgspec.json.encode(value).decode() for value in accepted)
    return f"The target of this model accepts no other `{name}` than {words}."


def _is_set(value: Any) -> bool:
    return value is not None and not (isinstance(value, msgspec.Raw) and bytes(value) == b"null")


def _plain(value: Any) -> Any:
    """Return a small value decoded; None for one that is no plain word."""
    if not isinstance(value, msgspec.Raw):
        return value
    if len(memoryview(value)) > 200:
        return None
    try:
        return _decode_any(value)
    except _UNREADABLE:
        return None
