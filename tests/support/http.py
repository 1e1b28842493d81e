"""Plain HTTP towards the daemon: whole answers with every header, and raw bytes for what no client library would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy

from tests.support.daemon import Daemon

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; the answer must be one, in OpenAI's shape."""
        found = self.json()["error"]
        assert isinstance(found["message"], str), found
        assert found["message"], found
        assert isinstance(found["type"], str), found
        assert {"code", "param"} <= set(found), found
        assert isinstance(found, dict)
        return found

    def events(self) -> list[Any]:
        """Decode the body as server-sent events: JSON values, and `[DONE]` as text."""
        blocks = [block for block in self.body.decode().replace("\r\n", "\n").split("\n\n") if block.strip()]
        data = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


async def fetch(
    daemon: Daemon,
    path: str = CHAT,
    body: Mapping[str, Any] | bytes | None = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    within_s: float = 30.0,
) -> Fetched:
    """Send one request over a connection of its own; POST when there is a body. Raises TimeoutError after `within_s`."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {**({"content-type": "application/json"} if data is not None else {}), **(headers or {})}
    verb = method or ("GET" if data is None else "POST")
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s)) as session,
        session.request(verb, daemon.url + path, data=data, headers=sent) as answer,
    ):
        return Fetched(status=answer.status, headers=answer.headers, body=await answer.read())


def ask(model: str = "m", text: str = "Hello", **more: Any) -> dict[str, Any]:
    """Build the body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def head_of(path: str, body: bytes, *headers: str) -> bytes:
    """Build the head and body of a POST, for raw sockets."""
    lines = [f"POST {path} HTTP/1.1", "Host: routerd", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class RawClient:
    """A TCP connection to the daemon's data address. Use as an async context manager."""

    def __init__(self, daemon: Daemon) -> None:
        self._address = daemon.address

    async def __aenter__(self) -> RawClient:
        self.reader, self.writer = await asyncio.open_connection(*self._address, limit=2**22)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, mark: bytes, timeout_s: float = 10.0) -> bytes:
        """Read up to and with `mark`."""
        async with asyncio.timeout(timeout_s):
            return await self.reader.readuntil(mark)

    async def read_to_end(self, timeout_s: float = 10.0) -> bytes:
        """Read until the daemon closes; a reset counts as an end."""
        data = b""
        async with asyncio.timeout(timeout_s):
            try:
                while block := await self.reader.read(65536):
                    data += block
            except ConnectionError:
                pass
        return data
