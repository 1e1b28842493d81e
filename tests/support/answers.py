"""Answers for a scripted upstream, in OpenAI's dialect: whole, streamed, wrong in a chosen way.

Each function returns an Answer (see tests.support.upstream). Gates are events: the answer stops there until the test sets them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.support.upstream import Answer, Call, Headers

JSON = ("content-type", "application/json")
EVENT_STREAM: Headers = (("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def completion(
    text: str = "Hello there", *, model: str = "m", usage: dict[str, int] | None = None, **message: Any
) -> dict[str, Any]:
    """Build the body of a chat.completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}],
        "usage": usage or USAGE,
    }


def delta(content: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Build one chat.completion.chunk."""
    fields = {**({} if content is None else {"content": content}), **more}
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m", "choices": [choice]}


def event(data: dict[str, Any] | str) -> bytes:
    """Frame one server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


DONE = event("[DONE]")


def reply(body: dict[str, Any] | bytes | None = None, *, status: int = 200, headers: Headers = (JSON,)) -> Answer:
    """Answer with a whole body; a completion by default."""
    raw = body if isinstance(body, bytes) else json.dumps(completion() if body is None else body).encode()

    async def answer(call: Call) -> None:
        await call.body(status, headers, raw)

    return answer


def gated(then: Answer, gate: asyncio.Event) -> Answer:
    """Answer with `then` once the gate is open."""

    async def answer(call: Call) -> None:
        await gate.wait()
        await then(call)

    return answer


def error(status: int, message: str = "it broke", *, headers: Headers = (), code: str | None = None) -> Answer:
    """Answer with an error in OpenAI's shape."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return reply(body, status=status, headers=(JSON, *headers))


def zipped(body: dict[str, Any]) -> Answer:
    """Answer with a gzip-encoded body."""
    return reply(gzip.compress(json.dumps(body).encode()), headers=(JSON, ("content-encoding", "gzip")))


def stream(
    texts: Iterable[str] = ("Hel", "lo"), *, gates: Sequence[asyncio.Event] = (), headers: Headers = EVENT_STREAM
) -> Answer:
    """Stream a role chunk, then each text as a delta, a finish, the usage chunk when it was asked for, and [DONE].

    `gates[i]` is awaited before text i.
    """
    pieces = list(texts)

    async def answer(call: Call) -> None:
        await call.head(200, headers)
        await call.chunk(event(delta("", role="assistant")))
        for i, text in enumerate(pieces):
            if i < len(gates):
                await gates[i].wait()
            await call.chunk(event(delta(text)))
        await call.chunk(event(delta(finish="stop")))
        if (call.request.json().get("stream_options") or {}).get("include_usage"):
            await call.chunk(event({**delta(), "choices": [], "usage": USAGE}))
        await call.chunk(DONE)
        await call.end_chunks()

    return answer


def events(*blocks: bytes, end: bool = True) -> Answer:
    """Stream these bytes, one chunk each; `end=False` leaves the body open and hangs until the client leaves."""

    async def answer(call: Call) -> None:
        await call.head(200, EVENT_STREAM)
        for block in blocks:
            await call.chunk(block)
        if end:
            await call.end_chunks()
        else:
            await call.client_gone()

    return answer


def cut(*blocks: bytes, reset: bool = False) -> Answer:
    """Stream these bytes, then lose the connection in the middle of the body."""

    async def answer(call: Call) -> None:
        await call.head(200, EVENT_STREAM)
        for block in blocks:
            await call.chunk(block)
        if reset:
            call.reset()
        else:
            call.close()

    return answer


def cut_unary(sent: bytes = b'{"id": "chat', *, declared: int = 400) -> Answer:
    """Declare a longer body than what is sent, then close."""

    async def answer(call: Call) -> None:
        await call.head(200, (JSON, ("content-length", str(declared))))
        await call.send(sent)
        call.close()

    return answer


def raw(data: bytes, *, close: bool = True) -> Answer:
    """Answer with exactly these bytes."""

    async def answer(call: Call) -> None:
        await call.send(data)
        if close:
            call.close()

    return answer


def drip(piece: bytes, every_s: float = 0.05) -> Answer:
    """Send a head and then these bytes again and again, until the client leaves."""

    async def answer(call: Call) -> None:
        await call.head(200, EVENT_STREAM if piece.endswith(b"\n\n") else (JSON, ("transfer-encoding", "chunked")))
        await dripping(call, piece, every_s)

    return answer


async def dripping(call: Call, piece: bytes, every_s: float = 0.05) -> None:
    """Send these bytes again and again, until the client leaves."""
    while not call.request.gone.is_set():
        await call.chunk(piece)
        try:
            await asyncio.wait_for(call.request.gone.wait(), every_s)
        except TimeoutError:
            pass


async def hang(call: Call) -> None:
    """Accept the request and never answer."""
    await call.client_gone()


async def hang_after_head(call: Call) -> None:
    """Send the head of a stream and nothing more."""
    await call.head(200, EVENT_STREAM)
    await call.client_gone()


async def reset(call: Call) -> None:
    """Reset the connection instead of answering."""
    call.reset()


async def hang_up(call: Call) -> None:
    """Close the connection instead of answering."""
    call.close()
