"""A configuration on its way to all workers: packed once, sent in small pieces, published in two phases.

Phase 1, prepare: every worker builds the generation beside the one that serves. If one cannot, or does not answer in time, or
dies, all of them forget it: nobody swaps. Phase 2, commit: control adopts the package first, so that whatever dies from here on
is restarted with the new generation; then every worker swaps. A worker that cannot answer a commit is ended, for it would
serve the old graph for good. Pieces are small so that no single unpickling stalls a worker's event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Protocol

from routerd.daemon.workers.channel import Committed, Piece, Prepare, Prepared, decode, encode
from routerd.errors import ConfigError, Problem
from routerd.graph import Credits, Graph, Provider

__all__ = [
    "BUILD_TIMEOUT", "NO_WORKER", "Assembly", "Package", "Port", "WorkerGone", "build_problem", "pack", "publish", "unpack",
]  # fmt: skip

NO_WORKER = "no-worker"  # problem codes that tell of the workers, not of the configuration
BUILD_TIMEOUT = "build-timeout"
ITEMS_A_PIECE = 50  # 50 routes unpickle in about 1 ms
COMMIT_TIMEOUT_S = 5.0  # a commit is one assignment: a worker that needs longer is stuck


class WorkerGone(Exception):
    """The worker ended while something was asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One generation, encoded. Kept by control as long as it is the current one, for workers that start later."""

    number: int
    digest: str
    frames: tuple[bytes, ...] = field(repr=False)  # with the credentials
    models: tuple[str, ...]  # exact names that are offered, in file order
    open: bool  # no clients block: anybody may call
    providers: Mapping[str, Provider] = field(default_factory=dict, repr=False)  # for control's own look at endpoints
    disabled: Mapping[str, str] = field(default_factory=dict)  # providers.x or clients.x -> why it is not used
    credits: Mapping[str, Credits] = field(default_factory=dict)  # of clients, by name
    empty: bool = False  # nothing is offered, and the file does not say that this is meant


class Port(Protocol):
    """One worker, as publishing sees it."""

    index: int

    async def prepare(self, package: Package) -> Prepared:
        """Have it built; WorkerGone when the worker ends first."""

    async def commit(self, number: int) -> Committed:
        """Have it served; WorkerGone when the worker ends first."""

    def abort(self, number: int) -> None:
        """Have it forgotten."""

    def condemn(self, reason: str) -> None:
        """End the worker; it is started again with what control adopted."""


def build_problem(message: str, *, code: str = "build-failed", hint: str = "") -> Problem:
    """Return a problem of the build stage, which belongs to no line of a file."""
    return Problem(stage="build", code=code, path="", message=message, file="", hint=hint)


def pack(number: int, graph: Graph) -> Package:
    """Encode `graph` as generation `number`."""
    frames = [encode(piece) for piece in _pieces(number, graph)]
    frames.append(encode(Prepare(number, graph.digest)))
    offered = tuple(route.name for route in graph.routes.values() if route.pattern is None and route.enabled)
    disabled = {f"providers.{name}": provider.disabled for name, provider in graph.providers.items() if provider.disabled}
    disabled.update((f"clients.{name}", why) for name, why in graph.disabled_clients.items())
    return Package(
        number=number,
        digest=graph.digest,
        frames=tuple(frames),
        models=offered,
        open=graph.clients is None,
        providers=graph.providers,
        disabled=disabled,
        credits={client.name: client.credits for client in (graph.clients or {}).values() if client.credits is not None},
        empty=not (graph.allow_empty or _offers(graph)),
    )


def _offers(graph: Graph) -> bool:
    direct = any(provider.direct and not provider.disabled for provider in graph.providers.values())
    return direct or any(route.enabled for route in graph.routes.values())


def unpack(package: Package) -> Graph:
    """Return the graph that was packed."""
    assembly = Assembly(package.number)
    for frame in package.frames[:-1]:  # the last one says that it is all
        assembly.add(decode(frame))
    return assembly.graph()


def _pieces(number: int, graph: Graph) -> Iterable[Piece]:
    for item in fields(graph):
        value = getattr(graph, item.name)
        if item.name == "patterns":
            yield Piece(number, item.name, "names", tuple(route.name for route in value))
        elif isinstance(value, Mapping):
            yield Piece(number, item.name, "mapping", {})
            rest = iter(value.items())
            while some := dict(itertools.islice(rest, ITEMS_A_PIECE)):
                yield Piece(number, item.name, "mapping", some)
        else:
            yield Piece(number, item.name, "value", value)


class Assembly:
    """The pieces of one graph, put together again in the worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._values: dict[str, Any] = {}
        self._mappings: dict[str, dict[str, Any]] = {}
        self._patterns: tuple[str, ...] = ()

    def add(self, piece: Piece) -> None:
        """Take one piece."""
        if piece.form == "mapping":
            self._mappings.setdefault(piece.name, {}).update(piece.items)
        elif piece.form == "names":
            self._patterns = piece.items
        else:
            self._values[piece.name] = piece.items

    def graph(self) -> Graph:
        """Return the whole graph."""
        routes = self._mappings["routes"]
        whole = dict(self._values)
        whole.update({name: MappingProxyType(mapping) for name, mapping in self._mappings.items()})
        return Graph(**whole, patterns=tuple(routes[name] for name in self._patterns))


async def publish(ports: Sequence[Port], package: Package, *, timeout_s: float, adopt: Callable[[], None]) -> tuple[float, float]:
    """Bring `package` to all `ports` or to none; return the longest build and the longest swap, in seconds.

    `adopt` is called between the phases, when every worker has built it. Raises ConfigError (stage `build`) when a worker
    could not build it or was silent for `timeout_s`, and WorkerGone when one died while building. A cancel before `adopt`
    returns leaves everything as it was, and so does a fault of it.
    """
    try:
        prepared = await _prepare(ports, package, timeout_s)
        adopt()
    except BaseException:
        for port in ports:
            port.abort(package.number)
        raise
    swapped = await _commit(ports, package.number)
    return max((answer.took_s for answer in prepared), default=0.0), swapped


async def _prepare(ports: Sequence[Port], package: Package, timeout_s: float) -> list[Prepared]:
    tasks = [asyncio.ensure_future(port.prepare(package)) for port in ports]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        silent = [str(port.index) for port, task in zip(ports, tasks, strict=True) if not task.done()]
    finally:
        for task in tasks:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    answers = [result for result in results if isinstance(result, Prepared)]
    problems = {problem for answer in answers for problem in answer.problems}
    if silent:
        problems.add(build_problem(f"worker {', '.join(silent)} did not build it within {timeout_s:g} s", code=BUILD_TIMEOUT))
    if problems:
        raise ConfigError(tuple(problems))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return answers


async def _commit(ports: Sequence[Port], number: int) -> float:
    tasks = [asyncio.ensure_future(port.commit(number)) for port in ports]
    if tasks:
        await asyncio.wait(tasks, timeout=COMMIT_TIMEOUT_S)
    longest_s = 0.0
    for port, task in zip(ports, tasks, strict=True):
        if not task.done():
            task.cancel()
            port.condemn("it did not swap in time")
        elif task.exception() is None:
            longest_s = max(longest_s, task.result().took_s)
        elif not isinstance(task.exception(), WorkerGone):
            port.condemn(f"it could not swap: {task.exception()}")
    return longest_s
