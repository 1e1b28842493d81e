"""What routing must see in an OpenAI-style event stream that is forwarded as it came.

Feed it what arrives, forward what it returns. It cuts the stream at event borders (so that a malformed event can be left out and
a usage chunk withheld: at most one event of delay) and notes: the first content, the finish, the usage, an error event, the end.
Rules: comments pass and are no content; CRLF, LF and CR are line ends; `[DONE]` ends the stream and what follows it is dropped;
a usage chunk is one without choices; usages are never added up, the last one wins; an error after a finish is not a failure
(seen at OpenRouter: finish_reason "length" twice, then an error chunk); three malformed events in a row are a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from routerd.messages import Usage
from routerd.wire.foreign import read_json
from routerd.wire.openai.usage import read_usage

__all__ = ["DONE", "RelayScan", "StreamFault"]

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 16 * 1024 * 1024  # an image as a data URI in one event
MAX_MALFORMED_RUN = 3

_ONE_CHOICE = frozenset({0})
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class StreamFault(msgspec.Struct, frozen=True):
    """Why a stream is no good: an error event of the upstream (`error` holds its JSON) or a broken stream."""

    message: str
    error: Any = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class _FirstChoice(msgspec.Struct):
    index: int | None = 0
    finish_reason: Any = None
    delta: Any = None
    text: Any = None


class _FirstChunk(msgspec.Struct):
    choices: list[_FirstChoice] | None = None
    usage: Any = None
    error: Any = None
    model: Any = None


class _PlainChoice(msgspec.Struct, gc=False):
    index: Literal[0] = 0
    finish_reason: None = None


class _Plain(msgspec.Struct, gc=False):
    """The usual event in the middle of a stream; whatever else there is to see is no valid one."""

    choices: list[_PlainChoice] = []
    usage: None = None
    error: None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_first = msgspec.json.Decoder(_FirstChunk).decode
_decode_plain = msgspec.json.Decoder(_Plain).decode


class RelayScan:
    """The state of one stream. `withhold_usage`: the usage chunk was our wish, not the client's. `choices`: asked for."""

    __slots__ = (
        "_choices",
        "_ended",
        "_seen",
        "_tail",
        "content",
        "done",
        "fault",
        "finished",
        "malformed",
        "malformed_run",
        "model",
        "usage",
        "withhold_usage",
    )

    def __init__(self, *, withhold_usage: bool, choices: int = 1) -> None:
        self.withhold_usage = withhold_usage
        self._choices = choices
        self.content = False  # something a user would see, or a finish, has come
        self.finished = False  # a finish_reason has come, for every choice that was seen or asked for
        self.done = False  # [DONE] has come
        self.usage: Usage | None = None
        self.model: str | None = None
        self.fault: StreamFault | None = None
        self.malformed = 0
        self.malformed_run = 0
        self._tail = bytearray()
        self._seen: set[int | None] = set()  # the choices of the answer (n > 1: several)
        self._ended: set[int | None] = set()  # and those with a finish_reason

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the whole events that may be forwarded, as they came."""
        if self._tail:
            # Only the seam and what is new can hold a border: a long event in small pieces is searched once, and joined once.
            if _BLANK_LINE.search(self._tail[-3:] + data) is None:
                self._tail += data
                self._bound_tail()
                return b""
            data = bytes(self._tail) + data
            self._tail = bytearray()
        elif data.startswith(b"data: {") and data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n"):
            # The usual read of a stream in progress is one event.
            return data if not self.done and self.fault is None and self._payload(data[6:], False) else b""
        borders = self._borders(data)
        if not borders:
            self._tail += data
            self._bound_tail()
            return b""
        self._tail += data[borders[-1] :]
        start, kept, whole = 0, [], True
        for end in borders:
            if self.done or self.fault is not None:
                whole = False
                break
            if self._event(data[start:end]):
                kept.append((start, end))
            else:
                whole = False
            start = end
        if whole:
            return data if not self._tail else data[: borders[-1]]
        return b"".join(data[a:b] for a, b in kept)

    @property
    def plain(self) -> Callable[[bytes], object] | None:
        """Return what takes the payload of an event that changes nothing here, and raises for any other. None: not now."""
        steady = self.content and not (self._tail or self.malformed_run or self._ended or self.done or self.fault is not None)
        return _decode_plain if steady and self._seen == _ONE_CHOICE else None

    def close(self) -> bytes:
        """The upstream is at its end: take a last event that no blank line follows (seen at HuggingFace and killed engines)."""
        if not self._tail.strip() or self.done or self.fault is not None:
            return b""
        tail, self._tail = bytes(self._tail), bytearray()
        keep = self._event(tail + b"\n\n")
        return tail + b"\n\n" if keep else b""

    def _bound_tail(self) -> None:
        if len(self._tail) > MAX_EVENT_BYTES:
            self.fault = StreamFault("the upstream sent an event larger than 16 MiB")

    def _borders(self, data: bytes) -> list[int]:
        """The offsets behind each blank line."""
        found: list[int] = []
        if b"\r" not in data:
            at = data.find(b"\n\n")
            while at >= 0:
                at += 2
                found.append(at)
                at = data.find(b"\n\n", at)
            return found
        for match in _BLANK_LINE.finditer(data):
            end = match.end()
            if end == len(data) and data.endswith(b"\r"):
                break  # a line feed may still follow
            found.append(end)
        return found

    def _event(self, event: bytes) -> bool:
        """Look at one event with its blank line; return whether it is forwarded."""
        if event.startswith(b"data: {") and event.find(b"\n", 7) == len(event) - 2:
            return self._payload(event[6:], False)
        lines = _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf"))
        data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        if not data:
            return True
        named_error = any(line[6:].strip() == b"error" for line in lines if line.startswith(b"event:"))
        payload = b"\n".join(data).strip()
        return self._payload(payload, named_error) if payload[:1] == b"{" else self._not_json(payload, named_error)

    def _payload(self, payload: bytes, named_error: bool) -> bool:
        try:
            chunk = _decode(payload) if self.content else self._first(payload)
        except msgspec.ValidationError:
            return self._odd(payload, named_error)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._not_json(payload, named_error)
        self.malformed_run = 0
        if chunk.error or named_error:
            return self._failed(chunk.error or msgspec.json.decode(payload))
        choices = chunk.choices
        if choices:
            for choice in choices:
                if choice.finish_reason:  # some engines write "" until the end
                    if choice.finish_reason == "error":
                        return self._failed({"message": "the generation ended with an error"})
                    self._ended.add(choice.index)
                    self.finished = self._ended >= self._seen and len(self._ended) >= self._choices
                elif choice.index not in self._seen:
                    self._seen.add(choice.index)
                    self.finished = False
        elif choices is None and payload.find(b'"message"') >= 0 and self._flat_error(payload):
            return False
        if chunk.usage is not None:
            usage = read_usage(chunk.usage)
            if usage is not None:
                self.usage = usage
                return bool(choices) or not self.withhold_usage
        return True

    def _odd(self, payload: bytes, named_error: bool) -> bool:
        """Look at an object of a shape we do not know: an error all the same, else content and the client's affair."""
        self.malformed_run = 0
        try:
            value = read_json(payload)
        except ValueError:
            return self._not_json(payload, named_error)
        error = value.get("error") if isinstance(value, dict) else None
        if error or named_error:
            return self._failed(error or value)
        self.content = True
        return True

    def _flat_error(self, payload: bytes) -> bool:
        """Tell an error whose fields stand at the top (older vLLM, Mistral) from other objects without choices."""
        value = read_json(payload)
        found = value.get("object") == "error" or (isinstance(value.get("message"), str) and "code" in value)
        if found:
            self._failed(value)
        return found

    def _failed(self, error: Any) -> bool:
        if not self.finished:
            self.fault = StreamFault("the upstream reported an error inside its stream", error)
        return False

    def _first(self, payload: bytes) -> _FirstChunk:
        chunk = _decode_first(payload)
        if isinstance(chunk.model, str):
            self.model = chunk.model
        for choice in chunk.choices or ():
            if choice.finish_reason or choice.text or _says_something(choice.delta):
                self.content = True
        return chunk

    def _not_json(self, payload: bytes, named_error: bool) -> bool:
        if payload == b"[DONE]":
            self.done = True
            return True
        if b"\\u" in payload and _is_json(payload):
            self.content = True  # half a surrogate pair: JSON by its grammar, and the client's affair
            return True
        if named_error:
            text = payload[:500].decode("utf-8", "replace")
            self.fault = StreamFault("the upstream reported an error inside its stream", {"message": text})
            return False
        self.malformed += 1
        self.malformed_run += 1
        if self.malformed_run >= MAX_MALFORMED_RUN:
            self.fault = StreamFault(f"the upstream sent {MAX_MALFORMED_RUN} malformed events in a row")
        return False


def _is_json(payload: bytes) -> bool:
    try:
        read_json(payload)
    except ValueError:
        return False
    return True


def _says_something(delta: Any) -> bool:
    """Tell a delta with content (text, reasoning, tool calls, a refusal ...) from one that only opens the message."""
    if not isinstance(delta, dict):
        return bool(delta)
    return any(value for key, value in delta.items() if key != "role")
