"""The built-in upstream, sans-I/O: what it answers and when, as pieces with the delay before each.

It speaks the OpenAI dialect for chat, completions and embeddings, so everything above it behaves as with a real engine: usage,
`max_tokens`, streams with `stream_options.include_usage`, errors in OpenAI's shape, a share of failures on purpose. Tokens are
pieces of words; they join to the text exactly. An embedding depends on its text alone.
There is no clock here: the caller gives `created`, and plays the delays.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from routerd.graph import Simulator
from routerd.wire.foreign import read_json
from routerd.wire.sse import Event, encode

__all__ = ["Script", "reply", "tokens_of"]

MAX_REPLY_TOKENS = 4096  # of an echo nobody bounded: 100 s at the default speed
DEFAULT_DIMENSIONS = 64
MAX_DIMENSIONS = 4096
MAX_INPUTS = 2048  # OpenAI's own limit of one embeddings call

Headers = list[tuple[bytes, bytes]]
Script = tuple[int, Headers, Iterator[tuple[float, bytes]]]

_TOKEN = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+")
_to_json = msgspec.json.Encoder().encode


class _Refused(Exception):
    """The request is not one the simulator answers; becomes a 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(slots=True, kw_only=True)
class _Reply:
    """One composed answer: `pieces` are its tokens."""

    chat: bool
    id: str
    created: int
    model: str
    pieces: list[str]
    finish_reason: str
    input_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        count = len(self.pieces)
        return {"prompt_tokens": self.input_tokens, "completion_tokens": count, "total_tokens": self.input_tokens + count}


def reply(path: str, body: bytes, simulator: Simulator, rng: random.Random, created: int = 0) -> Script:
    """Return status, headers and the body in pieces, each with the delay before it in seconds.

    `path` is the endpoint below /v1. `rng` decides ids and failures.
    """
    if rng.random() < simulator.fail_ratio:
        return _error(503, "The simulator was told to fail this request.", "server_error", "simulated_failure", None)
    try:
        request = _read(body)
        if path == "embeddings":
            return _whole(_embeddings(request), simulator.first_token_s)
        if path not in ("chat/completions", "completions"):
            return _error(404, f"The simulator has no {path}.", "invalid_request_error", "not_found", None)
        answer = _compose(request, path == "chat/completions", simulator, rng, created)
        if request.get("stream") is True:
            wants_usage = _mapping(request.get("stream_options")).get("include_usage") is True
            return 200, [(b"content-type", b"text/event-stream")], _stream(answer, simulator, wants_usage)
        length_s = simulator.first_token_s + len(answer.pieces) * _gap_s(simulator)
        return _whole(_unary(answer), length_s)
    except _Refused as exc:
        return _error(400, str(exc), "invalid_request_error", None, exc.param)


def tokens_of(text: str) -> list[str]:
    """Split a text into the simulator's tokens; joined, they are the text."""
    return _TOKEN.findall(text)


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        request = read_json(body)
    except ValueError:
        raise _Refused("The body is not valid JSON.") from None
    if not isinstance(request, dict):
        raise _Refused("The body must be a JSON object.")
    return request


def _compose(request: Mapping[str, Any], chat: bool, simulator: Simulator, rng: random.Random, created: int) -> _Reply:
    asked, last = _conversation(request) if chat else _prompt(request)
    pieces = tokens_of(last if simulator.reply == "echo" else simulator.reply)
    limit = _limit(request)
    bound = MAX_REPLY_TOKENS if limit is None else limit
    return _Reply(
        chat=chat,
        id=f"{'chatcmpl' if chat else 'cmpl'}-{rng.getrandbits(96):024x}",
        created=created,
        model=_model(request),
        pieces=pieces[:bound],
        finish_reason="length" if len(pieces) > bound else "stop",
        input_tokens=len(tokens_of(asked)),
    )


