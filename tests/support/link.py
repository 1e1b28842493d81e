"""A TCP link that is slow, or that speaks up: between a daemon and a server, to measure and to disturb what they say."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Link"]


class Link:
    """Passes bytes on to a loopback port, each answer `delay_s` later. `instead`: what to answer to all that comes."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.instead: bytes | None = None
        self.port = 0
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            answers = asyncio.ensure_future(self._answers(there, writer))
            self._tasks.add(answers)
            while data := await reader.read(65536):
                if self.instead is not None:
                    writer.write(self.instead)
                else:
                    back.write(data)
            back.close()
        except ConnectionError:
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
