"""The wire between control and one worker: length-prefixed pickles over a socket pair, and the messages on it.

Both ends are the same program started by the same parent, so pickles are safe here and nowhere else. Messages are delivered in
order; the end of the stream means that the other process is gone. A message that cannot be decoded is Undecodable, and the next
one is read as usual: its length was known. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import copyreg
import io
import pickle
import socket
import struct
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from routerd.errors import Problem
from routerd.graph import ClientCredentials
from routerd.observe import Snapshot

__all__ = [
    "NOTICES",
    "Abort",
    "Ask",
    "Channel",
    "Commit",
    "Committed",
    "Drain",
    "Forget",
    "Hello",
    "News",
    "Notice",
    "Piece",
    "Prepare",
    "Prepared",
    "Stream",
    "Tick",
    "Undecodable",
    "WantToken",
    "decode",
    "encode",
]

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a graph on its way to a worker: up to some tens of items of one field."""

    number: int
    name: str  # the field of Graph
    form: str  # mapping | names | value
    items: Any


@dataclass(frozen=True, slots=True)
class Prepare:
    """All pieces were sent: build the generation, change nothing that serves."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Serve the prepared generation from now on."""

    number: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Forget the prepared generation and its pieces."""

    number: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Answer with a Tick that carries this ticket."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting, finish what runs within `timeout_s`, then exit."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class News:
    """Something that control found out for all workers; it belongs to no generation."""

    what: Any


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the series of what was removed from the configuration long ago: pairs of label and value."""

    names: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class WantToken:
    """A worker needs an access token of `source`, another than the one that was `refused`; the answer is news."""

    source: ClientCredentials
    refused: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker has imported everything and waits for a generation."""

    pid: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The answer to Prepare; with problems the generation could not be built."""

    number: int
    problems: tuple[Problem, ...] = ()
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to Commit: requests that arrive now are served by it."""

    number: int
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A sign of life: changed series and, with the last piece, requests by generation."""

    snapshot: Snapshot
    inflight: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, tuple[int, int]] = field(default_factory=dict)  # by generation: requests that ended, and that failed
    lag_s: float = 0.0
    ticket: int = 0  # of the Ask this answers; 0: a regular one
    last: bool = True


@dataclass(frozen=True, slots=True)
class Notice:
    """Something an operator wants to hear of at once: control makes an event of it. `kind` is one of NOTICES."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)  # plain values, names of the configuration, never a secret


NOTICES = frozenset({"breaker", "cooldown", "budget_exhausted"})


class Undecodable(Exception):
    """A message came whole and is none that this process can read."""


class Stream(Protocol):
    """What control and worker ask of the wire."""

    def send(self, message: Any) -> None:
        """Queue one message."""

    def send_frames(self, frames: tuple[bytes, ...]) -> None:
        """Queue messages that are encoded already."""

    async def receive(self) -> Any:
        """Return the next message; EOFError when the other side is gone, Undecodable when it cannot be read."""

    def close(self) -> None:
        """Close this end."""


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


class _Pickler(pickle.Pickler):
    """A pickler that knows read-only mappings."""

    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda mapping: (_read_only, (dict(mapping),))


def encode(message: Any) -> bytes:
    """Return `message` as one frame."""
    out = io.BytesIO()
    out.write(_LENGTH.pack(0))
    _Pickler(out, protocol=5).dump(message)
    frame = out.getbuffer()
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return bytes(frame)


def decode(frame: bytes) -> Any:
    """Return the message of a whole frame. Undecodable when it cannot be read."""
    return loaded(memoryview(frame)[_LENGTH.size :])


def loaded(message: bytes | memoryview) -> Any:
    """Return the message without its length. A pickle may fail with any exception, as it runs what it names."""
    try:
        return pickle.loads(message)
    except Exception as exc:
        raise Undecodable(f"{type(exc).__name__}: {exc}") from exc


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Take over a connected unix socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def send(self, message: Any) -> None:
        """Queue one message; a peer that is gone is noticed by `receive`, not here."""
        self.send_frames((encode(message),))

    def send_frames(self, frames: tuple[bytes, ...]) -> None:
        """Queue messages that are encoded already."""
        if not self._writer.is_closing():
            for frame in frames:
                self._writer.write(frame)

    @property
    def unsent_bytes(self) -> int:
        """How much is queued that the other side has not taken."""
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> Any:
        """Return the next message; EOFError when the other side is gone, Undecodable when it cannot be read."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise EOFError("the other process is gone") from exc
        return loaded(message)

    async def flush(self) -> None:
        """Wait until what was queued is written."""
        try:
            await self._writer.drain()
        except ConnectionError as exc:
            raise EOFError("the other process is gone") from exc

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
