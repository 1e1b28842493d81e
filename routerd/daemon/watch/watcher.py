"""The loop: rests, looks, and has the inputs loaded when a change is complete.

`Settle` decides when that is, `Throttle` how often changes that do not end are built. The look that counts as taken up is the one
from before the file was read, so a change during the read is seen afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from routerd.daemon.watch.eyes import POLL_S, Eyes
from routerd.daemon.watch.look import Look, Sign
from routerd.daemon.watch.settle import AT_MOST_S, EARLY_S, Settle
from routerd.daemon.watch.throttle import Throttle

__all__ = ["Watcher"]

log = logging.getLogger("routerd.watch")


class Watcher:
    """Looks for ever and calls `changed` when a change is complete. It cannot die: a look that fails is counted and repeated.

    `changed(seen_at_s)` loads the inputs and returns when it is done; it tells the outcome through `taken`. `looked(present)` is
    told of every look, from any thread.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        changed: Callable[[float], Awaitable[None]],
        *,
        clock: Callable[[], float],
        looked: Callable[[bool], None] = lambda _present: None,
        failed: Callable[[], None] = lambda: None,
        eyes: Eyes | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self._main = self.paths[0]
        self.settle = Settle()
        self.throttle = Throttle()
        self._eyes = eyes or Eyes(clock=clock)
        self._changed = changed
        self._clock = clock
        self._looked = looked
        self._failed = failed
        self._seen: Look = {}
        self._failing = False
        self._gone_since_s: float | None = None
        self._gone_logged = False

    def before_load(self) -> dict[Path, Sign]:
        """Look at everything, content included; to be called right before the inputs are read. Blocks; runs in a thread."""
        return self._eyes.look(self.paths, content=True)

    def taken(self, before: Mapping[Path, Sign], paths: Iterable[Path]) -> None:
        """The inputs were loaded, or found wrong, as they were at `before`; from now on watch `paths` (none: the same).

        A path that `before` does not know yet was first named by this load: it counts as unseen, and the next look that
        settles loads once more. That costs one no-op and can never lose a change.
        """
        self.paths = tuple(dict.fromkeys(paths)) or self.paths
        self.settle.take({path: sign for path, sign in before.items() if path in set(self.paths)})
        self._eyes.wake()  # there may be others to watch

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                try:
                    await self.step(await self._next_look())
                    self._failing = False
                except Exception as exc:  # the watcher must outlive whatever a file system does
                    self._failed()
                    if not self._failing:
                        log.error("looking at the configuration failed; it goes on: %s: %s", type(exc).__name__, exc)
                    self._failing = True
        finally:
            self._eyes.wake()  # else its thread would hold up the end of the process

    async def _next_look(self) -> Look | None:
        """Wait until another look is worth it; return the one that said so, None when it is still to be taken."""
        if self._failing or not self._seen or self.settle.changed_at_s is not None:
            await asyncio.sleep(POLL_S)
            return None
        return await asyncio.to_thread(self._eyes.await_change, self.paths, self._seen, self._note_look)

    def _note_look(self, look: Look) -> None:
        """Tell that somebody looked. From any thread."""
        self._looked(self._main in look and look[self._main].present)

    async def step(self, look: Look | None = None) -> None:
        """Look once, unless that was done already, and load when a change is complete."""
        now_s = self._clock()
        if look is None:
            content = None if self.settle.changed_at_s is None else False
            look = await asyncio.to_thread(self._eyes.look, self.paths, content=content)
            self._note_look(look)
        self._seen = look
        self._note_presence(self._main in look and look[self._main].present, now_s)
        if not self.settle.see(look, now_s):
            return
        seen_at_s = now_s if self.settle.changed_at_s is None else self.settle.changed_at_s
        if self.throttle.wait_s(now_s, self.settle.quiet_s(now_s)) > EARLY_S:
            return
        if await asyncio.to_thread(self._eyes.being_written, self.paths) and not self.settle.see(look, now_s, written=True):
            return
        await self._changed(seen_at_s)
        self.throttle.built(seen_at_s, self._clock())

    def _note_presence(self, present: bool, now_s: float) -> None:
        """Say once that the file has gone, and once that it is back; an editor's delete and create is neither."""
        if present:
            if self._gone_logged:
                log.warning("%s is back", self._main)
            self._gone_since_s, self._gone_logged = None, False
        elif self._gone_since_s is None:
            self._gone_since_s = now_s
        elif not self._gone_logged and now_s - self._gone_since_s >= AT_MOST_S - EARLY_S:
            self._gone_logged = True
            log.error("%s is missing; what serves keeps serving", self._main)
