"""A scripted upstream over a real socket: the test decides every byte and the moment of each.

An `Answer` is an async function of a `Call`; `Upstream.script(a, b)` answers the first request with a, the second with b;
`Upstream.always(a)` answers whatever is not scripted. A Call can send raw bytes, a head, chunks, trailers; close, reset (RST by
SO_LINGER 0), or wait for the client to leave. Every request is recorded as it came, head and body. Nothing here sleeps: a pause
is an event that the test sets.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.ports import free_port

Headers = Sequence[tuple[str, str]]

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


class ClientGone(Exception):
    """The other side closed while the answer was still being written."""


@dataclass(slots=True, kw_only=True)
class Received:
    """One request as it arrived. Header names keep their case in `raw_head`, and are lower-case in `headers`."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    raw_head: bytes
    body: bytes
    connection: int  # which connection of this upstream, from 1
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # set when the connection that brought it has closed
    gone_at_s: float = 0.0  # loop time of that

    def header(self, name: str) -> str | None:
        """Return the first value of header `name`, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)


class Call:
    """One request being answered."""

    def __init__(self, request: Received, connection: Connection) -> None:
        self.request = request
        self._connection = connection

    async def send(self, data: bytes) -> None:
        """Write raw bytes; returns when the socket took them, raises ClientGone when there is nobody to take them."""
        await self._connection.send(data)

    async def head(self, status: int = 200, headers: Headers = (), *, version: str = "1.1") -> None:
        """Write a status line and headers."""
        lines = [f"HTTP/{version} {status} {REASONS.get(status, 'Status')}", *(f"{k}: {v}" for k, v in headers)]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def chunk(self, data: bytes) -> None:
        """Write one chunk of a chunked body."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_chunks(self, trailers: Headers = ()) -> None:
        """End a chunked body."""
        await self.send(b"0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in trailers) + b"\r\n")

    async def body(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole answer with a content-length."""
        await self.head(status, [*headers, ("content-length", str(len(body)))])
        await self.send(body)

    async def client_gone(self) -> None:
        """Wait until the other side closes the connection."""
        await self.request.gone.wait()

    def close(self) -> None:
        """Close the connection in good order (FIN) after what was written."""
        self._connection.transport.close()

    def reset(self) -> None:
        """Close the connection with a RST."""
        sock = self._connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.transport.abort()


Answer = Callable[[Call], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One accepted connection: splits what arrives into requests and answers them in turn."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._data = bytearray()
        self._requests: asyncio.Queue[Received | None] = asyncio.Queue()  # None: the connection is gone
        self._current: Received | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self._number = 0
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._number = self._upstream._opened(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (request := self._take_request()) is not None:
            self._requests.put_nowait(request)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._writable.set()
        self._upstream._closed(self)
        self._requests.put_nowait(None)
        if self._current is not None:
            self._current.gone_at_s = asyncio.get_running_loop().time()
            self._current.gone.set()

    async def send(self, data: bytes) -> None:
        if self._lost or self.transport.is_closing():
            raise ClientGone
        self.transport.write(data)
        await self._writable.wait()

    def stop(self) -> None:
        """Forget this connection, whatever its answer is waiting for."""
        if self._task is not None:
            self._task.cancel()
        self.transport.abort()

    async def _serve(self) -> None:
        while (request := await self._requests.get()) is not None:
            self._current = request
            try:
                await self._upstream._answer(request)(Call(request, self))
            except ClientGone:
                return

    def _take_request(self) -> Received | None:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return None
        raw_head = bytes(self._data[: end + 4])
        first, *lines = raw_head[:-4].decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        start = end + 4
        if any(name == "transfer-encoding" and "chunked" in value for name, value in headers):
            if not self._data.endswith(b"\r\n\r\n"):  # looked at when it may be whole: an upload comes in thousands of reads
                return None
            body, used = _dechunk(bytes(self._data[start:]))
        else:
            used = int(next((value for name, value in headers if name == "content-length"), "0"))
            body = bytes(self._data[start : start + used]) if len(self._data) - start >= used else None
        if body is None:
            return None
        del self._data[: end + 4 + used]
        method, target, _ = first.split(" ", 2)
        request = Received(method=method, target=target, headers=headers, raw_head=raw_head, body=body, connection=self._number)
        self._upstream._arrived(request)
        return request


class Upstream:
    """A server on a loopback port whose answers are scripted. Use as an async context manager."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.connections_opened = 0
        self._tls = tls
        self._script: deque[Answer] = deque()
        self._always: Answer | None = None
        self._open: set[Connection] = set()
        self._news = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unexpected: list[str] = []
        self.port = free_port()  # stays its own while it is away

    @property
    def url(self) -> str:
        """The base URL for `base_url:`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def connections_open(self) -> int:
        """How many connections stand now."""
        return len(self._open)

    def script(self, *answers: Answer) -> None:
        """Answer the next requests with these, in order of arrival."""
        self._script.extend(answers)

    def always(self, answer: Answer) -> None:
        """Answer every request that has no scripted answer with this one."""
        self._always = answer

    async def received(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """Wait until `count` requests have arrived in all, and return them."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return self.requests[:count]

    async def __aenter__(self) -> Upstream:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, ssl=self._tls)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in tuple(self._open):
            connection.stop()
        await self._server.wait_closed()
        assert not self._unexpected, f"requests that no answer was scripted for: {self._unexpected}"

    def _answer(self, request: Received) -> Answer:
        if self._script:
            return self._script.popleft()
        if self._always is None:
            self._unexpected.append(f"{request.method} {request.target}")
            return _close
        return self._always

    def _opened(self, connection: Connection) -> int:
        self._open.add(connection)
        self.connections_opened += 1
        return self.connections_opened

    def _closed(self, connection: Connection) -> None:
        self._open.discard(connection)

    def _arrived(self, request: Received) -> None:
        self.requests.append(request)
        task = asyncio.get_running_loop().create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


async def _close(call: Call) -> None:
    call.close()


def _dechunk(data: bytes) -> tuple[bytes | None, int]:
    """Decode a chunked body; (None, 0) while it is not whole."""
    pieces: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None, 0
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            finish = data.find(b"\r\n\r\n", end)  # trailers, if any, are skipped
            return (b"".join(pieces), finish + 4) if finish >= 0 else (None, 0)
        if len(data) < end + 2 + size + 2:
            return None, 0
        pieces.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
