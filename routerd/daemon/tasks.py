"""Background tasks that are kept, named, and cannot fail unnoticed.

asyncio drops a task nobody refers to and reports its exception when it is collected, perhaps never. `Tasks` keeps every task
until it ends, logs a failure at once, and cancels all of them together at the end. What looks at something now and then does so
at the marks of one clock: a wake that several share costs as much as that of one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks", "to_mark"]

AGAIN_S = 1.0

log = logging.getLogger("routerd.tasks")


class Tasks:
    """The background tasks of one process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` in the background under `name`."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel(self) -> None:
        """Cancel every task and wait until all have ended."""
        pending = {task for task in self._tasks if task is not asyncio.current_task()}
        while pending:  # a task may lose one cancel to a library; it is told again until it has ended
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=AGAIN_S)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)


def to_mark(period_s: float, now_s: float) -> float:
    """Return the time until the next multiple of `period_s`, but not one that is so near that a timer fired early for it."""
    left_s = period_s - now_s % period_s
    return left_s if left_s > period_s / 8 else left_s + period_s
