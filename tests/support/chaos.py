"""Upstreams that fail at random, in the words of every dialect, and clients that check every answer: parts of the chaos test.

Each request has a number, which is in its prompt; the right answer follows from the number. So a client knows a right answer from
a wrong one, from a part of it, and from that of somebody else. Which fault a request meets follows from the seed, its number and
how often it was tried; what is left to chance is only when.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support import answers
from tests.support.answers import reply
from tests.support.upstream import Answer, Call, ClientGone
from tests.support.voices import VOICES, Voice, voice_of

MINE = {"authorization": "Bearer gk-chaos"}
SECRET = "sk-upstream-secret-0123456789"
OVERLOADED = f"overloaded, your key is {SECRET}"
HTML = (("content-type", "text/html"),)
THE_CLIENTS = frozenset({"400", "too-long"})


def _before(voice: Voice) -> Mapping[str, Answer]:
    """What may happen instead of an answer, before the client has anything."""
    return {
        "reset": answers.reset,
        "hangs-up": answers.hang_up,
        "hangs": answers.hang,
        "hangs-after-head": answers.hang_after_head,
        "401": voice.error(401, f"Incorrect API key provided: {SECRET}"),
        "402": voice.error(402, "no credit"),
        "404": voice.error(404, "The model does not exist"),
        "408": voice.error(408, "too slow"),
        "429": voice.error(429, "slow down", headers=[("retry-after", "1")]),
        "500": voice.error(500, "it broke"),
        "502": reply(b"<html>Bad gateway</html>", status=502, headers=HTML),
        "503": voice.error(503, "busy"),
        "529": voice.error(529, "overloaded"),
        "empty": reply(b""),
        "html": reply(b"<html></html>", headers=HTML),
        "cut-whole": answers.cut_unary(),
        "400": voice.error(400, "temperature is wrong"),
        "too-long": voice.error(400, "This model's maximum context length is 10 tokens", code="context_length_exceeded"),
    }


def _before_stream(voice: Voice) -> Mapping[str, Answer]:
    return {
        **_before(voice),
        "error-first": _stream_of(voice, *voice.begin, voice.fault_event(529, OVERLOADED)),
        "no-content": _stream_of(voice, *voice.begin),
        "cut-first": _stream_of(voice, *voice.begin, end="cut"),
        "comments": _stream_of(voice, b": wait\n\n", b": wait\n\n", end="hang"),
    }


def _stream_of(voice: Voice, *blocks: bytes, end: str = "") -> Answer:
    async def answer(call: Call) -> None:
        await call.head(200, voice.stream_head)
        for block in blocks:
            await call.chunk(block)
        if end == "cut":
            call.close()
        elif end == "hang":
            await call.client_gone()
        else:
            await call.end_chunks()

    return answer


BEFORE = {name: _before(voice) for name, voice in VOICES.items()}
BEFORE_STREAM = {name: _before_stream(voice) for name, voice in VOICES.items()}
AFTER = ("cut", "reset", "idle", "error-event", "malformed", "no-finish")
HARMLESS = ("one-malformed", "bytes", "slow", "one-packet")
OPENAIS = ("no-done", "late-error")  # harmless, too: the finish and the text are there


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
    spoken: Counter[str] = field(default_factory=Counter)  # dialect -> attempts
    clients_own: set[int] = field(default_factory=set)  # requests that were told that they are wrong
    arrived: dict[int, asyncio.Event] = field(default_factory=dict)

    async def answer(self, call: Call) -> None:
        """Answer one request, well or not."""
        number = int(re.findall(rb"n=([0-9]+)", call.request.body)[-1])
        self.seen[number] += 1
        self.arrived.setdefault(number, asyncio.Event()).set()
        self.active += 1
        try:
            streamed = bool(call.request.json().get("stream")) or "streamGenerate" in call.request.target
            await self._answer(call, number, streamed)
        except ClientGone:
            pass
        finally:
            self.active -= 1

    async def _answer(self, call: Call, number: int, stream: bool) -> None:
        rng = random.Random(f"{self.seed}/{number}/{self.seen[number]}")
        dialect = voice_of(call.request.target)
        voice, before = VOICES[dialect], (BEFORE_STREAM if stream else BEFORE)[dialect]
        if self.calm or rng.random() > self.fault_ratio:
            harmless = (*HARMLESS, *OPENAIS) if dialect == "openai" else HARMLESS
            how = rng.choice(harmless) if stream and rng.random() < 0.3 else "well"
        else:
            how = rng.choice([*before, *AFTER * 2]) if stream else rng.choice([*before])
        self.given[how] += 1
        self.spoken[dialect] += 1
        if how in THE_CLIENTS:
            self.clients_own.add(number)
        if how in before:
            await before[how](call)
        elif stream:
            await _streamed(call, voice, pieces_of(number), how, rng)
        else:
            await asyncio.sleep(rng.random() * 0.05)
            await reply(voice.whole("".join(pieces_of(number))))(call)


async def _streamed(call: Call, voice: Voice, pieces: list[str], how: str, rng: random.Random) -> None:
    said = [voice.piece(piece) for piece in pieces]
    blocks = [*voice.begin, *said, *voice.end]
    if how in AFTER:
        blocks = [*voice.begin, *said[: rng.randint(1, len(said) - 1)]]
    if how == "one-malformed":
        blocks.insert(rng.randint(0, len(pieces)), voice.malformed)
    elif how == "no-done":
        blocks.pop()
    elif how == "late-error":
        blocks.insert(-2, voice.fault_event(529, OVERLOADED))
    elif how == "one-packet":
        blocks = [b"".join(blocks)]
    elif how == "bytes":
        blocks = [bytes([byte]) for byte in b"".join(blocks)]
    await call.head(200, voice.stream_head)
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
            await call.chunk(voice.fault_event(529, OVERLOADED))
            await call.chunk(voice.end[-1])
            await call.end_chunks()
        case "malformed":
            for _ in range(3):
                await call.chunk(voice.malformed)
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

    async def _asked(self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], number: int, leaves: bool) -> str:
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
