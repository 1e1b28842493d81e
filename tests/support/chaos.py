"""Upstreams that fail at random, and clients that check every answer: what the chaos test is made of.

Each request has a number, which is in its prompt; the right answer follows from the number. So a client knows a right answer from
a wrong one, from a part of it, and from that of somebody else. Which fault a request meets follows from the seed, its number and
how often it was tried; what is left to chance is only when.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support import answers
from tests.support.answers import DONE, USAGE, delta, error, event, reply
from tests.support.upstream import Answer, Call, ClientGone

ROLE = event(delta("", role="assistant"))
STOP = event(delta(finish="stop"))
MINE = {"authorization": "Bearer gk-chaos"}
SECRET = "sk-upstream-secret-0123456789"
OVERLOADED = event({"error": {"message": f"overloaded, your key is {SECRET}", "type": "server_error", "code": 529}})
HTML = (("content-type", "text/html"),)
THE_CLIENTS = frozenset({"400", "too-long"})

# What may happen instead of an answer, before the client has anything.
BEFORE: Mapping[str, Answer] = {
    "reset": answers.reset,
    "hangs-up": answers.hang_up,
    "hangs": answers.hang,
    "hangs-after-head": answers.hang_after_head,
    "401": error(401, f"Incorrect API key provided: {SECRET}"),
    "402": error(402, "no credit"),
    "404": error(404, "The model does not exist"),
    "408": error(408),
    "429": error(429, "slow down", headers=[("retry-after", "1")]),
    "500": error(500),
    "502": reply(b"<html>Bad gateway</html>", status=502, headers=HTML),
    "503": error(503),
    "529": error(529, "overloaded"),
    "empty": reply(b""),
    "html": reply(b"<html></html>", headers=HTML),
    "cut-whole": answers.cut_unary(),
    "400": error(400, "temperature is wrong"),
    "too-long": error(400, "This model's maximum context length is 10 tokens", code="context_length_exceeded"),
}
BEFORE_STREAM: Mapping[str, Answer] = {
    **BEFORE,
    "error-first": answers.events(OVERLOADED),
    "no-content": answers.events(ROLE, DONE),
    "cut-first": answers.cut(ROLE),
    "comments": answers.events(b": wait\n\n", b": wait\n\n", end=False),
}
AFTER = ("cut", "reset", "idle", "error-event", "malformed", "no-finish")
HARMLESS = ("one-malformed", "no-done", "bytes", "slow", "one-packet", "late-error")


def pieces_of(number: int) -> list[str]:
    """Return the right answer to a request, as it is streamed."""
    return [f"{number}:{i} " for i in range(3 + number % 5)]


@dataclass
class Faulty:
    """The script of all upstreams. `calm` True: from now on all is well."""

    seed: int
    fault_ratio: float = 0.4
    calm: bool = False
    active: int = 0  # answers that are being given
    seen: Counter[int] = field(default_factory=Counter)  # request -> attempts that arrived
    given: Counter[str] = field(default_factory=Counter)  # fault -> times
    clients_own: set[int] = field(default_factory=set)  # requests that were told that they are wrong
    arrived: dict[int, asyncio.Event] = field(default_factory=dict)

    async def answer(self, call: Call) -> None:
        """Answer one request, well or not."""
        body = call.request.json()
        number = int(body["messages"][-1]["content"].removeprefix("n="))
        self.seen[number] += 1
        self.arrived.setdefault(number, asyncio.Event()).set()
        self.active += 1
        try:
            await self._answer(call, number, bool(body.get("stream")))
        except ClientGone:
            pass
        finally:
            self.active -= 1

    async def _answer(self, call: Call, number: int, stream: bool) -> None:
        rng = random.Random(f"{self.seed}/{number}/{self.seen[number]}")
        if self.calm or rng.random() > self.fault_ratio:
            how = rng.choice(HARMLESS) if stream and rng.random() < 0.3 else "well"
        else:
            how = rng.choice([*BEFORE_STREAM, *AFTER * 2]) if stream else rng.choice([*BEFORE])
        self.given[how] += 1
        if how in THE_CLIENTS:
            self.clients_own.add(number)
        if how in BEFORE_STREAM:
            await BEFORE_STREAM[how](call)
        elif stream:
            await _streamed(call, pieces_of(number), how, rng)
        else:
            await asyncio.sleep(rng.random() * 0.05)
            await reply(answers.completion("".join(pieces_of(number))))(call)


async def _streamed(call: Call, pieces: list[str], how: str, rng: random.Random) -> None:
    usage = event({**delta(), "choices": [], "usage": USAGE})
    blocks = [ROLE, *(event(delta(piece)) for piece in pieces), STOP, usage, DONE]
    if how in AFTER:
        blocks = blocks[: rng.randint(2, len(pieces))]
    if how == "one-malformed":
        blocks.insert(rng.randint(0, len(pieces)), event("{no json"))
    elif how == "no-done":
        blocks.pop()
    elif how == "late-error":
        blocks.insert(-2, OVERLOADED)
    elif how == "one-packet":
        blocks = [b"".join(blocks)]
    elif how == "bytes":
        blocks = [bytes([byte]) for byte in b"".join(blocks)]
    await call.head(200, answers.EVENT_STREAM)
    for block in blocks:
        await call.chunk(block)
        if how != "bytes":
            await asyncio.sleep(rng.random() * (0.15 if how == "slow" else 0.01))
    match how:
        case "cut":
            call.close()
        case "reset":
            call.reset()
        case "idle":
            await call.client_gone()
        case "error-event":
            await call.chunk(OVERLOADED)
            await call.chunk(DONE)
            await call.end_chunks()
        case "malformed":
            for _ in range(3):
                await call.chunk(event("{no json"))
            await call.client_gone()
        case _:
            await call.end_chunks()


@dataclass
class Crowd:
    """The clients. `wrong` is what must stay empty; `kills` are the moments at which a worker was killed."""

    url: str
    faulty: Faulty
    rng: random.Random
    told: Counter[str] = field(default_factory=Counter)  # how requests ended
    said: Counter[str] = field(default_factory=Counter)  # by the error events
    wrong: list[str] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    longest_s: float = 0.0  # to the first byte of an answer
    lag_s: float = 0.0  # the longest time that this process itself kept everybody waiting
    sent: int = 0

    async def notes_lag(self, until_s: float) -> None:
        """Measure how late this process is."""
        while (now_s := time.monotonic()) < until_s:
            await asyncio.sleep(0.05)
            self.lag_s = max(self.lag_s, time.monotonic() - now_s - 0.05)

    async def run(self, clients: int, until_s: float) -> None:
        """Let so many clients ask one request after the other, until then."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=MINE) as session:
            await asyncio.gather(*(self._client(session, until_s) for _ in range(clients)))

    async def _client(self, session: aiohttp.ClientSession, until_s: float) -> None:
        while time.monotonic() < until_s:
            self.sent += 1
            await self.ask(session, self.sent, self.rng.choice(("unary", "stream")), self.rng.choice(("openai", "anthropic")))

    async def ask(self, session: aiohttp.ClientSession, number: int, kind: str, dialect: str) -> None:
        """Ask once and check what comes."""
        path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
        messages = [{"role": "user", "content": f"n={number}"}]
        body = {"model": "m", "messages": messages, "stream": kind == "stream", "max_tokens": 9}
        leaves = self.rng.random() < 0.1
        began_s = time.monotonic()
        try:
            ended = await self._asked(session, path, body, number, leaves)
        except (aiohttp.ClientError, ConnectionError) as exc:
            if any(began_s <= at_s + 0.5 and at_s <= time.monotonic() for at_s in self.kills):
                ended = "lost"
            else:
                ended = f"no answer: {exc!r}"
                self.wrong.append(f"request {number} ({kind}, {dialect}): {ended}")
        self.told[ended] += 1

    async def _asked(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], number: int, leaves: bool
    ) -> str:
        if leaves and not body["stream"]:
            return await self._leaves(session, path, body, number)
        began_s = time.monotonic()
        async with session.post(self.url + path, json=body) as answer:
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            if leaves and answer.status == 200:
                await answer.content.readany()
                answer.close()
                return "left"
            data = await answer.read()
        complaint, ended = self._judged(answer.status, data, number, "/messages" in path, bool(body["stream"]))
        if "x-request-id" not in answer.headers:
            complaint = "there is no request id"
        if SECRET.encode() in data or b"127.0.0.1" in data:
            complaint = "it tells a secret or an address"
        if complaint:
            self.wrong.append(f"request {number} {path} {body['stream']}: {complaint}: {answer.status} {data[-600:]!r}")
        return ended

    async def _leaves(self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], number: int) -> str:
        """Leave as soon as an upstream has the request."""
        asking = asyncio.ensure_future(session.post(self.url + path, json=body))
        arrived = asyncio.ensure_future(self.faulty.arrived.setdefault(number, asyncio.Event()).wait())
        try:
            await asyncio.wait({asking, arrived}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                answer = asking.result()
                data = await answer.read()
                return self._judged(answer.status, data, number, "/messages" in path, False)[1]
            return "left"
        finally:
            arrived.cancel()
            asking.cancel()
            if asking.done() and not asking.cancelled() and asking.exception() is None:
                asking.result().close()

    def _judged(self, status: int, data: bytes, number: int, messages: bool, stream: bool) -> tuple[str, str]:
        """Return what is wrong with an answer (nothing, as a rule), and how it ended."""
        right = "".join(pieces_of(number))
        if status != 200:
            return self._refused(status, data, number, messages)
        try:
            if not stream:
                text = _whole(json.loads(data), messages)
                return ("" if text == right else "not the right answer"), "ok"
            text, end, said = _stream(data, messages)
        except (ValueError, KeyError, IndexError, TypeError) as exc:
            return f"not an answer ({exc!r})", "wrong"
        if end == "error":
            self.said[said] += 1
            return ("" if right.startswith(text) and text else "not the beginning of the right answer"), "error event"
        if end != "whole":
            return "a stream that neither ends well nor says that it does not", "wrong"
        return ("" if text == right else "a part is passed off as the whole"), "ok"

    def _refused(self, status: int, data: bytes, number: int, messages: bool) -> tuple[str, str]:
        try:
            error_ = json.loads(data)["error"]
            said = error_["message"] and error_["type"]
        except (ValueError, KeyError, TypeError):
            said = None
        if not said:
            return "an error that says nothing", "wrong"
        if status == 400:
            return ("" if number in self.faulty.clients_own else "a 400 that nobody gave"), "400"
        budget = "Budget '" in error_["message"]
        fine = status in (408, 429, 500, 502, 503, 504, 529) and (status != 500 or "inside routerd" not in error_["message"])
        del messages
        return ("" if fine else "no honest error"), "refused by a budget" if budget else str(status)


def _whole(found: dict[str, Any], messages: bool) -> str:
    return str(found["content"][0]["text"] if messages else found["choices"][0]["message"]["content"])


def _stream(data: bytes, messages: bool) -> tuple[str, str, str]:
    """Return the text of a stream, how it ended (whole, error, or otherwise), and what its error says."""
    text, end, said = "", "", ""
    for block in data.decode().split("\n\n"):
        line = next((line for line in block.split("\n") if line.startswith("data:")), "")
        if not line:
            continue
        assert not end, f"something follows the end: {block}"
        payload = line[5:].strip()
        if payload == "[DONE]":
            end = "whole"
            continue
        found = json.loads(payload)
        if found.get("error"):
            end, said = "error", str(found["error"]["message"])
        elif messages:
            end = "whole" if found["type"] == "message_stop" else ""
            text += found.get("delta", {}).get("text", "")
        else:
            text += "".join(choice["delta"].get("content") or "" for choice in found["choices"])
    return text, end, said
