"""The models that providers have: asked for in the background, kept over failures, reloads and restarts, told to all workers.

One task a provider, so one question at a time. A list that came replaces the one before; a failure leaves it, also over a restart
where there is a state directory, and is tried again sooner than a good answer is. Endpoints are asked in turn until one answers.
A provider whose way to its list did not change is not asked anew by a reload; another filter is applied to what is known.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from routerd.daemon.outside.session import Outside, OutsideFault
from routerd.daemon.outside.tokens import TokenKeeper
from routerd.daemon.tasks import Tasks
from routerd.graph import Provider
from routerd.observe import Metrics
from routerd.plan import ModelNews
from routerd.wire.address import credential, own_fields, path_below, with_query
from routerd.wire.listing.model_list import Listed, list_path, next_path, read_page

__all__ = ["Discovery"]

log = logging.getLogger("routerd.discovery")

TIMEOUT_S = 20.0  # of one page; OpenRouter's list has 600 KB, Featherless' 7 MB
PAGE_BYTES = 32 * 1024 * 1024
MAX_PAGES = 100
MAX_MODELS = 50_000  # Featherless has some 20,000
FIRST_AGAIN_S = 2.0  # after a failure; twice as long each time, up to the usual period
JITTER_RATIO = 0.1
DIRECTORY = "discovery"
FAMILIES = ("routerd_discovery_models", "routerd_discovery_last_success_timestamp_seconds")


class _Watched:
    """One provider and what is known of its models."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.models: tuple[Listed, ...] | None = None
        self.at_unix_s = 0.0
        self.error = ""
        self.task: asyncio.Task[None] | None = None


