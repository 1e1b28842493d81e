"""A table of fixed slots in shared memory: who is where, under which lock. What the words of a slot mean is `window`'s business.

A slot belongs to a 16-byte key, lies within PROBES places of the key's hash, and never moves. Keys are digests, so two subjects
never share one (and the first half of one is never 0, which means empty: a chance of 2**-64). Locks are the kernel's, which
releases them when their process dies: record locks on bytes of the file (byte 0: the table, else: the slot), or, among few
workers where /proc is mounted, one lock of the file (flock(2)) for all slots. Whoever holds a slot's lock never waits for the
table's, and several slots are locked in ascending order: no deadlock. The locks exclude processes, not threads: one thread a
process uses a table. A table made for one worker takes locks only to insert: else that worker alone writes, and control after its
end.
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

# So many workers have one lock for all slots: to lock and unlock it takes 0.36 us, a record 0.56, and each slot of a request is
# one of its own. It is held for 2 us of the 80 that a request takes, so seldom does one wait for another that has other slots;
# with more workers that would be more often than it is worth.
FEW_WORKERS = 4
MAGIC = 0x726F757465726432  # "routerd2"
HEADER_WORDS = 64
PROBES = 64  # with half of the slots in use, a run of 64 taken ones has a chance of 2**-64
OVERFLOWS = 4  # header word: takes that were let pass because the table was full
OWN_FILE = "/proc/self/fd/{}"  # opens a descriptor's file anew: flock locks the open file, which those that inherit it share

# The words of a slot. Those before TOTAL say what it counts; while they are as they were, a take only adds.
KEY0, KEY1, WIDTH, DIRTY, HEAD, TOTAL, DATA = 0, 1, 2, 3, 4, 5, 8
BUCKETS = 33  # words of data at least: 32 buckets of a window and the one that is ending

_KEY = struct.Struct("=qq")


class Table:
    """The mapped file. `words` is the memory as signed 64-bit words; a slot is named by the word it begins at.

    `lock_fd`: what is locked for all slots at once; 0 where they are locked one by one (`apart`), or (one worker) not at all.
    """

    __slots__ = (
        "_slots", "apart", "columns_of", "fd", "journals", "known", "lock_fd", "memory", "slot_words", "words", "workers",
    )  # fmt: skip

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self.words = memoryview(self.memory).cast("q")
        magic, self._slots, self.slot_words, self.workers, _, apart = self.words[:6]
        if magic != MAGIC:
            raise ValueError("the file is no table of counters")
        self.journals = HEADER_WORDS + self._slots * self.slot_words  # their first word
        self.columns_of = struct.Struct(f"={self.workers}q").unpack_from
        self.known: dict[bytes, int] = {}  # where this process found a key; checked again under the lock
        self.apart = bool(apart)
        self.lock_fd = os.open(OWN_FILE.format(fd), os.O_RDWR) if self.workers > 1 and not apart else 0

    @classmethod
    def create(cls, slots: int, workers: int) -> Table:
        """Make an empty table for this many keys and worker columns; untouched slots cost no memory."""
        slot_words = DATA + max(BUCKETS, workers)
        fd = anonymous_file("routerd-counters")
        os.ftruncate(fd, 8 * (HEADER_WORDS + slots * slot_words + workers * RECORDS * RECORD_WORDS))
        # Said here, for all processes alike: two that lock differently would exclude nobody.
        apart = workers > FEW_WORKERS or (workers > 1 and not os.path.exists(OWN_FILE.format(fd)))
        os.pwrite(fd, struct.pack("=6q", MAGIC, slots, slot_words, workers, 0, apart), 0)
        return cls(fd)

    def close(self) -> None:
        """Unmap the memory and close the file."""
        self.words.release()
        self.memory.close()
        if self.lock_fd:
            os.close(self.lock_fd)
        os.close(self.fd)

    def slots(self) -> range:
        """Return the first word of every slot."""
        return range(HEADER_WORDS, HEADER_WORDS + self._slots * self.slot_words, self.slot_words)

    def lock(self, bases: Sequence[int]) -> None:
        """Wait for the locks of these slots (0: none); a holder keeps them for some microseconds."""
        if self.lock_fd and any(bases):
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        elif self.apart:
            for base in sorted(bases):
                if base:
                    fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, base)

    def unlock(self, bases: Sequence[int]) -> None:
        """Give them back."""
        if self.lock_fd:
            fcntl.flock(self.lock_fd, fcntl.LOCK_UN)
        elif self.apart:
            for base in bases:
                if base:
                    fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, base)

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
            self.lock((base,))
            try:
                if not words[base] or idle(base):
                    self._write(base, key, width_us)
                    return base
            finally:
                self.unlock((base,))
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
