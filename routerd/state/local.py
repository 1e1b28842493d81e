"""Counters shared by the processes of one host, without a service: exact over N workers.

What is stored is only what was used; the limit comes with each call, so a changed limit applies at once: what remains is max(0,
limit - used). A charge is counted in a bucket that drains, in a calendar window, in a sliding window (modules `pace`, `calendar`,
`window`), or is held until it is given back, in a column of the worker's own. What is reserved by an estimate has a record
(`journal`) until it is settled. So `drop_worker` returns all that a dead worker held and had reserved. Calendar windows follow
the wall clock, all else the monotonic one that callers pass in. A take that finds its slots as the last one left them is made by
what that one has made ready (`ready`); any other, and one that is refused, goes the long way, which makes it ready. Where workers
share one lock, what a request gives back waits for the next time that its worker has it: a take, or the end of the turn (`soon`).
A full table lets a charge pass uncounted (its handle names slot 0) and counts that in `overflows`: keys come from the
configuration, so a table that is too small is the operator's mistake, and must not refuse the traffic of everybody else.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from fcntl import LOCK_EX, LOCK_UN, flock

from routerd.messages import Handle, Taken
from routerd.state import calendar, pace, window
from routerd.state.calendar import CALENDAR
from routerd.state.journal import Journal
from routerd.state.pace import PACED, PARTS
from routerd.state.ready import Meter, Ready
from routerd.state.table import BUCKETS, DATA, HEAD, OVERFLOWS, TOTAL, WIDTH, Table

SLOTS = 16384
WORKERS = 33  # columns that fit where a window has its buckets: more workers cost memory a slot
HELD_RETRY_S = 1.0  # nobody knows when a running request ends
MOST = 1 << 62  # shadow mode may fill a bucket without end; a word holds no more
MOST_READY = 4096  # kinds of requests that come more than once a bucket: about 2.4 KB each
TRIES = 8  # a slot may be taken over between finding and locking it, only in a full table
_UNCOUNTED = (0, 0, 0, 0)  # a handle: slot, stamp, record in the journal or 0, WIDTH of the slot
_slot_of = struct.Struct("=16s4q").unpack_from  # the first words of a slot: its key, WIDTH, DIRTY, HEAD, TOTAL
Soon = Callable[[Callable[[], None]], object]
_make = tuple.__new__  # a NamedTuple without its slow way in


class LocalCounters:
    """The counters as one worker sees them. One thread; any number of processes."""

    __slots__ = (
        "_apart", "_journal", "_late", "_lock_fd", "_periods", "_ready", "_soon", "_table", "_unix", "_widths", "_words",
        "_worker",
    )  # fmt: skip

    def __init__(self, table: Table, worker: int, unix: Callable[[], float] = time.time, soon: Soon | None = None) -> None:
        if not 0 <= worker < table.workers:
            raise ValueError(f"worker {worker} of {table.workers}")
        self._table = table
        self._words = table.words
        self._lock_fd, self._apart = table.lock_fd, table.apart
        self._soon = soon if table.lock_fd else None
        self._late: list[tuple[bytes, int, int, int, int, int]] = []  # given back then: key, base, stamp, record, width, amount
        self._worker = worker
        self._journal = Journal(table, worker)
        self._unix = unix
        self._widths: dict[float, int] = {}
        self._periods: dict[str, tuple[int, int]] = {}
        self._ready: dict[int, Ready] = {}  # by the id of its meters, which it keeps: nothing else has that id

    @classmethod
    def create(
        cls,
        *,
        slots: int = SLOTS,
        workers: int = WORKERS,
        worker: int = 0,
        unix: Callable[[], float] = time.time,
        soon: Soon | None = None,
    ) -> LocalCounters:
        """Make an empty table; hand `fd` to the workers, which `attach`."""
        return cls(Table.create(slots, workers), worker, unix, soon)

    @classmethod
    def attach(cls, fd: int, *, worker: int, soon: Soon | None = None) -> LocalCounters:
        """Use the table behind an inherited descriptor, which now belongs to this object.

        `soon` has something called at the end of this turn of the event loop; without it what is given back waits for nothing.
        """
        return cls(Table(fd), worker, soon=soon)

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
        self.flush()
        self._words.release()
        self._table.close()

    def take(self, meters: Sequence[Meter], amounts: Sequence[int], now_s: float) -> Taken:
        """Take all amounts or none. Keys are distinct. Over all processes no limit is ever passed."""
        ready = self._ready.get(id(meters))
        if ready is None or now_s >= ready.until_s or (ready.until_unix_s and self._unix() >= ready.until_unix_s):
            return self._take_slowly(meters, amounts, int(now_s * 1e6))
        lock_fd, apart = self._lock_fd, self._apart
        if lock_fd:
            flock(lock_fd, LOCK_EX)
        elif apart:
            self._table.lock(ready.bases)
        try:
            if self._late:
                self._give_back_late()
            used = ready.add(amounts)
        finally:
            if lock_fd:
                flock(lock_fd, LOCK_UN)
            elif apart:
                self._table.unlock(ready.bases)
        if used is None:
            return self._take_slowly(meters, amounts, int(now_s * 1e6))
        handles: Sequence[Handle] = ready.handles
        settled = ready.settled
        if settled:
            handles, note = [*handles], self._journal.note
            for i, key, base, stamp, width in settled:
                handles[i] = (base, stamp, note(key, stamp, amounts[i]), width)
        return _make(Taken, (handles, -1, 0.0, used, ()))

    def _take_slowly(self, meters: Sequence[Meter], amounts: Sequence[int], now_us: int) -> Taken:
        """The same in every case. Slots that are found up to date are made ready for the next take of these meters."""
        self.flush()
        bases, words = self._lock(meters, now_us), self._words
        try:
            used: list[int] = []
            over: tuple[int, ...] = ()
            refused, longest, current = -1, 0.0, True
            for i, base in enumerate(bases):
                meter, amount = meters[i], amounts[i]
                if not base:
                    used.append(amount)
                    continue
                head = words[base + HEAD]
                have = self._used_now(meter, base, now_us) + amount
                current = current and head == words[base + HEAD]
                if have > meter.limit:
                    if meter.enforced:
                        wait = self._wait_s(meter, base, amount, now_us)
                        if wait > longest:
                            refused, longest = i, wait
                    else:
                        over += (i,)
                used.append(have)
            if refused >= 0:
                return Taken((), refused, longest, tuple(map(int.__sub__, used, amounts)), over)
            handles = tuple([self._add(meters[i], base, amounts[i], now_us) for i, base in enumerate(bases)])
            if current:
                self._make_ready(meters, bases)
            return _make(Taken, (handles, -1, 0.0, tuple(used), over))
        finally:
            self._table.unlock(bases)

    def _make_ready(self, meters: Sequence[Meter], bases: Sequence[int]) -> None:
        """Have the next take of these meters go the short way. One that comes once a bucket, or with a new list, cannot."""
        if type(meters) is tuple and meters and all(bases) and not any(meter.drain_s for meter in meters):
            if len(self._ready) >= MOST_READY:
                del self._ready[next(iter(self._ready))]  # the oldest: perhaps of a generation that is gone
            self._ready[id(meters)] = Ready(self._table, self._worker, meters, bases, self._unix())

    def count(self, meter: Meter, amount: int, now_s: float) -> None:
        """Count the amount for good, whatever the limit: it was used somewhere else."""
        now_us = int(now_s * 1e6)
        (base,) = self._lock((meter,), now_us)
        if base:
            self._used_now(meter, base, now_us)
            self._count(meter, base, amount, now_us)
            self._table.unlock((base,))

    def settle(
        self, meters: Sequence[Meter], handles: Sequence[Handle], taken: Sequence[int], used: Sequence[int], now_s: float
    ) -> None:
        """Correct what takes counted to what was really used, or say that it stays: the same; once. What was held: 0.

        More than taken is added, whatever the limit. A slot may have got another window since: what the take left there is found
        by its stamp, or stays.
        """
        soon = self._soon
        for i, (base, stamp, record, width) in enumerate(handles):
            less = taken[i] - used[i]
            if soon is not None and less > 0 and width > 0:
                if not self._late:
                    soon(self.flush)
                self._late.append((meters[i].key, base, stamp, record, width, less))
                continue
            if record:
                self._journal.clear(record)
            if not less or not base:
                continue
            if not width:  # no lock: a column has one writer, and while it is not 0, its slot stays where it is
                column = base + DATA + self._worker
                held = self._words[column]
                self._words[column] = held - less if held > less else 0
            elif width < 0 or less < 0 or not self._gave_back(meters[i].key, base, stamp, width, less):
                self._correct(meters[i], stamp, less, int(now_s * 1e6))

    def flush(self) -> None:
        """Give back what waits for a lock."""
        if self._late:
            flock(self._lock_fd, LOCK_EX)
            try:
                self._give_back_late()
            finally:
                flock(self._lock_fd, LOCK_UN)

    def _give_back_late(self) -> None:
        """Do it, under the lock of all slots."""
        late, self._late = self._late, []
        for key, base, stamp, record, width, amount in late:
            if record:
                self._journal.clear(record)
            if not self._subtracted(key, base, stamp, width, amount) and self._table.holds(base, key):
                self._give_back(base, stamp, amount)

    def _gave_back(self, key: bytes, base: int, stamp: int, width: int, amount: int) -> bool:
        """Give back to a sliding window that has the width that it had; False: it is another case."""
        if not (self._lock_fd or self._apart):
            return self._subtracted(key, base, stamp, width, amount)
        self._table.lock((base,))
        try:
            return self._subtracted(key, base, stamp, width, amount)
        finally:
            self._table.unlock((base,))

    def _subtracted(self, key: bytes, base: int, stamp: int, width: int, amount: int) -> bool:
        """The same, under the slot's lock."""
        words = self._words
        found, its_width, dirty, head, total = _slot_of(self._table.memory, 8 * base)
        bucket = stamp // width
        if found != key or its_width != width or dirty or bucket > head or total < amount:
            return False
        if bucket != head:
            cell = base + DATA + bucket % BUCKETS
            if bucket <= head - BUCKETS or words[cell] < amount:
                return False
            words[cell] -= amount
        words[base + TOTAL] = total - amount
        return True

    def _correct(self, meter: Meter, stamp: int, less: int, now_us: int) -> None:
        """Correct one take in any case."""
        (base,) = self._lock((meter,), now_us)
        if not base:
            return
        try:
            if less > 0:
                self._give_back(base, stamp, less)
            else:
                self._add_late(meter, base, -less, now_us)
        finally:
            self._table.unlock((base,))

    def _add_late(self, meter: Meter, base: int, amount: int, now_us: int) -> None:
        """Count what was used beyond the estimate, in the window that the slot has."""
        words, width = self._words, self._words[base + WIDTH]
        if width == PACED:
            self._count(meter, base, amount, now_us)
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

    def used(self, meter: Meter, now_s: float) -> int:
        """Return what is used now, over all processes."""
        self.flush()
        base = self._table.find(meter.key)
        if not base:
            return 0
        self._table.lock((base,))
        try:
            return self._used_now(meter, base, int(now_s * 1e6)) if self._table.holds(base, meter.key) else 0
        finally:
            self._table.unlock((base,))

    def drop_worker(self, worker: int) -> int:
        """Return what a dead worker held and had reserved; how much that was. Call it before its successor starts as that number.

        What its requests really used nobody knows: they count as if they had never been, in the ledger too.
        """
        words, table, dropped = self._words, self._table, 0
        for base in table.slots():
            column = base + DATA + worker
            if words[base] and not words[base + WIDTH] and words[column]:
                table.lock((base,))
                try:
                    if not words[base + WIDTH]:
                        dropped += words[column]
                        words[column] = 0
                finally:
                    table.unlock((base,))
        for key, stamp, amount in Journal(table, worker).empty():
            base = table.find(key)
            if not base:
                continue
            table.lock((base,))
            try:
                if table.holds(base, key):
                    self._give_back(base, stamp, amount)
                    dropped += amount
            finally:
                table.unlock((base,))
        return dropped

    def _lock(self, meters: Sequence[Meter], now_us: int) -> list[int]:
        """Return the locked slots of all meters, 0 where the table is full."""
        table = self._table
        for _ in range(TRIES):
            bases, lost = [], []
            for meter in meters:
                key = meter.key
                bases.append(table.known.get(key) or table.find(key) or self._insert(meter, now_us))
            table.lock(bases)
            for i, base in enumerate(bases):
                if base and table.memory[8 * base : 8 * base + 16] != meters[i].key:
                    lost.append(meters[i].key)  # the slot is another's now
            if not lost:
                return bases
            table.unlock(bases)
            for key in lost:
                table.forget(key)
        self._words[OVERFLOWS] += 1
        return [0] * len(meters)

    def _insert(self, meter: Meter, now_us: int) -> int:
        return self._table.insert(meter.key, self._form(meter), lambda base: self._idle(base, now_us))

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

    def _add(self, meter: Meter, base: int, amount: int, now_us: int) -> Handle:
        """Count the amount in a slot that is up to date; record what will be settled."""
        if not base:
            return _UNCOUNTED
        stamp = self._count(meter, base, amount, now_us)
        return (base, stamp, self._journal.note(meter.key, stamp, amount) if meter.settled else 0, self._words[base + WIDTH])

    def _count(self, meter: Meter, base: int, amount: int, now_us: int) -> int:
        """Count the amount in a slot that is up to date; return the stamp."""
        words = self._words
        if meter.window_s:
            return window.add(words, base, amount)
        if meter.calendar:
            return calendar.add(words, base, amount, int(self._unix()))
        if meter.drain_s:
            parts = min(MOST, pace.level(words, base, meter.limit, meter.drain_s, now_us) + amount * PARTS)
            drained_us = now_us + int(parts * meter.drain_s * 1e6) // (meter.limit * PARTS) + 1
            pace.put(words, base, parts, now_us, min(MOST, drained_us))
        else:
            words[base + DATA + self._worker] += amount
        return 0

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
