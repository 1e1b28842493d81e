"""A Messages client at an Anthropic target: its request with the route's edits, its answer as it came.

Only what the operator configured is changed: the system prompt, the parameters that have a name in this API, the model, the
provider's static fields. Cache marks, signatures, betas and fields nobody here knows stay, byte for byte. One repair: thinking
that another engine gave out under routerd's own mark is taken out, as Anthropic refuses a signature that is not its own.
`count_tokens` takes the same body without `max_tokens` and `stream`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import BadRequest
from routerd.graph import Params, SystemPrompt
from routerd.wire.anthropic.outbound.answer import read_message
from routerd.wire.anthropic.outbound.request import DEFAULT_MAX_TOKENS
from routerd.wire.anthropic.outbound.stream import read_event
from routerd.wire.anthropic.tokens import FINISH_OF_STOP, Counts, counts_of
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.faults.classify import classify_value
from routerd.wire.openai.answer import UnaryAnswer, decode_unary
from routerd.wire.openai.body import apply_params, encode_body
from routerd.wire.openai.relay_scan import RelayScan, StreamFault

__all__ = [
    "NativeMessages",
    "NativeScan",
    "apply_native_params",
    "decode_native",
    "encode_native",
    "prepare_counted",
    "prepare_native",
]

_NAMES = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop_sequences",
}
_MARK = b'"routerd.'

_decode_blocks = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str = msgspec.json.Decoder(str).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Kind(msgspec.Struct):
    role: Any = None
    type: Any = None
    signature: Any = None


_decode_kinds = msgspec.json.Decoder(list[_Kind]).decode


def prepare_native(fields: Mapping[str, Any], system_prompt: SystemPrompt | None, params: Params) -> dict[str, Any]:
    """Return the client's fields with the route's edits. Raises BadRequest where a value that a rule must read is unreadable."""
    return apply_native_params(prepare_counted(fields, system_prompt), params)


def prepare_counted(fields: Mapping[str, Any], system_prompt: SystemPrompt | None) -> dict[str, Any]:
    """Return what counts as input: the client's fields with the system prompt. Raises BadRequest where it is unreadable."""
    body = dict(fields)
    if system_prompt is not None:
        _place_prompt(body, system_prompt)
    if _MARK in memoryview(body["messages"]).tobytes():
        body["messages"] = _without_foreign_thinking(body["messages"])
    return body


