"""A TCP link between a daemon and a server that is slow, counts what is said, and may lead somewhere else."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Link"]


class Link:
    """Passes bytes on to the loopback port `to`, each answer `delay_s` later. `asked` is all that was sent there."""

    def __init__(self, to: int, delay_s: float = 0.0) -> None:
        self.to = to
        self.delay_s = delay_s
        self.asked = bytearray()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
            answers = asyncio.ensure_future(self._answers(there, writer))
            self._tasks.add(answers)
            while data := await reader.read(65536):
                self.asked += data
                back.write(data)
            back.close()
        except (ConnectionError, asyncio.CancelledError):  # either way nobody listens any more
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
        writer.close()