class Discovery:
    """`tell(news, subject)` brings news to all workers, those that start later included; `untell(subject)` ends that."""

    def __init__(
        self,
        outside: Outside,
        tokens: TokenKeeper,
        tell: Callable[[Any, Any], None],
        untell: Callable[[Any], None],
        metrics: Metrics,
        directory: Path | None,
        *,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outside = outside
        self._tokens = tokens
        self._tell = tell
        self._untell = untell
        self._metrics = metrics
        self._directory = directory / DIRECTORY if directory is not None else None
        self._rng = rng or random.Random()
        self._wall = wall
        self._sleep = sleep
        self._watched: dict[str, _Watched] = {}
        self._tasks = Tasks()

    def follow(self, providers: Iterable[Provider]) -> None:
        """Know the models of those of these providers that want it, and of no others."""
        wanted = {provider.name: provider for provider in providers if provider.discover is not None}
        for name in [name for name in self._watched if name not in wanted]:
            self._forget(name)
        for name, provider in wanted.items():
            one = self._watched.get(name)
            if one is not None and _way(one.provider) == _way(provider):
                before, one.provider = one.provider, provider
                if before.discover != provider.discover:
                    self._publish(one)
                continue
            if one is not None:
                self._forget(name)
            one = self._watched[name] = _Watched(provider)
            self._metrics.counter("routerd_discovery_failures_total", name)
            self._recall(one)
            self._publish(one)
            one.task = self._tasks.start(self._watch(one), f"discovery-{name}")

    def status(self) -> dict[str, Any]:
        """Return what is known, as plain values."""
        return {
            name: {"models": len(_chosen(one)), "at_unix_s": round(one.at_unix_s, 3), "error": one.error}
            for name, one in self._watched.items()
        }

    async def close(self) -> None:
        """Stop."""
        await self._tasks.cancel()

    async def _watch(self, one: _Watched) -> None:
        again_s = FIRST_AGAIN_S
        while True:
            try:
                models = await self._models_of(one.provider)
            except (OutsideFault, ValueError) as exc:
                self._metrics.counter("routerd_discovery_failures_total", one.provider.name).inc()
                if str(exc) != one.error:
                    log.warning("the models of provider %s are not known anew: %s", one.provider.name, exc)
                one.error = str(exc)
                wait_s, again_s = min(again_s, _every_s(one)), again_s * 2
            else:
                again_s, wait_s = FIRST_AGAIN_S, _every_s(one)
                one.error, one.at_unix_s = "", self._wall()
                changed, one.models = models != one.models, models
                if changed:
                    self._publish(one)
                self._gauges(one)
                await asyncio.to_thread(self._keep, one)
            await self._sleep(wait_s * (1.0 + JITTER_RATIO * (2.0 * self._rng.random() - 1.0)))

    async def _models_of(self, provider: Provider) -> tuple[Listed, ...]:
        """Ask each endpoint until one answers. Raises OutsideFault or ValueError."""
        fault: Exception = OutsideFault("it has no endpoint")
        for endpoint in provider.endpoints:
            try:
                return await self._pages(provider, endpoint.url)
            except (OutsideFault, ValueError) as exc:
                fault = exc
        raise fault

    async def _pages(self, provider: Provider, base: str) -> tuple[Listed, ...]:
        found: dict[str, Listed] = {}
        path = list_path(provider.dialect, provider.offers)
        for _ in range(MAX_PAGES):
            page = await self._page(provider, base, path)
            before = len(found)
            for model in page.models:
                found.setdefault(model.id, model)
            path = next_path(path, page)
            if not path or len(found) == before or len(found) >= MAX_MODELS:
                break
        return tuple(found.values())[:MAX_MODELS]

    async def _page(self, provider: Provider, base: str, path: str) -> Any:
        token = await self._tokens.get(provider.auth.oauth) if provider.auth.oauth is not None else ""
        secret, query = credential(provider.auth, token)
        headers = {**own_fields(provider, {"accept": "application/json"}), **secret}
        parts = urlsplit(base)
        url = f"{parts.scheme}://{parts.netloc}{with_query(path_below(parts.path.rstrip('/'), path), query)}"
        reply = await self._outside.request("GET", url, headers, timeout_s=TIMEOUT_S, most_bytes=PAGE_BYTES)
        if reply.status != 200:
            if reply.status == 401 and provider.auth.oauth is not None:
                self._tokens.want(provider.auth.oauth, token)  # for the next time
            raise OutsideFault(f"the answer is a {reply.status}")
        return await asyncio.to_thread(read_page, reply.body)

    # ── what becomes of it ──

    def _publish(self, one: _Watched) -> None:
        name = one.provider.name
        ids = None if one.models is None else "\n".join(model.id for model in _chosen(one))
        self._tell(ModelNews(provider=name, ids=ids), ("models", name))
        self._gauges(one)

    def _gauges(self, one: _Watched) -> None:
        for family, value in zip(FAMILIES, (len(_chosen(one)), one.at_unix_s), strict=True):
            self._metrics.gauge(family, one.provider.name).set(value)

    def _forget(self, name: str) -> None:
        gone = self._watched.pop(name)
        if gone.task is not None:
            gone.task.cancel()
        self._untell(("models", name))
        self._tell(ModelNews(provider=name, ids=None), None)
        for family in FAMILIES:
            self._metrics.drop(family, name)

    def _keep(self, one: _Watched) -> None:
        """Write the list down for the next start. A disk that is full or read-only is no reason to be without it now."""
        if self._directory is None:
            return
        path = self._directory / f"{one.provider.name}.json"
        told = {"from": _origin(one.provider), "at_unix_s": one.at_unix_s, "models": one.models}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(told))
            fresh.replace(path)
        except OSError as exc:
            log.warning("the models of provider %s cannot be kept: %s", one.provider.name, exc.strerror or exc)

    def _recall(self, one: _Watched) -> None:
        """Read what was written down, if it is of the same place."""
        if self._directory is None:
            return
        try:
            told = json.loads((self._directory / f"{one.provider.name}.json").read_text())
            if told["from"] == _origin(one.provider):
                one.models = tuple(Listed(str(name), bool(chats)) for name, chats in told["models"])
                one.at_unix_s = float(told["at_unix_s"])
        except (OSError, ValueError, TypeError, KeyError):
            return


def _every_s(one: _Watched) -> float:
    assert one.provider.discover is not None
    return one.provider.discover.every_s


def _chosen(one: _Watched) -> list[Listed]:
    """Return what the filter leaves of the models."""
    wanted = one.provider.discover
    assert wanted is not None
    included = re.compile("|".join(".*".join(map(re.escape, text.split("*"))) for text in wanted.include))
    return [
        model for model in one.models or () if (model.chats or not wanted.chat_only) and included.fullmatch(model.id) is not None
    ]


def _origin(provider: Provider) -> list[str]:
    """Return where the list comes from, without what is secret."""
    return [list_path(provider.dialect, provider.offers), *(endpoint.url for endpoint in provider.endpoints)]


def _way(provider: Provider) -> tuple[Any, ...]:
    """Return all that the question depends on."""
    headers: Mapping[str, str] = provider.headers
    period_s = provider.discover.every_s if provider.discover is not None else 0.0
    return (provider.dialect, *_origin(provider), provider.auth, tuple(sorted(headers.items())), period_s)
