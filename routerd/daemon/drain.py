"""The end of the daemon: which signal means what, and in which order things stop.

First SIGTERM or SIGINT: not ready, no new connections, running requests may finish until the drain timeout, exit 0. A second one:
exit now. Signals that come while a step runs are not lost: `Ending` is a state, not an event that somebody must be waiting for.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

__all__ = ["Ending", "drain"]

GRACE_S = 2.0  # beyond the drain timeout: a worker closes what is left and says its last figures


class Ending:
    """Whether and how the daemon was asked to end."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.now = asyncio.Event()

    def signalled(self) -> None:
        """Take one SIGTERM or SIGINT."""
        if self.asked.is_set():
            self.now.set()
        self.asked.set()

    def listen(self) -> None:
        """Take the signals of this process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.signalled)


async def drain(
    ending: Ending, timeout_s: float, *, close_listeners: Callable[[], None], drain_workers: Callable[[float], Awaitable[None]]
) -> bool:
    """Stop accepting and let the workers finish; return whether all did before the timeout or a second signal."""
    close_listeners()
    draining = asyncio.ensure_future(drain_workers(timeout_s))
    now = asyncio.ensure_future(ending.now.wait())
    await asyncio.wait((draining, now), timeout=timeout_s + GRACE_S, return_when=asyncio.FIRST_COMPLETED)
    finished = draining.done()
    for task in (draining, now):
        task.cancel()
    await asyncio.gather(draining, now, return_exceptions=True)
    return finished
