"""The entries of one worker that control has not got yet: at most those of the last flush, or 512.

`add` is on the path of every request: an append. A worker that is killed loses what stands here; a worker that drains flushes.
When control takes nothing (it stands still), entries wait up to a limit and the newest beyond it are dropped and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from routerd.ledger.entry import Batch, Entry, encode
from routerd.observe import Cell

__all__ = ["Outbox"]

BATCH = 512
WAITING_MOST = 20_000  # some 8 MB


class Outbox:
    """One a worker. `send` takes a batch and returns True, or False when it cannot be sent now.

    `stir` is called when an entry waits where none did.
    """

    __slots__ = ("_dropped", "_entries", "_first", "_send", "_stir", "run")

    def __init__(self, send: Callable[[Batch], bool], dropped: Cell, stir: Callable[[], object] = lambda: None) -> None:
        self.run = os.urandom(16).hex()
        self._send = send
        self._stir = stir
        self._dropped = dropped
        self._entries: list[Entry] = []
        self._first = 0

    def add(self, entry: Entry) -> None:
        """Keep an entry."""
        entries = self._entries
        if not entries:
            self._stir()
        entries.append(entry)
        if len(entries) >= BATCH:
            self._full()

    @property
    def waiting(self) -> int:
        """How many entries were not sent yet."""
        return len(self._entries)

    def flush(self) -> None:
        """Send what is here."""
        while self._entries:
            some = self._entries[:BATCH]
            if not self._send(Batch(self.run, self._first, len(some), encode(some))):
                return
            self._first += len(some)
            del self._entries[: len(some)]

    def _full(self) -> None:
        count = len(self._entries)
        if count % BATCH == 0:
            self.flush()
        elif count > WAITING_MOST:
            self._entries.pop()
            self._dropped.inc()