def _conversation(request: Mapping[str, Any]) -> tuple[str, str]:
    """Return all text of the messages, and that of the last user message."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Refused("`messages` must be a non-empty array.", "messages")
    texts = []
    last = ""
    for message in messages:
        if not isinstance(message, dict):
            raise _Refused("`messages` must hold objects.", "messages")
        text = _text(message.get("content"))
        texts.append(text)
        if message.get("role") == "user":
            last = text
    return "\n".join(texts), last


def _prompt(request: Mapping[str, Any]) -> tuple[str, str]:
    prompt = request.get("prompt")
    if isinstance(prompt, list):
        prompt = "\n".join(_clean(entry) for entry in prompt if isinstance(entry, str))
    if not isinstance(prompt, str):
        raise _Refused("`prompt` must be a string or an array of strings.", "prompt")
    return _clean(prompt), _clean(prompt)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return _clean(content)
    parts = content if isinstance(content, list) else []
    return "\n".join(_clean(part["text"]) for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _clean(text: str) -> str:
    """Half surrogate pairs cannot be sent on."""
    return text.encode("utf-8", "replace").decode()


def _limit(request: Mapping[str, Any]) -> int | None:
    for key in ("max_completion_tokens", "max_tokens"):
        value = request.get(key)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise _Refused(f"`{key}` must be a whole number above 0.", key)
        return value
    return None


def _model(request: Mapping[str, Any]) -> str:
    model = request.get("model")
    return _clean(model) if isinstance(model, str) else "simulator"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _gap_s(simulator: Simulator) -> float:
    return 1.0 / simulator.tokens_per_s if simulator.tokens_per_s > 0 else 0.0


def _unary(answer: _Reply) -> dict[str, Any]:
    text = "".join(answer.pieces)
    choice: dict[str, Any] = {"index": 0}
    if answer.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": answer.finish_reason}
    return {
        "id": answer.id,
        "object": "chat.completion" if answer.chat else "text_completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [choice],
        "usage": answer.usage,
    }


def _stream(answer: _Reply, simulator: Simulator, wants_usage: bool) -> Iterator[tuple[float, bytes]]:
    """Yield as engines do: the role, a chunk a token, the finish, the usage in a chunk without choices, [DONE]."""
    head: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion.chunk" if answer.chat else "text_completion",
        "created": answer.created,
        "model": answer.model,
    }
    tail: dict[str, Any] = {"usage": None} if wants_usage else {}

    def chunk(text: str | None, finish_reason: str | None = None, **delta: str) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        if answer.chat:
            choice["delta"] = delta if text is None else {**delta, "content": text}
        else:
            choice["text"] = text or ""
        choice |= {"logprobs": None, "finish_reason": finish_reason}
        return encode(Event("", _to_json({**head, "choices": [choice], **tail})))

    wait_s = simulator.first_token_s
    if answer.chat:
        yield wait_s, chunk("", role="assistant")
        wait_s = 0.0
    gap_s = _gap_s(simulator)
    for piece in answer.pieces:
        yield wait_s, chunk(piece)
        wait_s = gap_s
    end = chunk(None, answer.finish_reason)
    if wants_usage:
        end += encode(Event("", _to_json({**head, "choices": [], "usage": answer.usage})))
    yield wait_s, end + encode(Event("", b"[DONE]"))


def _embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    texts = _inputs(request.get("input"))
    dimensions = request.get("dimensions")
    if dimensions is None:
        dimensions = DEFAULT_DIMENSIONS
    if type(dimensions) is not int or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise _Refused(f"`dimensions` must be between 1 and {MAX_DIMENSIONS}.", "dimensions")
    packed = request.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(texts):
        vector = _vector(text, dimensions)
        value = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if packed else vector
        data.append({"object": "embedding", "index": index, "embedding": value})
    count = sum(len(tokens_of(text)) for text in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": _model(request), "usage": usage}


def _inputs(value: Any) -> list[str]:
    """Return the texts to embed: one, several, or token ids (of one or of several) as their numbers."""
    if isinstance(value, str):
        return [_clean(value)]
    if isinstance(value, list) and 0 < len(value) <= MAX_INPUTS:
        if all(isinstance(entry, str) for entry in value):
            return [_clean(entry) for entry in value]
        if all(type(entry) is int for entry in value):
            return [_numbers(value)]
        if all(isinstance(entry, list) and all(type(number) is int for number in entry) for entry in value):
            return [_numbers(entry) for entry in value]
    raise _Refused("`input` must be a string, an array of strings, or an array of token ids.", "input")


def _numbers(ids: list[int]) -> str:
    return " ".join(f"{number & 0xFFFFFFFF}" for number in ids)


def _vector(text: str, dimensions: int) -> list[float]:
    """Return a unit vector that only depends on the text."""
    raw = hashlib.shake_128(text.encode()).digest(2 * dimensions)
    values = [number / 32768.0 + 2.0**-16 for number in struct.unpack(f"<{dimensions}h", raw)]  # never all zero
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def _whole(value: Mapping[str, Any], delay_s: float, status: int = 200) -> Script:
    body = _to_json(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return status, headers, iter([(delay_s, body)])


def _error(status: int, message: str, kind: str, code: str | None, param: str | None) -> Script:
    return _whole({"error": {"message": message, "type": kind, "code": code, "param": param}}, 0.0, status)
