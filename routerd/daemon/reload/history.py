"""The last ten generations that served, encoded as they were sent, so that going back needs neither the files nor their luck.

Entries are never changed, but for the words of their changes and the mark of one that was rolled back. What a rollback serves
is a new generation with a new number: numbers only grow, and a response header tells on which side of it an answer is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from routerd.config import Kept
from routerd.daemon.workers.generation import Package

__all__ = ["KEPT", "Entry", "History"]

KEPT = 10


@dataclass(slots=True, kw_only=True)
class Entry:
    """One generation. `rollback_of`: the number whose content it repeats, or 0. `reverted`: it was rolled back by probation."""

    package: Package
    kept: Kept | None = field(repr=False)
    at_unix_s: float
    trigger: str
    source: str  # file | last_good
    models: int
    providers: int
    changes: tuple[str, ...] = ()
    rollback_of: int = 0
    reverted: bool = False

    def as_json(self, serving: int) -> dict[str, Any]:
        """Return it with plain values; `serving` is the number that serves."""
        return {
            "generation": self.package.number,
            "digest": self.package.digest,
            "at_unix_s": round(self.at_unix_s, 3),
            "trigger": self.trigger,
            "source": self.source,
            "models": self.models,
            "providers": self.providers,
            "changes": list(self.changes),
            "rollback_of": self.rollback_of,
            "reverted": self.reverted,
            "serving": self.package.number == serving,
        }


class History:
    """The ring, newest last."""

    def __init__(self, size: int = KEPT) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def latest(self) -> Entry | None:
        """What serves."""
        return self._entries[-1] if self._entries else None

    def add(self, entry: Entry) -> None:
        """Take what serves from now on."""
        self._entries.append(entry)

    def find(self, number: int) -> Entry | None:
        """Return generation `number`, if it is still known."""
        return next((entry for entry in self._entries if entry.package.number == number), None)

    def previous(self) -> Entry | None:
        """Return what served before: the newest one of another content that was not rolled back."""
        if self.latest is None:
            return None
        digest = self.latest.package.digest
        return next((e for e in reversed(self._entries) if e.package.digest != digest and not e.reverted), None)

    def as_json(self) -> list[dict[str, Any]]:
        """Return all of it with plain values, newest first."""
        serving = self.latest.package.number if self.latest else 0
        return [entry.as_json(serving) for entry in reversed(self._entries)]
