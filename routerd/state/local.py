"""Counters shared by the processes of one host, without a service: exact over N workers.

What is stored is only what was used; the limit comes with each call, so a changed limit applies at once: what remains is max(0,
limit - used). A charge is counted in a bucket that drains, in a calendar window, in a sliding window (modules `pace`, `calendar`,
`window`), or is held until it is given back, in a column of the worker's own. What is reserved by an estimate has a record
(`journal`) until it is settled. So `drop_worker` returns all that a dead worker held and had reserved. Calendar windows follow
the wall clock, all else the monotonic one that callers pass in.
A full table lets a charge pass uncounted (its handle names slot 0) and counts that in `overflows`: keys come from the
configuration, so a table that is too small is the operator's mistake, and must not refuse the traffic of everybody else.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from routerd.messages import Taken
from routerd.state import calendar, pace, window
from routerd.state.calendar import CALENDAR
from routerd.state.journal import Journal
from routerd.state.pace import PACED, PARTS
from routerd.state.table import BUCKETS, DATA, DIRTY, HEAD, OVERFLOWS, TOTAL, WIDTH, Table

SLOTS = 16384
WORKERS = 33  # columns that fit where a window has its buckets: more workers cost memory a slot
HELD_RETRY_S = 1.0  # nobody knows when a running request ends
MOST = 1 << 62  # shadow mode may fill a bucket without end; a word holds no more
TRIES = 8  # a slot may be taken over between finding and locking it, only in a full table
_UNCOUNTED = ((0, 0),)
_SLOT = struct.Struct("=16s4q")  # the first words of a slot: its key, WIDTH, HEAD, TOTAL, DIRTY
_make = tuple.__new__  # a NamedTuple without its slow way in


class Meter(Protocol):
    """What is counted: a 16-byte digest of the identity, and the limit and window as the configuration has them now.

    `drain_s` > 0: a bucket of `limit` that drains in so long; else `calendar` (hour | day | week | month), else `window_s` > 0,
    else held. Not `enforced`: counted whatever the limit. `settled`: taken by an estimate, which `settle` corrects or keeps.
    """

    @property
    def key(self) -> bytes: ...

    @property
    def limit(self) -> int: ...

    @property
    def window_s(self) -> float: ...

    @property
    def calendar(self) -> str: ...

    @property
    def drain_s(self) -> float: ...

    @property
    def enforced(self) -> bool: ...

    @property
    def settled(self) -> bool: ...


class LocalCounters:
    """The counters as one worker sees them. One thread; any number of processes."""

    __slots__ = ("_journal", "_locks", "_periods", "_table", "_unix", "_widths", "_words", "_worker")

    def __init__(self, table: Table, worker: int, unix: Callable[[], float] = time.time) -> None:
        if not 0 <= worker < table.workers:
            raise ValueError(f"worker {worker} of {table.workers}")
        self._table = table
        self._words = table.words
        self._locks = table.workers > 1
        self._worker = worker
        self._journal = Journal(table, worker)
        self._unix = unix
        self._widths: dict[float, int] = {}
        self._periods: dict[str, tuple[int, int]] = {}

    @classmethod
    def create(
        cls, *, slots: int = SLOTS, workers: int = WORKERS, worker: int = 0, unix: Callable[[], float] = time.time
    ) -> LocalCounters:
        """Make an empty table; hand `fd` to the workers, which `attach`."""
        return cls(Table.create(slots, workers), worker, unix)

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
        if len(meters) == 1:
            one = self._take_slowly if not meters[0].window_s else self._take_one
            return one(meters[0], amounts[0], now_us)
        bases = self._lock(meters, now_us)
        try:
            used: list[int] = []
            over: tuple[int, ...] = ()
            refused, longest = -1, 0.0
            for i, base in enumerate(bases):
                meter = meters[i]
                have = self._have(meter, base, now_us) if base else 0
                used.append(have)
                if have + amounts[i] > meter.limit and base:
                    if not meter.enforced:
                        over += (i,)
                        continue
                    wait = self._wait_s(meter, base, amounts[i], now_us)
                    if wait > longest:
                        refused, longest = i, wait
            if refused >= 0:
                return Taken((), refused, longest, tuple(used), over)
            handles = []
            for i, base in enumerate(bases):
                handle = self._add(meters[i], base, amounts[i], now_us)
                handles.append(self._noted(meters[i], handle, amounts[i]) if meters[i].settled else handle)
            return Taken(tuple(handles), -1, 0.0, tuple(map(int.__add__, used, amounts)), over)
        finally:
            if self._table.workers > 1:
                for base in bases:
                    if base:
                        self._table.unlock(base)

    def _take_one(self, meter: Meter, amount: int, now_us: int) -> Taken:
        """The same for one sliding window, which is the usual case: if it is up to date it is read and written at once."""
        table, key, width = self._table, meter.key, self._widths.get(meter.window_s)
        base = table.known.get(key) if width else None
        if not base or not width:
            return self._take_slowly(meter, amount, now_us)
        if self._locks:
            table.lock(base)
        try:
            found, its_width, head, have, dirty = _SLOT.unpack_from(table.memory, 8 * base)
            total = have + amount
            if found == key and its_width == width and head == now_us // width and not dirty and total <= meter.limit:
                window.put(self._words, base, head, amount, total)
                stamp = (head + 1) * width - 1
                at = self._journal.note(key, stamp, amount) if meter.settled else 0
                return _make(Taken, (((-at or base, stamp),), -1, 0.0, (total,), ()))
        finally:
            if self._locks:
                table.unlock(base)
        return self._take_slowly(meter, amount, now_us)

    def _take_slowly(self, meter: Meter, amount: int, now_us: int) -> Taken:
        base = self._lock_one(meter, now_us)
        if not base:
            return Taken(_UNCOUNTED, -1, 0.0, (0,))
        try:
            have = self._used_now(meter, base, now_us)
            over: tuple[int, ...] = ()
            if have + amount > meter.limit:
                if meter.enforced:
                    return Taken((), 0, self._wait_s(meter, base, amount, now_us), (have,))
                over = (0,)
            handle = self._add(meter, base, amount, now_us)
            if meter.settled:
                handle = self._noted(meter, handle, amount)
            return _make(Taken, ((handle,), -1, 0.0, (have + amount,), over))
        finally:
            self._table.unlock(base)

    def count(self, meter: Meter, amount: int, now_s: float) -> None:
        """Count the amount for good, whatever the limit: it was used somewhere else."""
        base = self._lock_one(meter, now_us := int(now_s * 1e6))
        if base:
            self._used_now(meter, base, now_us)
            self._add(meter, base, amount, now_us)
            self._table.unlock(base)

    def settle(self, meter: Meter, handle: tuple[int, int], taken: int, used: int, now_s: float) -> None:
        """Correct what a take counted to what was really used; once. More than taken is added, whatever the limit.

        The slot may have got another window since: what the take left there is found by its stamp, or stays.
        """
        place, stamp = handle
        if place < 0:
            self._journal.clear(-place)
        less = taken - used
        if not place or not less or (less > 0 and self._gave_back(meter, stamp, less)):
            return
        base = self._lock_one(meter, int(now_s * 1e6))
        if not base:
            return
        try:
            if less > 0:
                self._give_back(base, stamp, less)
            else:
                self._add_late(meter, base, -less, int(now_s * 1e6))
        finally:
            if self._locks:
                self._table.unlock(base)

    def _gave_back(self, meter: Meter, stamp: int, amount: int) -> bool:
        """Give back to a sliding window, the usual case, read and written at once; False: it is another case."""
        table, key = self._table, meter.key
        base = table.known.get(key)
        if not base or stamp < 0:
            return False
        if self._locks:
            table.lock(base)
        try:
            found, width, head, total, dirty = _SLOT.unpack_from(table.memory, 8 * base)
            if found != key or width <= 0 or dirty:
                return False
            bucket = stamp // width
            if head - BUCKETS < bucket <= head:
                words, cell = self._words, base + DATA + bucket % BUCKETS
                have = words[cell]
                if amount > have:
                    amount = have
                words[base + DIRTY] = 1
                words[cell] = have - amount
                words[base + TOTAL] = total - amount
                words[base + DIRTY] = 0
            return True
        finally:
            if self._locks:
                table.unlock(base)

    def _add_late(self, meter: Meter, base: int, amount: int, now_us: int) -> None:
        """Count what was used beyond the estimate, in the window that the slot has."""
        words, width = self._words, self._words[base + WIDTH]
        if width == PACED:
            self._add(meter, base, amount, now_us)
        elif width == CALENDAR:
            words[base + TOTAL] += amount
        else:
            window.advance(words, base, width, now_us)
            window.add(words, base, amount)

    def _give_back(self, base: int, stamp: int, amount: int) -> None:
        """Take back what was counted at `stamp`, as far as it still counts there."""
        words, width = self._words, self._words[base + WIDTH]
        if width > 0:
            if stamp >= 0:
                window.subtract(words, base, stamp, amount)
        elif width == PACED:
            pace.subtract(words, base, amount)
        elif width == CALENDAR and stamp < 0:
            calendar.subtract(words, base, stamp, amount)

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
            return self._used_now(meter, base, int(now_s * 1e6)) if self._table.holds(base, meter.key) else 0
        finally:
            self._table.unlock(base)

    def drop_worker(self, worker: int) -> int:
        """Return what a dead worker held and had reserved; how much that was. Call it before its successor starts as that number.

        What its requests really used nobody knows: they count as if they had never been, in the ledger too.
        """
        words, table, dropped = self._words, self._table, 0
        for base in table.slots():
            column = base + DATA + worker
            if words[base] and not words[base + WIDTH] and words[column]:
                table.lock(base)
                try:
                    if not words[base + WIDTH]:
                        dropped += words[column]
                        words[column] = 0
                finally:
                    table.unlock(base)
        for key, stamp, amount in Journal(table, worker).empty():
            base = table.find(key)
            if not base:
                continue
            table.lock(base)
            try:
                if table.holds(base, key):
                    self._give_back(base, stamp, amount)
                    dropped += amount
            finally:
                table.unlock(base)
        return dropped

    def _lock_one(self, meter: Meter, now_us: int) -> int:
        """Return the locked slot of the meter; 0 when the table is full."""
        table, key, locks = self._table, meter.key, self._locks
        for _ in range(TRIES):
            base = table.known.get(key) or table.find(key) or self._insert(meter, now_us)
            if not base:
                return 0
            if locks:
                table.lock(base)
            if table.memory[8 * base : 8 * base + 16] == key:
                return base
            if locks:
                table.unlock(base)
            table.forget(key)
        self._words[OVERFLOWS] += 1
        return 0

    def _lock(self, meters: Sequence[Meter], now_us: int) -> list[int]:
        """Return the locked slots of all meters, 0 where the table is full. Ascending order: nobody waits in a ring."""
        table = self._table
        if table.workers == 1:  # nothing is locked
            return [self._lock_one(meter, now_us) for meter in meters]
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
        return self._table.insert(meter.key, self._form(meter), lambda base: self._idle(base, now_us))

    def _noted(self, meter: Meter, handle: tuple[int, int], amount: int) -> tuple[int, int]:
        """Record a take that will be settled; return its handle, which names the record, negative, instead of the slot."""
        base, stamp = handle
        return (-self._journal.note(meter.key, stamp, amount) or base, stamp) if base else handle

    def _have(self, meter: Meter, base: int, now_us: int) -> int:
        """Return what is used now; a slot that is up to date is only read."""
        words, width = self._words, self._widths.get(meter.window_s)
        if width and words[base + WIDTH] == width and words[base + HEAD] == now_us // width and not words[base + DIRTY]:
            return words[base + TOTAL]
        return self._used_now(meter, base, now_us)

    def _used_now(self, meter: Meter, base: int, now_us: int) -> int:
        """Bring the slot to this moment and to the meter's window; return what is used."""
        words = self._words
        if meter.window_s:
            if words[base + WIDTH] == CALENDAR and calendar.is_idle(words, base, self._unix()):
                words[base + TOTAL] = 0
            return window.advance(words, base, self._form(meter), now_us)
        if meter.calendar:
            unix_s = int(self._unix())
            return calendar.advance(words, base, self._period(meter.calendar, unix_s), unix_s, now_us)
        if meter.drain_s:
            return -(-pace.level(words, base, meter.limit, meter.drain_s, now_us) // PARTS)
        return self._table.columns(base)

    def _wait_s(self, meter: Meter, base: int, amount: int, now_us: int) -> float:
        """Return how long until the amount, which does not fit now, may; inf: never."""
        words, limit = self._words, meter.limit
        if amount > limit:
            return float("inf")
        if meter.window_s:
            return window.wait_s(words, base, words[base + TOTAL] + amount - limit, now_us)
        if meter.calendar:
            return max(0.001, words[base + HEAD] - self._unix())
        if meter.drain_s:
            full = pace.level(words, base, limit, meter.drain_s, now_us) + (amount - limit) * PARTS
            return pace.wait_s(full, limit, meter.drain_s)
        return HELD_RETRY_S

    def _add(self, meter: Meter, base: int, amount: int, now_us: int) -> tuple[int, int]:
        """Count the amount in a slot that is up to date."""
        if not base:
            return (0, 0)
        words = self._words
        if meter.window_s:
            return (base, window.add(words, base, amount))
        if meter.calendar:
            return (base, calendar.add(words, base, amount, int(self._unix())))
        if meter.drain_s:
            parts = min(MOST, pace.level(words, base, meter.limit, meter.drain_s, now_us) + amount * PARTS)
            drained_us = now_us + int(parts * meter.drain_s * 1e6) // (meter.limit * PARTS) + 1
            pace.put(words, base, parts, now_us, min(MOST, drained_us))
        else:
            words[base + DATA + self._worker] += amount
        return (base, 0)

    def _idle(self, base: int, now_us: int) -> bool:
        """Tell whether a slot may be given to another key: nothing in it counts any more."""
        width = self._words[base + WIDTH]
        if not width:
            return not self._table.columns(base)
        if width == CALENDAR:
            return calendar.is_idle(self._words, base, self._unix())
        if width == PACED:
            return pace.is_idle(self._words, base, now_us)
        return window.is_idle(self._words, base, now_us)

    def _form(self, meter: Meter) -> int:
        """Return how the meter is counted, as a slot says it: the width of a bucket, CALENDAR, PACED, or 0: held."""
        window_s = meter.window_s
        if not window_s:
            return CALENDAR if meter.calendar else PACED if meter.drain_s else 0
        width = self._widths.get(window_s)
        if width is None:
            if len(self._widths) > 1000:
                self._widths.clear()
            width = self._widths[window_s] = window.width_us(window_s)
        return width

    def _period(self, word: str, unix_s: int) -> tuple[int, int]:
        """Return the bounds of the calendar's period, computed once a period."""
        bounds = self._periods.get(word)
        if bounds is None or not bounds[0] <= unix_s < bounds[1]:
            bounds = self._periods[word] = calendar.period(word, unix_s)
        return bounds
