"""Stand-ins for what surrounds the daemon's parts: graphs, a wire in memory, a data plane, processes without a fork."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from routerd.daemon.workers.channel import Notice, decode, encode
from routerd.daemon.workers.worker import Worker
from routerd.errors import ConfigError, Problem
from routerd.graph import Client, Endpoint, Graph, Params, Pattern, Provider, Route, Secret, Step, Target
from routerd.graph.model import Auth
from routerd.observe import Metrics


def graph(digest: str = "d1", routes: int = 1, *, clients: bool = False) -> Graph:
    """Return a graph of `routes` exact routes and one pattern."""
    made = {
        f"m{i}": Route(
            name=f"m{i}",
            chain=(Step(targets=(Target(provider="p", model=f"up-{i}"),)),),
            params=Params(defaults=MappingProxyType({"temperature": 0.5, "stop": ("a",)})),
        )
        for i in range(routes)
    }
    wild = Route(name="x-*", pattern=Pattern.parse("x-*"), chain=(Step(targets=(Target(provider="p", model="{1}"),)),))
    endpoint = Endpoint(name="e", provider="p", url="http://127.0.0.1:1/v1")
    provider = Provider(name="p", dialect="openai", endpoints=(endpoint,), auth=Auth(secret=Secret("sk-hidden")))
    return Graph(
        digest=digest,
        providers=MappingProxyType({"p": provider}),
        endpoints=MappingProxyType({"e": endpoint}),
        routes=MappingProxyType({**made, "x-*": wild}),
        aliases=MappingProxyType({"a": "m0"}),
        patterns=(wild,),
        budgets=MappingProxyType({}),
        clients=MappingProxyType({"c": Client(name="c", key_sha256=b"x" * 32)}) if clients else None,
    )


def problem(code: str = "unknown-key", stage: str = "schema") -> Problem:
    """Return a problem at a place."""
    return Problem(stage=stage, code=code, path="models.m", message="wrong", file="routes.yaml", line=3, column=5)


class Pipe:
    """One end of a wire in memory. What is sent is pickled, as on the real one."""

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.garble: Callable[[Any], bool] = lambda _message: False  # which messages to this end cannot be decoded
        self.peer: Pipe | None = None
        self.sent: list[Any] = []

    @classmethod
    def pair(cls) -> tuple[Pipe, Pipe]:
        """Return two connected ends."""
        a, b = cls(), cls()
        a.peer, b.peer = b, a
        return a, b

    def send(self, message: Any) -> None:
        self.send_frames((encode(message),))

    def send_frames(self, frames: tuple[bytes, ...]) -> None:
        for frame in frames:
            self.sent.append(pickle.loads(frame[4:]))
            if self.peer:
                self.peer._inbox.put_nowait(frame)

    async def receive(self) -> Any:
        frame = await self._inbox.get()
        if frame is None:
            raise EOFError
        message = decode(frame)
        return decode(b"1234no pickle") if self.garble(message) else message

    def close(self) -> None:
        for end in (self, self.peer):
            if end:
                end._inbox.put_nowait(None)


class Plane:
    """A data plane that serves nothing. `refuse` makes `prepare` fail; `on_prepare` runs inside it."""

    def __init__(self) -> None:
        self.serving: tuple[int, Graph] | None = None
        self.served: list[int] = []
        self.started = 0
        self.drained: float | None = None
        self.refuse = False
        self.on_prepare: Callable[[], None] = lambda: None
        self.inflight: dict[int, int] = {}
        self.counted: dict[int, tuple[int, int]] = {}
        self.learnt: list[Any] = []
        self.compiled: dict[int, bool] = {}  # generations that still have something to shed
        self.finish = asyncio.Event()
        self.finish.set()

    async def prepare(self, number: int, graph: Graph) -> Any:
        self.on_prepare()
        if self.refuse:
            raise ConfigError([problem("no-such-regex", "build")])
        return number, graph

    def swap(self, generation: Any) -> Any:
        old, self.serving = self.serving, generation
        self.served.append(generation[0])
        return old

    def shed(self, generation: Any) -> bool:
        return self.compiled.pop(generation[0], False)

    async def start(self, sock: socket.socket) -> None:
        assert self.serving is not None, "accepts before it has a generation"
        self.started += 1

    def generations(self) -> dict[int, int]:
        current = {self.serving[0]: 0} if self.serving else {}
        return current | self.inflight

    def outcomes(self) -> dict[int, tuple[int, int]]:
        return dict(self.counted)

    def publish_gauges(self) -> None:
        pass

    def learn(self, news: Any) -> None:
        self.learnt.append(news)

    async def drain(self, timeout_s: float) -> None:
        self.drained = timeout_s
        await self.finish.wait()

    async def close(self) -> None:
        pass


class Process:
    """A worker that is a task of this process instead. `plane` and `metrics` are inside it."""

    def __init__(self, index: int, pid: int) -> None:
        self.pid = pid
        self.plane = Plane()
        self.metrics = Metrics()
        self.stream, self.inside = Pipe.pair()
        self.killed = False
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        worker = Worker(self.inside, self.plane, self.metrics, index=index, sock=socket.socket())
        self._task = asyncio.create_task(self._run(worker))

    async def _run(self, worker: Worker) -> None:
        try:
            await worker.run()
        except EOFError:
            pass
        finally:
            self.end(0)

    def notice(self, kind: str, fields: dict[str, Any]) -> None:
        """Say what the data plane noticed."""
        self.inside.send(Notice(kind, fields))

    def end(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)
            self.stream.close()

    def kill(self) -> None:
        if not self._status.done():
            self.killed = True
            self._task.cancel()
            self.end(-9)

    async def reap(self) -> int:
        return await self._status


async def until(holds: Callable[[], Any]) -> None:
    """Let other tasks run until `holds()`; fails after many turns of the loop instead of waiting for a clock."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became true")
