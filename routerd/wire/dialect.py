"""The seam between routerd's own words, OpenAI's, and what a provider speaks.

A dialect does three things for one attempt: it encodes the request, decodes a whole answer, and makes the scan of a stream.
What goes in and comes out is OpenAI JSON and OpenAI events, so every pair of client and target is two steps through one form.
A scan is fed what arrives and returns the bytes that the client may see now: as they came where the dialects are the same
(`relay_scan`), translated otherwise. A dialect knows no target, credential or socket.

What a target cannot express is never dropped in silence: a dialect raises BadRequest with the `param` (the answer would be
another one), or leaves it out and names it in `Encoded.dropped` (the answer stays good; told in `x-routerd-dropped`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from routerd.messages import Usage
from routerd.wire.openai.answer import UnaryAnswer
from routerd.wire.openai.relay_scan import StreamFault

__all__ = ["Call", "Dialect", "Encoded", "Scan"]


class Call(msgspec.Struct, kw_only=True):
    """What a dialect must know of one attempt besides the body."""

    operation: str  # as ModelRequest.operation
    path: str  # what the client called, below /v1
    model: str  # the upstream's name for the model
    stream: bool = False
    choices: int = 1  # that were asked for (`n`), set by `encode`: without its end mark a stream is whole when all have ended
    wants_usage: bool = False  # the client asked for the usage chunk of a stream
    asked_model: str = ""  # what the client called the model: the `model` of a translated answer
    answer_id: str = ""  # for answers without an id of their own, after `chatcmpl-`
    created_unix_s: int = 0  # for answers without a time of their own
    fields: Mapping[str, str] = msgspec.field(default_factory=dict)  # header fields of the client that belong to its own dialect
    input_bytes: int = 0  # of the conversation, set by `encode`: for usage that the upstream does not tell
    # The provider's static body fields: merged in last, winning at leaves.
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Encoded(msgspec.Struct, kw_only=True):
    """A request as the upstream wants it. `path` is below the endpoint's URL and may carry a query."""

    path: str
    body: bytes
    dropped: tuple[str, ...] = ()  # parameters of the client that the target has no word for
    fields: Mapping[str, str] = msgspec.field(default_factory=dict)  # header fields of this request alone


class Scan(Protocol):
    """The state of one stream. Facts are about everything fed so far."""

    content: bool  # something a user would see, or a finish, has come
    finished: bool  # a finish_reason has come for every choice: the end of the bytes is a good end
    done: bool  # the upstream's own end mark has come and `data: [DONE]` was returned; what follows is dropped
    fault: StreamFault | None  # an error event of the upstream, or a broken stream; nothing is returned after it
    malformed: int  # events that were left out

    @property
    def usage(self) -> Usage | None:
        """The last one reported: the same object until there is another."""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the OpenAI events (`data: {...}` and a blank line each) that may be forwarded now."""

    def close(self) -> bytes:
        """The upstream's bytes have ended; return what was still held. Without a finish, `finished` stays False: a cut stream."""


class Dialect(Protocol):
    """One provider's language. Stateless but for its settings; one instance a provider and generation."""

    name: str  # as in YAML
    operations: frozenset[str]  # what it can express; a target is skipped for others
    stream_types: tuple[bytes, ...]  # media types of a streamed answer, others are faults; empty: all but JSON and HTML

    def encode(self, body: Mapping[str, Any], call: Call) -> Encoded:
        """Encode an OpenAI body (top-level values are raw JSON or Python values). Raises BadRequest naming the `param`."""

    def decode(self, body: bytes, call: Call) -> tuple[bytes, UnaryAnswer]:
        """Return the OpenAI body for the client, and what routing must know. Raises ProtocolFault; `error`: a fault in a 200."""

    def scan(self, call: Call) -> Scan:
        """Return the scan of one stream."""
