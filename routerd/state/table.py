"""A table of fixed slots in shared memory: who is where, under which lock. What the words of a slot mean is `window`'s business.

A slot belongs to a 16-byte key, lies within PROBES places of the key's hash, and never moves. Keys are digests, so two subjects
never share one (and the first half of one is never 0, which means empty: a chance of 2**-64). Locks are POSIX record locks on
bytes of the file (byte 0: the table, else: the slot); the kernel releases them when their process dies. Whoever holds a slot's
lock never waits for the table's; several slots are locked in ascending order or by one range (`ranges`): no deadlock. The locks
exclude processes, not threads: one thread a process uses a table. A table made for one worker takes locks only to insert: else
that worker alone writes, and control after its end.
A word is eight bytes, aligned and stored at once: a killed process leaves whole words behind, and DIRTY where they disagree.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Sequence

from routerd.state.journal import RECORD_WORDS, RECORDS

# So many workers lock the slots of a request by one range, from the first to the last: a lock and its end are two system calls,
# 0.7 us, and held for about 1.5 us of the 60 that a request takes, so seldom does one wait for another that has other slots. With
# more workers that would be more often than it is worth.
RANGE_WORKERS = 4
MAGIC = 0x726F757465726432  # "routerd2"
HEADER_WORDS = 64
PROBES = 64  # with half of the slots in use, a run of 64 taken ones has a chance of 2**-64
OVERFLOWS = 4  # header word: takes that were let pass because the table was full

# The words of a slot. Those before TOTAL say what it counts; while they are as they were, a take only adds.
KEY0, KEY1, WIDTH, DIRTY, HEAD, TOTAL, DATA = 0, 1, 2, 3, 4, 5, 8
BUCKETS = 33  # words of data at least: 32 buckets of a window and the one that is ending

Ranges = tuple[tuple[int, int], ...]  # of locks: the first word, the number of words
_KEY = struct.Struct("=qq")


class Table:
    """The mapped file. `words` is the memory as signed 64-bit words; a slot is named by the word it begins at."""

    __slots__ = ("_slots", "columns_of", "fd", "journals", "known", "memory", "slot_words", "words", "workers")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self.words = memoryview(self.memory).cast("q")
        magic, self._slots, self.slot_words, self.workers = self.words[:4]
        if magic != MAGIC:
            raise ValueError("the file is no table of counters")
        self.journals = HEADER_WORDS + self._slots * self.slot_words  # their first word
        self.columns_of = struct.Struct(f"={self.workers}q").unpack_from
        self.known: dict[bytes, int] = {}  # where this process found a key; checked again under the lock

    @classmethod
    def create(cls, slots: int, workers: int) -> Table:
        """Make an empty table for this many keys and worker columns; untouched slots cost no memory."""
        slot_words = DATA + max(BUCKETS, workers)
        fd = anonymous_file("routerd-counters")
        os.ftruncate(fd, 8 * (HEADER_WORDS + slots * slot_words + workers * RECORDS * RECORD_WORDS))
        os.pwrite(fd, struct.pack("=4q", MAGIC, slots, slot_words, workers), 0)
        return cls(fd)

    def close(self) -> None:
        """Unmap the memory and close the file."""
        self.words.release()
        self.memory.close()
        os.close(self.fd)

    def slots(self) -> range:
        """Return the first word of every slot."""
        return range(HEADER_WORDS, HEADER_WORDS + self._slots * self.slot_words, self.slot_words)

    def ranges(self, bases: Sequence[int]) -> Ranges:
        """Return what to lock for these slots, in this order; 0 is no slot."""
        if self.workers == 1:
            return ()
        places = sorted(base for base in bases if base) if len(bases) > 1 or 0 in bases else bases
        if places and self.workers <= RANGE_WORKERS:
            return ((places[0], places[-1] - places[0] + 1),)
        return tuple([(base, 1) for base in places])

    def lock(self, base: int, span: int = 1) -> None:
        """Wait for the lock of a slot, or of a range; a holder keeps it for some microseconds."""
        if self.workers > 1:
            fcntl.lockf(self.fd, fcntl.LOCK_EX, span, base)

    def unlock(self, base: int, span: int = 1) -> None:
        """Give the lock back."""
        if self.workers > 1:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, span, base)

    def holds(self, base: int, key: bytes) -> bool:
        """Tell whether the slot belongs to `key`."""
        return self.memory[8 * base : 8 * base + 16] == key

    def columns(self, base: int) -> int:
        """Return the sum over the workers' columns of the slot."""
        return sum(self.columns_of(self.memory, 8 * (base + DATA)))

    def find(self, key: bytes) -> int:
        """Return the slot of `key`, or 0 if it has none. Without a lock: check `holds` under the slot's lock."""
        base = self.known.get(key)
        if base is not None:
            return base
        for base in self._places(key):
            if self.holds(base, key):
                self._remember(key, base)
                return base
        return 0

    def insert(self, key: bytes, width_us: int, idle: Callable[[int], bool]) -> int:
        """Return the slot of `key`, made if needed: an empty place, else one that is `idle`; 0 when the table is full."""
        self.known.pop(key, None)
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, 0)
        try:
            base = self.find(key) or self._claim(key, width_us, idle)
            if base:
                self._remember(key, base)
            else:
                self.words[OVERFLOWS] += 1
            return base
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, 0)

    def forget(self, key: bytes) -> None:
        """Look for the key anew the next time: its slot was another's when it was locked."""
        self.known.pop(key, None)

    def _claim(self, key: bytes, width_us: int, idle: Callable[[int], bool]) -> int:
        words = self.words
        places = self._places(key)
        empty = [base for base in places if not words[base]]
        for base in empty or [base for base in places if idle(base)]:
            self.lock(base)
            try:
                if not words[base] or idle(base):
                    self._write(base, key, width_us)
                    return base
            finally:
                self.unlock(base)
        return 0

    def _write(self, base: int, key: bytes, width_us: int) -> None:
        """Begin a slot anew. Its first word is emptied first and set last: a kill in between leaves an empty slot."""
        words = self.words
        words[base] = 0
        for word in range(base + 1, base + self.slot_words):
            if words[word]:
                words[word] = 0
        key0, key1 = _KEY.unpack(key)
        words[base + KEY1] = key1
        words[base + WIDTH] = width_us
        words[base + KEY0] = key0

    def _places(self, key: bytes) -> list[int]:
        start = int.from_bytes(key[:8], "little") % self._slots
        count = min(PROBES, self._slots)
        return [HEADER_WORDS + (start + i) % self._slots * self.slot_words for i in range(count)]

    def _remember(self, key: bytes, base: int) -> None:
        if len(self.known) >= self._slots:
            self.known.clear()
        self.known[key] = base


def anonymous_file(name: str) -> int:
    """Return a file that lives in memory only, or an unlinked one where the system has no memfd."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
