"""What every scan that translates has in common: the facts, the reading loop, how it begins, breaks and ends.

A subclass says what one piece of its stream means (`_take`); everything that a stream can do wrong is told here, in one way:
an error of the upstream is a fault, unless a finish came before it (as in `relay_scan`); what cannot be read is left out and
counted, three in a row are a fault. Usage that stands on every event is read when somebody asks for it (`_counts`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.errors import ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Call
from routerd.wire.framing import Framing
from routerd.wire.openai.relay_scan import DONE, MAX_MALFORMED_RUN, StreamFault
from routerd.wire.translation.compose import Chunks

__all__ = ["Said", "TranslatedScan"]

Said = list[bytes | msgspec.Raw]  # what the client may see, in pieces


class TranslatedScan:
    """The state of one stream; see wire.dialect.Scan."""

    __slots__ = (
        "_call", "_chunks", "_counts", "_cut", "_malformed_run", "_rest", "_usage", "content", "done", "fault", "finished",
        "malformed", "model",
    )  # fmt: skip

    def __init__(self, call: Call, framing: Framing) -> None:
        self.content = False
        self.finished = False
        self.done = False
        self.model: str | None = None
        self.fault: StreamFault | None = None
        self.malformed = 0
        self._malformed_run = 0
        self._call = call
        self._cut = framing.feed
        self._rest = framing.close
        self._chunks: Chunks | None = None  # None: nothing was said yet
        self._usage: Usage | None = None
        self._counts: Any = None  # the last usage as it was reported, unread

    @property
    def usage(self) -> Usage | None:
        """The last one reported; the same object until there is another."""
        if self._counts is not None:
            counts, self._counts = self._counts, None
            self._usage = self._usage_of(counts) or self._usage
        return self._usage

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the chunks that it makes."""
        out: Said = []
        try:
            for payload in self._cut(data):
                if self.done or self.fault is not None:
                    break  # what follows an end or an error is dropped
                self._take(payload, out)
        except ProtocolFault as exc:
            self._broken(exc)
        return b"".join(out)

    def close(self) -> bytes:
        """The bytes have ended: take what was held, and say the end if there was a finish."""
        out: Said = []
        try:
            for payload in self._rest():
                if self.done or self.fault is not None:
                    break
                self._take(payload, out)
        except ProtocolFault as exc:
            self._broken(exc)
        if not self.done and self.fault is None:
            self._at_end(out)
        return b"".join(out)

    def _broken(self, exc: ProtocolFault) -> None:
        if not self.done and self.fault is None:
            self.fault = StreamFault(exc.message)

    # ── what a dialect says ──

    def _take(self, payload: bytes, out: Said) -> None:
        """Say one piece of the stream."""
        raise NotImplementedError

    def _usage_of(self, counts: Any) -> Usage | None:
        """Read what `_counts` kept."""
        raise NotImplementedError

    def _at_end(self, out: Said) -> None:
        """The bytes have ended without an end mark: a good end behind a finish, else a cut stream."""
        if self.finished:
            self._end(out)

    # ── what happens to all ──

    def _open(self, answer_id: str, created_unix_s: int) -> Chunks:
        """Name the answer."""
        self._chunks = Chunks(self._call, answer_id=answer_id, created_unix_s=created_unix_s)
        return self._chunks

    def _end(self, out: Said) -> None:
        """Say the usage, where it was asked for, and the end mark."""
        if self._call.wants_usage and self._chunks is not None:
            out.append(self._chunks.usage(self.usage or Usage()))
        out.append(DONE)
        self.done = True

    def _failed(self, error: Any) -> None:
        """The upstream reports an error."""
        if not self.finished:
            self.fault = StreamFault("the upstream reported an error inside its stream", error)

    def _unreadable(self) -> None:
        """A piece is nothing that the dialect could mean."""
        self.malformed += 1
        self._malformed_run += 1
        if self._malformed_run >= MAX_MALFORMED_RUN:
            self.fault = StreamFault(f"the upstream sent {MAX_MALFORMED_RUN} malformed events in a row")
