"""Trying models as a client would: one chat request, whole or streamed, with its times; and who is asked.

A model passes when it answers 200 with something to read, or with a finish where it thought for all of the few tokens it was
given; a stream must end in good order, too. One that refuses to chat is asked for an embedding, and passes when that has
numbers. Nothing else is asked twice: what a client would see is what is told.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from routerd.daemon.commands.syntax import CANNOT_REACH

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Prober", "Result", "Unreachable", "chosen", "own_daemon"]

MAX_TOKENS = 16
PROMPT = "Say OK."
MEASURABLE_S = 0.005  # what came in one piece has no rate
START_TIMEOUT_S = 30.0
_READY = re.compile(r"ready listen=(http://\S+) ")
_FAULT_CHARS = 160


class Unreachable(Exception):
    """Nobody sensible answers there."""


@dataclass(slots=True)
class Result:
    """How one request went. `fault` is empty when it went well; lengths are in seconds, None where nothing came."""

    mode: str  # unary | stream | embedding
    status: int = 0
    code: str = ""  # of an error
    target: str = ""
    latency_s: float = 0.0
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in plain.items()}


@dataclass(slots=True, kw_only=True)
class Prober:
    """A client of the daemon at `url`."""

    session: aiohttp.ClientSession
    url: str
    key: str
    timeout_s: float
    name: str = ""  # of the daemon, where its address tells a person nothing
    clock: Callable[[], float] = field(default=time.perf_counter)

    async def listed(self) -> list[tuple[str, bool]]:
        """Return every name of /v1/models, and whether the file has it (else it was found at a provider). Raises Unreachable."""
        import aiohttp

        where, fields = self.url + "/v1/models", self._fields()
        try:
            async with asyncio.timeout(self.timeout_s), self.session.get(where, headers=fields) as answer:
                said = await answer.json(content_type=None)
                if answer.status != 200:
                    key = " (--key or ROUTERD_KEY: that of one of the `clients`)" if answer.status == 401 else ""
                    raise Unreachable(f"{self.name or self.url} refused to list its models: {_said(answer.status, said)}{key}")
                return [(str(model["id"]), model.get("owned_by") == "routerd") for model in said["data"]]
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            hint = "is the daemon running, and is this its data address?"
            raise Unreachable(f"cannot reach {self.url}: {_why(exc)}; {hint}") from exc
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Unreachable(f"what answers at {self.url} is no OpenAI-compatible API") from exc

    async def ask(self, model: str, mode: str) -> Result:
        """Send one request and tell how it went. Raises Unreachable where nobody accepts the connection."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": MAX_TOKENS}
        if mode == "stream":
            body.update(stream=True, stream_options={"include_usage": True})
        return await self._sent(Result(mode), "/v1/chat/completions", body)

    async def _sent(self, result: Result, path: str, body: Mapping[str, Any]) -> Result:
        import aiohttp

        began_s = self.clock()
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                self.session.post(self.url + path, json=body, headers=self._fields()) as answer,
            ):
                result.status = answer.status
                result.target = answer.headers.get("x-routerd-target", "")
                if answer.status != 200:
                    said = _decoded(await answer.read())
                    result.fault, result.target, result.code = _said(answer.status, said), _tried(said), _code(said)
                elif result.mode == "stream":
                    await self._stream(answer, result, began_s)
                else:
                    said = _decoded(await answer.read())
                    good = _embeds(said) if result.mode == "embedding" else _speaks(said, "message")
                    result.fault = "" if good else "200 with nothing in it"
        except TimeoutError:
            result.fault = f"no whole answer within {self.timeout_s:g} s"
        except aiohttp.ClientConnectorError as exc:
            raise Unreachable(f"cannot reach {self.url}: {_why(exc)}") from exc
        except (aiohttp.ClientError, OSError) as exc:
            result.fault = f"the connection broke: {_why(exc)}"
        result.latency_s = self.clock() - began_s
        return result

    async def embed(self, model: str) -> Result:
        """Ask for one embedding and tell how it went."""
        return await self._sent(Result("embedding"), "/v1/embeddings", {"model": model, "input": PROMPT})

    async def _stream(self, answer: aiohttp.ClientResponse, result: Result, began_s: float) -> None:
        tokens = pieces = 0
        last_s, done, spoke = 0.0, False, False
        async for line in answer.content:
            text = line.strip()
            if not text.startswith(b"data:"):
                continue
            text = text[5:].strip()
            if text == b"[DONE]":
                done = True
                break
            event = _decoded(text)
            if isinstance(event, dict) and event.get("error"):
                result.fault = f"error in the stream: {_message(event)}"
                return
            if _speaks(event, "delta"):
                spoke, pieces, last_s = True, pieces + 1, self.clock() - began_s
                if result.first_token_s is None:
                    result.first_token_s = last_s
            usage = event.get("usage") if isinstance(event, dict) else None
            if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
                tokens = usage["completion_tokens"]
        since_s = last_s - (result.first_token_s or 0.0)
        count = (tokens or pieces) - 1  # the first one was waited for
        result.tokens_per_s = count / since_s if count > 0 and since_s >= MEASURABLE_S else None
        result.fault = "" if spoke and done else "the stream ended without [DONE]" if spoke else "the stream had nothing in it"

    def _fields(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


@asynccontextmanager
async def own_daemon(config: str, environ: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve a configuration on a free port of this host while it is tried; give its address. Raises ValueError: it does not."""
    plain = {name: value for name, value in environ.items() if not name.startswith("ROUTERD_")}
    with tempfile.TemporaryDirectory(prefix="routerd-probe-") as directory:
        argv = (sys.executable, "-P", "-m", "routerd.daemon.cli", "serve", "--config", config, "--state-dir", directory)
        process = await asyncio.create_subprocess_exec(
            *argv, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env={**plain, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert process.stderr is not None
        try:
            url = await asyncio.wait_for(_ready(process), START_TIMEOUT_S)
            rest = asyncio.ensure_future(process.stderr.read())  # so that it never waits for a reader
            yield url
            rest.cancel()
        except TimeoutError as exc:
            raise ValueError(f"{config}: the daemon did not start within {START_TIMEOUT_S:g} s") from exc
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process) -> str:
    """Return the address that it serves. Raises ValueError when it ends instead, Unreachable when it could not read a file."""
    assert process.stderr is not None
    said: list[str] = []
    async for line in process.stderr:
        said.append(line.decode("utf-8", "replace").rstrip())
        if found := _READY.search(said[-1]):
            return found[1]
    why = "the configuration does not serve:\n" + "\n".join(said)
    raise Unreachable(why) if await process.wait() == CANNOT_REACH else ValueError(why)


def chosen(listed: Sequence[tuple[str, bool]], patterns: Sequence[str]) -> list[str]:
    """Return the models to try: those of the file, or what `patterns` name. Names without a `*` need not be listed."""
    if not patterns:
        return [name for name, own in listed if own]
    return list(dict.fromkeys(_matching(listed, patterns)))


def _matching(listed: Sequence[tuple[str, bool]], patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        if "*" not in pattern:
            yield pattern
            continue
        wanted = re.compile(".*".join(map(re.escape, pattern.split("*"))))
        yield from (name for name, _ in listed if wanted.fullmatch(name))


def _speaks(answer: Any, where: str) -> bool:
    """Tell whether an answer has something to read, or is finished."""
    try:
        choice = answer["choices"][0]
        said = choice.get(where) or {}
        return bool(
            said.get("content") or said.get("reasoning_content") or said.get("tool_calls") or choice.get("finish_reason")
        )
    except (TypeError, KeyError, IndexError, AttributeError):
        return False


def _embeds(answer: Any) -> bool:
    """Tell whether an answer has a vector: a list of numbers, or its base64."""
    try:
        return bool(answer["data"][0]["embedding"])
    except (TypeError, KeyError, IndexError):
        return False


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _said(status: int, answer: Any) -> str:
    return f"{status} {_message(answer)}".rstrip()


def _tried(answer: Any) -> str:
    """Return the targets that an error tells of, in order; empty: it was refused before any was asked."""
    error = answer.get("error") if isinstance(answer, dict) else None
    attempts = error.get("attempts") if isinstance(error, dict) else None
    tried = (one.get("target") for one in attempts or () if isinstance(one, dict))
    return ", ".join(dict.fromkeys(str(target) for target in tried if target))


def _code(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("code") or "") if isinstance(error, dict) else ""


def _message(answer: Any) -> str:
    """Return code and message of an error, on one line."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return str(error or "")[:_FAULT_CHARS]
    code, message = error.get("code") or error.get("type") or "", str(error.get("message", ""))
    text = f"{code}: {message}" if code else message
    return "".join(char if char.isprintable() else " " for char in text)[:_FAULT_CHARS]


def _why(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    under = getattr(exc, "os_error", exc)
    number = (under.errno or 0) if isinstance(under, OSError) else 0
    if number in errno.errorcode:  # asyncio puts the address into strerror
        return os.strerror(number)
    return str(getattr(under, "strerror", None) or under or type(under).__name__)
