"""An event loop that does nothing by itself: callbacks run when the test says so, sockets are lists of what was written.

It counts what costs: callbacks queued, task steps, tasks, futures, timers, writes. Time is a counter that moves by a microsecond
at each look, so that two runs make the same decisions. Timers are counted and never fire: a measured window is shorter than any.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVarTuple

__all__ = ["StepLoop", "Wire"]

LOOK_S = 1e-6
START_S = 1_000_000.0
START_UNIX_S = 1_700_000_000.0
_Ts = TypeVarTuple("_Ts")


class Wire(asyncio.Transport):
    """One end of a connection: what the protocol wrote stands in `written`; `feed` is what the other end says."""

    def __init__(self, loop: StepLoop, protocol: Any) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._closing = False
        self.written: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Let the protocol read `data` in one piece, as a loop would."""
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            memoryview(self._protocol.get_buffer(len(data)))[: len(data)] = data
            self._protocol.buffer_updated(len(data))
        else:
            self._protocol.data_received(data)

    def taken(self) -> bytes:
        """Return what was written since the last look."""
        data = b"".join(self.written)
        self.written.clear()
        return data

    def write(self, data: Any) -> None:
        self._loop.counts["writes"] += 1
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None:
        self._loop.counts["pauses"] += 1

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return not self._closing


class _Handle(asyncio.Handle):
    """asyncio's own is written in Python; a loop in C, as workers use, has none of its bytecodes."""

    __slots__ = ("_call",)

    def __init__(self, callback: Any, args: tuple[Any, ...], context: Any) -> None:
        self._call = (callback, args, context if context is not None else contextvars.copy_context())
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def _run(self) -> None:
        if not self._cancelled:
            callback, args, context = self._call
            context.run(callback, *args)


class _Timer(asyncio.TimerHandle):
    """A timer that never fires."""

    __slots__ = ("_at_s",)

    def __init__(self, at_s: float) -> None:
        self._at_s = at_s
        self._cancelled = False

    def when(self) -> float:
        return self._at_s

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


class _Server:
    """What `create_server` returns."""

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class StepLoop(asyncio.AbstractEventLoop):
    """`counts` is what happened; `upstreams` are the connections that were dialled, the last one last."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.upstreams: list[Wire] = []
        self._accept: Callable[[], Any] | None = None
        self._ready: deque[asyncio.Handle] = deque()
        self._looks = itertools.count()
        self._monotonic = itertools.count(START_S, LOOK_S).__next__
        self._unix = itertools.count(START_UNIX_S, LOOK_S).__next__
        self.time = self._monotonic  # type: ignore[method-assign]  # no frame of ours in what is counted

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop, and the clock of this process."""
        real = time.monotonic, time.time
        asyncio._set_running_loop(self)
        time.monotonic, time.time = self._monotonic, self._unix
        try:
            yield
        finally:
            time.monotonic, time.time = real
            asyncio._set_running_loop(None)

    def turn(self) -> None:
        """Run what is queued, and what that queues, until nothing is left."""
        ready = self._ready
        while ready:
            ready.popleft()._run()

    def connect(self) -> Wire:
        """Accept one client."""
        assert self._accept is not None
        protocol = self._accept()
        wire = Wire(self, protocol)
        protocol.connection_made(wire)
        self.turn()
        return wire

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine that waits for nothing outside."""
        task = self.create_task(coroutine)
        self.turn()
        return task.result()

    # ── what asyncio asks of a loop ──

    def call_soon(self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None) -> asyncio.Handle:
        self.counts["callbacks"] += 1
        if "Task" in type(callback).__name__ or isinstance(getattr(callback, "__self__", None), asyncio.Task):
            self.counts["task_steps"] += 1
        handle = _Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None) -> asyncio.TimerHandle:
        self.counts["timers"] += 1
        return _Timer(when)

    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        self.counts["futures"] += 1
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        self.counts["tasks"] += 1
        return asyncio.Task(coro, loop=self, name=name, context=context)

    async def create_server(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        self._accept = protocol_factory
        return _Server()

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        self.counts["dials"] += 1
        protocol = protocol_factory()
        wire = Wire(self, protocol)
        self.upstreams.append(wire)
        protocol.connection_made(wire)
        return wire, protocol

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or RuntimeError(context["message"])
