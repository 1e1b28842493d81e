"""The template dialect as attempts use it.

Streamed or not is the client's wish; how the service answers is the template's. A service without `stream` is asked for a whole
answer and its text becomes one chunk; one without `response` is read as a stream and its chunks become one answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import BadRequest, ProtocolFault
from routerd.graph import Provider, Template
from routerd.messages import Usage
from routerd.wire.dialect import Call, Encoded, Scan
from routerd.wire.faults.classify import classify_value
from routerd.wire.framing import Framing
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.template.read import Fields, Read, make_reader
from routerd.wire.template.request import Filler
from routerd.wire.template.scan import Counted, TemplateScan
from routerd.wire.translation.compose import Choice, answer_body
from routerd.wire.translation.pivot import dump, merged, refuse, unknown

__all__ = ["TemplateDialect"]

# Without them the answer would be another one than was asked for.
_NEEDED = ("tools", "response_format", "n")
_HARMLESS = frozenset({b"null", b"[]", b"1", b'{"type":"text"}', b'{"type": "text"}'})


class TemplateDialect:
    """One described service; see wire.dialect.Dialect."""

    __slots__ = ("_fields", "_filler", "_stream_fields", "_template", "stream_types")

    name = "template"
    operations = frozenset({"chat", "completion"})

    def __init__(self, provider: Provider) -> None:
        assert provider.template is not None
        template: Template = provider.template
        self._template = template
        self._filler = Filler(template.request, template.path)
        self._fields = Fields(template.response) if template.response is not None else None
        self._stream_fields = Fields(template.stream) if template.stream is not None else None
        # A service that does not stream answers in JSON, whatever the client wants.
        self.stream_types: tuple[bytes, ...] = () if template.stream is not None else (b"application/json", b"text/plain")

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Fill the template. Raises BadRequest for what it has no place for and cannot be left out."""
        places = self._filler.params
        spare = {key: value for key, value in body.items() if key not in places}
        refuse(spare)
        for key in _NEEDED:
            value = spare.get(key)
            raw = bytes(value) if isinstance(value, msgspec.Raw) else dump(value)
            if key in spare and raw not in _HARMLESS:
                raise BadRequest(f"`{key}` cannot be sent to this model.", param=key)
        streams = call.stream and self._template.stream is not None
        filled, path, call.input_bytes = self._filler.fill(body, call, stream=streams)
        dropped = unknown(spare, _NEEDED)
        return Encoded(path=path, body=dump(merged(filled, call.extra)), dropped=tuple(dropped))

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Collect a whole answer. Raises ProtocolFault where it holds no text."""
        if not body.strip():
            raise ProtocolFault("the upstream answered 200 with an empty body")
        framing, read = self._reader(stream=self._fields is None)
        counted, choice, found = Counted(call), Choice(), False
        for piece in map(read, (*framing.feed(body), *framing.close())):
            if piece is None:
                continue
            if piece.error:
                return body, UnaryAnswer(error=classify_value(piece.error))
            found = found or bool(piece.text or piece.thought)
            counted.add(piece)
            choice.texts.append(piece.text)
            if piece.thought:
                choice.thoughts.append(piece.thought)
            choice.finish_reason = piece.finish or choice.finish_reason
            if piece.done:
                break
        if not found:
            raise ProtocolFault("the upstream's answer holds no text at the place that the template names")
        usage: Usage = counted.usage()
        out = answer_body(
            call, answer_id=call.answer_id, created_unix_s=call.created_unix_s, choices=[choice], usage=usage
        )
        return out, UnaryAnswer(usage=usage, finish_reason=choice.finish_reason)

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
        stream = self._template.stream
        framing, read = self._reader(stream=stream is not None)
        return TemplateScan(call, framing, read, eof_ends=stream is not None and stream.eof_ends)

    def _reader(self, *, stream: bool) -> tuple[Framing, Read]:
        described = self._template.stream
        if not stream or described is None:
            assert self._fields is not None
            return make_reader("whole", self._fields, "")
        assert self._stream_fields is not None
        return make_reader(described.format, self._stream_fields, described.done)
