"""Counters shared by the processes of one host, without a service: exact over N workers.

What is stored is only what was used; the limit comes with each call, so a changed limit applies at once: what remains is
max(0, limit - used). A charge with a window is counted in a sliding window; one without (`window_s` 0) is held until it is given
back, in a column of the worker's own, so that `drop_worker` can return what a dead worker held.
A full table lets a charge pass uncounted (its handle names slot 0) and counts that in `overflows`: keys come from the
configuration, so a table that is too small is the operator's mistake, and must not refuse the traffic of everybody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from routerd.messages import Taken
from routerd.state import window
from routerd.state.table import DATA, OVERFLOWS, WIDTH, Table

SLOTS = 16384
WORKERS = 33  # columns that fit where a window has its buckets: more workers cost memory a slot
HELD_RETRY_S = 1.0  # nobody knows when a running request ends
TRIES = 8  # a slot may be taken over between finding and locking it, only in a full table


class Meter(Protocol):
    """What is counted: a 16-byte digest of the identity, and the limit as the configuration has it now."""

    @property
    def key(self) -> bytes: ...

    @property
    def limit(self) -> int: ...

    @property
    def window_s(self) -> float: ...


class LocalCounters:
    """The counters as one worker sees them. One thread; any number of processes."""

    __slots__ = ("_table", "_widths", "_words", "_worker")

    def __init__(self, table: Table, worker: int) -> None:
        if not 0 <= worker < table.workers:
            raise ValueError(f"worker {worker} of {table.workers}")
        self._table = table
        self._words = table.words
        self._worker = worker
        self._widths: dict[float, int] = {0.0: 0}

    @classmethod
    def create(cls, *, slots: int = SLOTS, workers: int = WORKERS, worker: int = 0) -> LocalCounters:
        """Make an empty table; hand `fd` to the workers, which `attach`."""
        return cls(Table.create(slots, workers), worker)

    @classmethod
    def attach(cls, fd: int, *, worker: int) -> LocalCounters:
        """Use the table behind an inherited descriptor, which now belongs to this object."""
        return cls(Table(fd), worker)

    @property
    def fd(self) -> int:
        """The descriptor to inherit; not inheritable by itself."""
        return self._table.fd

    @property
    def overflows(self) -> int:
        """How often a charge passed uncounted because the table was full, over all processes."""
        return self._words[OVERFLOWS]

    def close(self) -> None:
        """Unmap and close. What was taken stays taken for the other processes."""
        self._words.release()
        self._table.close()

    def take(self, meters: Sequence[Meter], amounts: Sequence[int], now_s: float) -> Taken:
        """Take all amounts or none. Keys are distinct. Over all processes no limit is ever passed."""
        now_us = int(now_s * 1e6)
        bases = self._lock(meters, now_us) if len(meters) != 1 else (self._lock_one(meters[0], now_us),)
        try:
            refused, longest = -1, 0.0
            for i, base in enumerate(bases):
                if base:
                    wait = self._wait_s(meters[i], base, amounts[i], now_us)
                    if wait > longest:
                        refused, longest = i, wait
            if refused >= 0:
                return Taken((), refused, longest)
            return Taken(tuple([self._add(base, amount) for base, amount in zip(bases, amounts, strict=True)]))
        finally:
            for base in bases:
                if base:
                    self._table.unlock(base)

    def settle(self, meter: Meter, handle: tuple[int, int], taken: int, used: int, now_s: float) -> None:
        """Correct what a windowed take counted to what was really used. More than taken is added, whatever the limit."""
        base, stamp_us = handle
        if not base or taken == used:
            return
        now_us = int(now_s * 1e6)
        base = self._lock_one(meter, now_us)
        if not base:
            return
        try:
            if used < taken:
                window.subtract(self._words, base, stamp_us, taken - used)
            else:
                window.advance(self._words, base, self._width(meter.window_s), now_us)
                window.add(self._words, base, used - taken)
        finally:
            self._table.unlock(base)

    def free(self, meter: Meter, handle: tuple[int, int], amount: int) -> None:
        """Give back what a take without a window holds. No lock: a column has one writer, and a held slot stays where it is."""
        base = handle[0]
        if base and self._table.holds(base, meter.key):
            column = base + DATA + self._worker
            self._words[column] = max(0, self._words[column] - amount)

    def used(self, meter: Meter, now_s: float) -> int:
        """Return what is used now, over all processes."""
        base = self._table.find(meter.key)
        if not base:
            return 0
        self._table.lock(base)
        try:
            if not self._table.holds(base, meter.key):
                return 0
            if not meter.window_s:
                return self._table.columns(base)
            return window.advance(self._words, base, self._width(meter.window_s), int(now_s * 1e6))
        finally:
            self._table.unlock(base)

    def drop_worker(self, worker: int) -> int:
        """Return what a dead worker held; how much that was. Call it before its successor starts under the same number."""
        words, dropped = self._words, 0
        for base in self._table.slots():
            column = base + DATA + worker
            if words[base] and not words[base + WIDTH] and words[column]:
                self._table.lock(base)
                try:
                    if not words[base + WIDTH]:
                        dropped += words[column]
                        words[column] = 0
                finally:
                    self._table.unlock(base)
        return dropped

    def _lock_one(self, meter: Meter, now_us: int) -> int:
        """Return the locked slot of the meter; 0 when the table is full."""
        table, key = self._table, meter.key
        for _ in range(TRIES):
            base = table.find(key) or self._insert(meter, now_us)
            if not base:
                return 0
            table.lock(base)
            if table.holds(base, key):
                return base
            table.unlock(base)
            table.forget(key)
        self._words[OVERFLOWS] += 1
        return 0

    def _lock(self, meters: Sequence[Meter], now_us: int) -> list[int]:
        """Return the locked slots of all meters, 0 where the table is full. Ascending order: nobody waits in a ring."""
        table = self._table
        for _ in range(TRIES):
            bases = [table.find(meter.key) or self._insert(meter, now_us) for meter in meters]
            for base in sorted(bases):
                if base:
                    table.lock(base)
            taken_over = [m.key for m, base in zip(meters, bases, strict=True) if base and not table.holds(base, m.key)]
            if not taken_over:
                return bases
            for base in bases:
                if base:
                    table.unlock(base)
            for key in taken_over:
                table.forget(key)
        self._words[OVERFLOWS] += 1
        return [0] * len(meters)

    def _insert(self, meter: Meter, now_us: int) -> int:
        return self._table.insert(meter.key, self._width(meter.window_s), lambda base: self._idle(base, now_us))

    def _wait_s(self, meter: Meter, base: int, amount: int, now_us: int) -> float:
        """Return 0.0 when the amount fits now, else how long until it may."""
        width = self._width(meter.window_s)
        if not width:
            if self._table.columns(base) + amount <= meter.limit:
                return 0.0
            return HELD_RETRY_S if amount <= meter.limit else float("inf")
        excess = window.advance(self._words, base, width, now_us) + amount - meter.limit
        return window.wait_s(self._words, base, excess, now_us) if excess > 0 else 0.0

    def _add(self, base: int, amount: int) -> tuple[int, int]:
        if not base:
            return (0, 0)
        if self._words[base + WIDTH]:
            return (base, window.add(self._words, base, amount))
        self._words[base + DATA + self._worker] += amount
        return (base, 0)

    def _idle(self, base: int, now_us: int) -> bool:
        """Tell whether a slot may be given to another key: nothing in it counts any more."""
        if not self._words[base + WIDTH]:
            return not self._table.columns(base)
        return window.is_idle(self._words, base, now_us)

    def _width(self, window_s: float) -> int:
        """Return the bucket width, computed once a window length."""
        width = self._widths.get(window_s)
        if width is None:
            if len(self._widths) > 1000:
                self._widths = {0.0: 0}
            width = self._widths[window_s] = window.width_us(window_s)
        return width
