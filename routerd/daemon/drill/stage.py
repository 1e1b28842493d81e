"""The gateway that serves traffic, in this process, over simulated upstreams; and the clients that ask it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from routerd.daemon.drill.outcome import Seen, summary
from routerd.daemon.drill.scenario import Fault, Load, Phase, Scenario, ScenarioError
from routerd.daemon.drill.simulated import Simulated
from routerd.graph import Auth, Client, Endpoint, Graph, Provider
from routerd.health import Health
from routerd.observe import Metrics
from routerd.server import Gateway
from routerd.state import Board, LocalCounters

__all__ = ["play", "staged"]

CLIENT = "rehearsal"  # asks for whoever the load does not name
LONGEST_S = 600.0  # no client waits longer, in the time of the scenario


async def play(graph: Graph, scenario: Scenario, tell: Callable[[Phase], None]) -> list[dict[str, Any]]:
    """Play all phases; return the facts of each. Raise ScenarioError for a name that the graph does not know."""
    _check(graph, scenario)
    rng = random.Random(0)
    upstreams = {name: Simulated(name, rng) for name in graph.endpoints}
    counters, board = LocalCounters.create(workers=1), Board.create(workers=1)
    gateway = Gateway(counters=counters, health=Health(board), metrics=Metrics(), access=None)
    try:
        for upstream in upstreams.values():
            await upstream.start()
        ports = {name: upstream.port for name, upstream in upstreams.items()}
        gateway.swap(await gateway.prepare(1, staged(graph, ports, scenario.speed)))
        sock = socket.create_server(("127.0.0.1", 0))
        await gateway.start(sock)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        timeout = aiohttp.ClientTimeout(total=LONGEST_S / scenario.speed)
        async with aiohttp.ClientSession(url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            told = []
            for phase in scenario.phases:
                tell(phase)
                await _fail(graph, upstreams, phase.faults, scenario.speed)
                told.append(summary(phase, await _phase(session, phase, scenario.speed)))
            return told
    finally:
        await gateway.close()
        for upstream in upstreams.values():
            await upstream.stop()


def _check(graph: Graph, scenario: Scenario) -> None:
    wrong = []
    for phase in scenario.phases:
        for name in phase.faults:
            if name not in graph.endpoints and name not in graph.providers:
                wrong.append(f"{phase.name}: no endpoint or provider is called {name!r}")
        for load in phase.load:
            if load.client and load.client not in (graph.clients or {}):
                wrong.append(f"{phase.name}: no client is called {load.client!r}")
    if wrong:
        raise ScenarioError("\n".join(wrong))


def staged(graph: Graph, ports: Mapping[str, int], speed: float) -> Graph:
    """Return the graph with its endpoints on loopback, its providers without credentials, and its lengths divided by `speed`."""
    endpoints = {
        name: replace(one, url=f"http://127.0.0.1:{ports[name]}{urlsplit(one.url).path}") for name, one in graph.endpoints.items()
    }
    providers = {name: _provider(one, endpoints, speed) for name, one in graph.providers.items()}
    routes = {name: _faster(route, speed) for name, route in graph.routes.items()}
    budgets = {
        name: replace(one, window_s=one.window_s / speed, queue_wait_s=one.queue_wait_s / speed)
        for name, one in graph.budgets.items()
    }
    known = graph.clients or {}
    clients = {name: replace(one, key_sha256=_digest(name)) for name, one in known.items()}
    clients[CLIENT] = Client(name=CLIENT, key_sha256=_digest(CLIENT))
    patterns = tuple(routes[route.name] for route in graph.patterns)
    return replace(
        graph, providers=providers, endpoints=endpoints, routes=routes, patterns=patterns, budgets=budgets, clients=clients,
        response_headers=True,
    )  # fmt: skip


def _provider(one: Provider, endpoints: Mapping[str, Endpoint], speed: float) -> Provider:
    faster: Provider = _faster(one, speed)
    return replace(
        faster,
        endpoints=tuple(endpoints[endpoint.name] for endpoint in one.endpoints),
        dialect="openai",
        simulator=None,
        offers=one.offers if one.dialect == "openai" else {},
        auth=Auth(type="none"),
        disabled="",
    )


def _faster(value: Any, speed: float) -> Any:
    """Return a part of the graph with every field that ends in `_s` divided."""
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return tuple(_faster(one, speed) for one in value)
    if not is_dataclass(value) or isinstance(value, type | Auth | Endpoint):
        return value
    changed: dict[str, Any] = {}
    for one in fields(value):
        have = getattr(value, one.name)
        if one.name.endswith("_per_s"):
            continue
        if one.name.endswith("_s") and isinstance(have, int | float):
            changed[one.name] = have / speed
        elif (new := _faster(have, speed)) is not have:
            changed[one.name] = new
    return replace(value, **changed) if changed else value


def _digest(name: str) -> bytes:
    return hashlib.sha256(_key(name).encode()).digest()


def _key(name: str) -> str:
    return f"rehearsal-{name}"


async def _fail(graph: Graph, upstreams: Mapping[str, Simulated], faults: Mapping[str, Fault], speed: float) -> None:
    """Let every endpoint do what the phase says; its own fault wins over that of its provider."""
    for name, upstream in upstreams.items():
        fault = faults.get(name, faults.get(graph.endpoints[name].provider, Fault()))
        await upstream.become(replace(fault, late_s=fault.late_s / speed, retry_after_s=fault.retry_after_s / speed))


async def _phase(session: aiohttp.ClientSession, phase: Phase, speed: float) -> list[Seen]:
    """Ask evenly for as long as the phase lasts; a request that is late does not hold up the next."""
    loop, asked = asyncio.get_running_loop(), []
    began_s = loop.time()
    counts = [max(1, round(load.per_s * phase.for_s)) for load in phase.load]
    moments = sorted((i / phase.load[n].per_s / speed, n) for n, count in enumerate(counts) for i in range(count))
    for at_s, place in moments:
        if (wait_s := began_s + at_s - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        asked.append(asyncio.ensure_future(_ask(session, phase.load[place], speed)))
    if (wait_s := began_s + phase.for_s / speed - loop.time()) > 0:
        await asyncio.sleep(wait_s)
    return list(await asyncio.gather(*asked))


async def _ask(session: aiohttp.ClientSession, load: Load, speed: float) -> Seen:
    body = {"model": load.model, "stream": load.stream, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {_key(load.client or CLIENT)}"}
    began_s = time.perf_counter()
    status, attempts, ok = 0, "", False
    try:
        async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
            status, attempts = answer.status, answer.headers.get("x-routerd-attempts", "")
            text = await answer.read()
            ok = status == 200 and (not load.stream or text.rstrip().endswith(b"data: [DONE]"))
    except (aiohttp.ClientError, TimeoutError):
        ok = False
    tried = tuple(one.partition("/")[0] for one in attempts.split(",") if one)
    return Seen(ok=ok, status=status, attempts=tried, took_s=(time.perf_counter() - began_s) * speed)
