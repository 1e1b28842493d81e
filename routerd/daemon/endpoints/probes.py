"""Asks endpoints for their health and their load, from the control process: one task for each endpoint and question.

What a question finds goes into the memory that the workers share, so a plan asks nobody. Questions are spread over time by
chance, so that 100 endpoints are not asked in one moment. A reload keeps the tasks of what it did not change, with their streaks.
Without `health` or `load` in the configuration nothing is started. Speed does not matter here, so aiohttp's client does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from routerd.graph import ClientCredentials, Endpoint, LoadSource, Probe, Provider
from routerd.health import EndpointState, Streak
from routerd.wire.address import credential, own_fields, path_below, with_query
from routerd.wire.listing.gauges import engine_load
from routerd.wire.listing.model_list import list_path

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = ["Fetch", "HttpFetch", "Probes", "Question", "load_question", "probe_question"]

log = logging.getLogger("routerd.health")

LIMIT_BYTES = 4 * 1024 * 1024  # a vLLM with many models has some 100 KiB of metrics
STALE_AFTER = 3  # gauges are believed for so many periods
JITTER_RATIO = 0.1
TOO_MANY = 429  # says nothing of an engine's health


_Work = dict[tuple[Any, ...], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One HTTP request. `headers` may hold a credential."""

    url: str = field(repr=False)
    timeout_s: float
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = b""  # empty: a GET
    oauth: ClientCredentials | None = None  # asked with an access token of these


Fetch = Callable[[Question], Awaitable[tuple[int, bytes]]]
"""Returns status and body. Raises OSError or TimeoutError where there is no answer."""


class Probes:
    """The tasks. `state_of(name)` is asked once a task: a state outlives renames."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        state_of: Callable[[str], EndpointState | None],
        clock: Callable[[], float],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fetch = fetch
        self._state_of = state_of
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._tasks: dict[tuple[Any, ...], asyncio.Task[None]] = {}

    def take_up(self, providers: Mapping[str, Provider]) -> None:
        """Ask the endpoints of these providers from now on. What is asked already in the same way goes on."""
        wanted: _Work = {}
        for provider in providers.values():
            for endpoint in provider.endpoints if not provider.disabled else ():
                state = self._state_of(endpoint.name)
                if state is None:
                    continue
                self._want(wanted, provider, endpoint, state)
        for key in self._tasks.keys() - wanted.keys():
            self._tasks.pop(key).cancel()
        for key, work in wanted.items():
            if key in self._tasks:
                work.close()
            else:
                self._tasks[key] = asyncio.get_running_loop().create_task(work, name=f"{key[0]}-{key[1]}")

    async def close(self) -> None:
        """End all tasks."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _want(self, wanted: _Work, provider: Provider, endpoint: Endpoint, state: EndpointState) -> None:
        if provider.probe is not None:
            question = probe_question(provider, endpoint, provider.probe)
            wanted[("probe", endpoint.name, id(state), question, provider.probe)] = self._probe(question, provider.probe, state)
        elif state.is_down:
            state.probed(True, self._clock())  # nobody asks any more: innocent
        if provider.load is not None:
            question = load_question(provider, endpoint, provider.load)
            wanted[("load", endpoint.name, id(state), question, provider.load)] = self._scrape(question, provider.load, state)

    async def _probe(self, question: Question, probe: Probe, state: EndpointState) -> None:
        streak = Streak(probe.fall, probe.rise, up=not state.is_down)
        await self._sleep(self._rng.random() * probe.every_s)
        while True:
            status = (await self._ask(question))[0]
            if status != TOO_MANY and streak.seen(200 <= status < 300):
                state.probed(streak.up, self._clock())
            await self._pause(probe.every_s)

    async def _scrape(self, question: Question, source: LoadSource, state: EndpointState) -> None:
        await self._sleep(self._rng.random() * source.every_s)
        while True:
            status, body = await self._ask(question)
            load = engine_load(body.decode("utf-8", "replace")) if status == 200 else None
            if load is not None:
                state.loaded(*load, STALE_AFTER * source.every_s, self._clock())
            await self._pause(source.every_s)

    async def _ask(self, question: Question) -> tuple[int, bytes]:
        try:
            return await self._fetch(question)
        except (OSError, TimeoutError) as exc:
            log.debug("no answer: %s", type(exc).__name__)
            return 0, b""

    async def _pause(self, every_s: float) -> None:
        await self._sleep(every_s * (1.0 + JITTER_RATIO * (2.0 * self._rng.random() - 1.0)))


def probe_question(provider: Provider, endpoint: Endpoint, probe: Probe) -> Question:
    """Return what a probe asks. A path is below the address, not below its /v1: engines have it there."""
    if probe.kind == "path":
        return Question(url=_root(endpoint.url) + probe.path, timeout_s=probe.timeout_s)
    if probe.kind == "models":
        return _question(provider, endpoint, list_path(provider.dialect, provider.offers), probe.timeout_s)
    body = {**provider.body, "model": probe.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    path = provider.offers.get("chat", "chat/completions")
    return _question(provider, endpoint, path, probe.timeout_s, json.dumps(body).encode())


def load_question(provider: Provider, endpoint: Endpoint, source: LoadSource) -> Question:
    """Return how an engine is asked for its gauges; an answer that takes longer than the period is of no use."""
    fields = {**own_fields(provider, {}), **credential(provider.auth)[0]}
    return Question(
        url=_root(endpoint.url) + source.metrics,
        timeout_s=source.every_s,
        headers=tuple(sorted(fields.items())),
        oauth=provider.auth.oauth,
    )


def _question(provider: Provider, endpoint: Endpoint, path: str, timeout_s: float, body: bytes = b"") -> Question:
    secret, query = credential(provider.auth)
    fields = {**own_fields(provider, {"content-type": "application/json"} if body else {}), **secret}
    where = with_query(path_below(urlsplit(endpoint.url).path.rstrip("/"), path), query)
    return Question(
        url=_root(endpoint.url) + where,
        timeout_s=timeout_s,
        headers=tuple(sorted(fields.items())),
        body=body,
        oauth=provider.auth.oauth,
    )


def _root(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class HttpFetch:
    """A Fetch over aiohttp's client, imported and opened at the first question. `token` gets access tokens, or an OSError."""

    def __init__(self, token: Callable[[ClientCredentials], Awaitable[str]] | None = None) -> None:
        self._session: ClientSession | None = None
        self._token = token

    async def __call__(self, question: Question) -> tuple[int, bytes]:
        """Ask; OSError where there is no answer."""
        import aiohttp

        if self._session is None:
            # No limit of connections: a hanging endpoint must not hold up the questions to the others.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        method, body = ("POST", question.body) if question.body else ("GET", None)
        headers = dict(question.headers)
        if question.oauth is not None and self._token is not None:
            headers["authorization"] = f"Bearer {await self._token(question.oauth)}"
        try:
            async with (
                asyncio.timeout(question.timeout_s),
                self._session.request(
                    method, question.url, data=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                got = bytearray()
                async for piece in answer.content.iter_any():
                    got += piece
                    if len(got) >= LIMIT_BYTES:
                        break
                return answer.status, bytes(got[:LIMIT_BYTES])
        except (aiohttp.ClientError, ValueError) as exc:
            raise OSError(str(exc)) from exc

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
