"""A simulated upstream: a loopback server that answers chat requests in OpenAI's words, or does what the fault says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from routerd.daemon.drill.scenario import Fault

__all__ = ["Simulated"]

WELL = Fault()


class Simulated:
    """One endpoint. Lengths are those of the compressed time."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.port = 0
        self._rng = rng
        self._fault = WELL
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def become(self, fault: Fault) -> None:
        """Behave like this from now on."""
        self._fault = fault
        if fault.kind == "refuse":
            await self.stop()
        elif self._server is None:
            await self.start()

    async def stop(self) -> None:
        """Refuse connections, and end those that stand."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in tuple(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
                body = await reader.readexactly(int(length.partition(b":")[2]))
                if not await self._answer(writer, json.loads(body or b"{}")):
                    return
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            return  # cancelled at the end of the rehearsal: asyncio's own server would log that
        finally:
            self._open.discard(writer)
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, asked: Any) -> bool:
        """Answer one request; return whether the connection goes on."""
        fault = self._fault
        if self._rng.random() >= fault.ratio:
            fault = WELL
        if fault.late_s:
            await asyncio.sleep(fault.late_s)
        if fault.kind == "reset":
            _reset(writer)
            return False
        if fault.kind == "hang":
            await asyncio.sleep(3600)
        if fault.kind == "status":
            extra = f"retry-after-ms: {fault.retry_after_s * 1000:.0f}\r\n" if fault.retry_after_s else ""
            _whole(writer, fault.status, {"error": {"message": "simulated", "type": "simulated", "code": None}}, extra)
        elif asked.get("stream"):
            return await self._stream(writer, asked, cut=fault.kind == "cut")
        else:
            _whole(writer, 200, _completion(asked), cut=fault.kind == "cut")
            if fault.kind == "cut":
                _reset(writer)
                return False
        await writer.drain()
        return True

    async def _stream(self, writer: asyncio.StreamWriter, asked: Any, *, cut: bool) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for word in ("It ", "is ", "a ", "rehearsal."):
            _event(writer, {**_chunk(asked), "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
            await writer.drain()
            if cut:
                await asyncio.sleep(0.01)  # so that the piece is read before the reset overtakes it
                _reset(writer)
                return False
        _event(writer, {**_chunk(asked), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        _event(writer, {**_chunk(asked), "choices": [], "usage": _USAGE})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        return True


_USAGE = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}


def _chunk(asked: Any) -> dict[str, Any]:
    return {"id": "rehearsal", "object": "chat.completion.chunk", "created": 0, "model": str(asked.get("model", ""))}


def _completion(asked: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "It is a rehearsal."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {**_chunk(asked), "object": "chat.completion", "choices": choices, "usage": _USAGE}


def _whole(writer: asyncio.StreamWriter, status: int, value: Any, extra: str = "", *, cut: bool = False) -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} Simulated\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + (body[:10] if cut else body))


def _event(writer: asyncio.StreamWriter, value: Any) -> None:
    data = b"data: %s\n\n" % json.dumps(value).encode()
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