def apply_native_params(fields: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Return the fields with drop, defaults, clamp and force applied, as far as the API has a name for the parameter."""
    named = Params(
        drop=tuple(_NAMES[key] for key in params.drop if key in _NAMES),
        defaults={_NAMES[key]: _value(key, value) for key, value in params.defaults.items() if key in _NAMES},
        clamp={_NAMES[key]: clamp for key, clamp in params.clamp.items() if key in _NAMES},
        force={_NAMES[key]: _value(key, value) for key, value in params.force.items() if key in _NAMES},
    )
    body = apply_params(fields, named)
    body.setdefault("max_tokens", DEFAULT_MAX_TOKENS)  # required
    return body


def _value(key: str, value: Any) -> Any:
    return [value] if key == "stop" and isinstance(value, str) else value


def _place_prompt(body: dict[str, Any], prompt: SystemPrompt) -> None:
    """1. if_missing: where the client has none. 2. replace. 3. prepend, append: one more block, or joined text."""
    raw = body.get("system")
    has_own = raw is not None and bytes(memoryview(raw)) not in (b"null", b'""', b"[]")
    if prompt.mode == "if_missing" and has_own:
        return
    if prompt.mode == "replace" or not has_own:
        body["system"] = prompt.text
        return
    assert raw is not None
    in_front = prompt.mode == "prepend"
    try:
        if bytes(memoryview(raw)[:1]) == b'"':
            own = _decode_str(raw)
            body["system"] = f"{prompt.text}\n\n{own}" if in_front else f"{own}\n\n{prompt.text}"
        else:
            blocks = _decode_blocks(raw)
            block = {"type": "text", "text": prompt.text}
            body["system"] = [block, *blocks] if in_front else [*blocks, block]
    except _UNREADABLE:
        raise BadRequest("`system` must be text or an array of text blocks.", param="system") from None


def _without_foreign_thinking(raw: msgspec.Raw) -> list[Any]:
    try:
        return [m for message in _decode_blocks(raw) if (m := _own_thinking(message)) is not None]
    except _UNREADABLE:
        raise BadRequest("`messages` must be an array of objects with a `role` and a `content`.", param="messages") from None


def _own_thinking(message: msgspec.Raw) -> Any:
    fields = _decode_object(message)
    content = fields.get("content")
    if content is None or bytes(memoryview(content)[:1]) != b"[" or _MARK not in bytes(content):
        return message
    kinds = _decode_kinds(content)
    kept = [
        block
        for block, kind in zip(_decode_blocks(content), kinds, strict=True)
        if not (kind.type == "thinking" and isinstance(kind.signature, str) and kind.signature.startswith("routerd."))
    ]
    return {**fields, "content": kept} if kept else None


def encode_native(body: Mapping[str, Any], model: str, extra: Mapping[str, Any]) -> bytes:
    """Encode for one target: its model name and the provider's static fields; everything untouched keeps its bytes."""
    return encode_body(body, model=model, extra=extra, include_usage=False)


def decode_native(body: bytes) -> UnaryAnswer:
    """Return what routing must know of a whole answer; the body goes to the client as it is. Raises ProtocolFault."""
    message = read_message(body)
    if message.error:
        return UnaryAnswer(error=classify_value(message.error))
    counts = counts_of(message.usage)
    reason = message.stop_reason if isinstance(message.stop_reason, str) else ""
    return UnaryAnswer(
        usage=counts.usage() if counts is not None else None,
        response_model=message.model if isinstance(message.model, str) else None,
        finish_reason=FINISH_OF_STOP.get(reason, "stop"),
    )


class NativeScan(RelayScan):
    """A stream that is forwarded as it came, and only looked at. The framing, and what is left out, is RelayScan's."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__(withhold_usage=False)
        self._counts = Counts()

    def _event(self, event: bytes) -> bool:
        at = event.find(b"\n")
        if event.startswith(b"event: ") and event.startswith(b"data: {", at + 1) and event.find(b"\n", at + 1) == len(event) - 2:
            return self._payload(event[at + 7 :], False)
        return super()._event(event)

    def _payload(self, payload: bytes, named_error: bool) -> bool:
        del named_error  # the JSON says it too
        event = read_event(payload)
        if event is None:
            return self._not_json(payload, False)
        self.malformed_run = 0
        kind = event.type
        if kind == "content_block_delta":
            self.content = True
        elif kind == "content_block_start":
            block = event.content_block
            self.content = self.content or (block is not None and (block.type not in ("text", "thinking") or bool(block.text)))
        elif kind == "message_start" and isinstance(event.message, dict):
            model = event.message.get("model")
            self.model = model if isinstance(model, str) else None
            self._count(event.message.get("usage"))
        elif kind == "message_delta":
            self._count(event.usage)
            if event.delta is not None and event.delta.stop_reason is not None:
                self.content = self.finished = True
        elif kind == "message_stop":
            self.content = self.finished = self.done = True
        elif kind == "error":
            if not self.finished:
                self.fault = StreamFault("the upstream reported an error inside its stream", event.error or {"type": "api_error"})
            return False
        return True

    def _count(self, value: Any) -> None:
        if isinstance(value, dict):
            self._counts.take(value)
            self.usage = self._counts.usage()


class NativeMessages:
    """The dialect of a Messages client at an Anthropic target. `body` of `encode` is what `prepare_native` returned."""

    __slots__ = ()

    name = "anthropic"
    operations = frozenset({"chat", "count_tokens"})
    stream_types: tuple[bytes, ...] = (b"text/event-stream",)

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode for this target, with the betas that the client asked for."""
        path = "v1/messages" if call.operation == "chat" else f"v1/{call.path}"
        return Encoded(path=path, body=encode_native(body, call.model, call.extra), fields=call.fields)

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Look at a whole answer and return it as it came."""
        return body, decode_native(body) if call.operation == "chat" else decode_unary(body, call.operation)

    def scan(self, call: Call) -> Scan:
        """Return the scan that forwards events as they come."""
        del call
        return NativeScan()
