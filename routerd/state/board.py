"""What is known of endpoints, in memory that all processes of one host share: one slot an endpoint, found by its identity.

A slot is a head, which any process may write, and a column for each worker, which only that worker writes: counting takes no
lock. What the words mean is the business of `health`; known here are the key, the moment when an endpoint left the configuration
(0: it is in it), and that the first word of a column is what its worker holds: a dead worker holds nothing, while what it had
counted in the rest stays for its successor. Control owns the memory, so it survives every worker. Changes of more than one word
are made under the one lock (a POSIX record lock: the kernel releases it when its process dies; one thread a process uses a
board). They are rare: a breaker that opens, a cooldown, a reload. A full board gives private memory: such an endpoint is known to
each worker for itself, as before.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from routerd.state.table import anonymous_file

__all__ = ["COLUMN_WORDS", "HEAD_WORDS", "KEEP_REMOVED_S", "Board"]

MAGIC = 0x726F757465726432  # "routerd2"
FILE_WORDS = 8
SLOTS = 4096  # an endpoint is a machine or a vendor's account; 4,096 slots for two workers are 2 MiB, paid only where touched
HEAD_WORDS = 32
COLUMN_WORDS = 16
KEEP_REMOVED_S = 600.0  # removed and added again within 10 minutes: the last state

GONE_US = 2  # word of a head; the key is in the two before

_KEY = struct.Struct("=qq")


class Board:
    """The slots as one process sees them. `worker` -1 counts nothing of its own (control)."""

    __slots__ = ("_map", "_slot_words", "_slots", "_words", "fd", "worker", "workers")

    def __init__(self, fd: int, memory: mmap.mmap, worker: int) -> None:
        self.fd = fd
        self.worker = worker
        self._map = memory
        self._words = memoryview(self._map).cast("q")
        magic, self._slots, self.workers = self._words[:3]
        if magic != MAGIC:
            raise ValueError("the file is no board of endpoints")
        if worker >= self.workers:
            raise ValueError(f"worker {worker} of {self.workers}")
        self._slot_words = HEAD_WORDS + COLUMN_WORDS * self.workers

    @classmethod
    def create(cls, *, slots: int = SLOTS, workers: int = 1, worker: int = -1) -> Board:
        """Make an empty board; hand `fd` to the workers, which `attach`."""
        fd = anonymous_file("routerd-endpoints")
        os.ftruncate(fd, _size_bytes(slots, workers))
        os.pwrite(fd, struct.pack("=3q", MAGIC, slots, workers), 0)
        return cls.attach(fd, worker=worker)

    @classmethod
    def attach(cls, fd: int, *, worker: int) -> Board:
        """Use the board behind an inherited descriptor, which now belongs to this object."""
        return cls(fd, mmap.mmap(fd, os.fstat(fd).st_size), worker)

    @classmethod
    def private(cls, *, slots: int = SLOTS) -> Board:
        """Make a board for this process alone, as its one worker."""
        memory = mmap.mmap(-1, _size_bytes(slots, 1))
        memory[:24] = struct.pack("=3q", MAGIC, slots, 1)
        return cls(-1, memory, 0)

    def slot(self, key: bytes, now_s: float) -> memoryview:
        """Return the words of the endpoint with this 16-byte identity: as they were left, or zeros for a new or long gone one."""
        now_us = int(now_s * 1e6)
        with self.lock():
            base = self._find(key)
            if not base and (base := self._place(key, now_us)):
                self._begin(base, key)
            if not base:
                return memoryview(bytearray(8 * self._slot_words)).cast("q")
            gone_us = self._words[base + GONE_US]
            if gone_us and now_us - gone_us > KEEP_REMOVED_S * 1e6:
                self._begin(base, key)
            self._words[base + GONE_US] = 0
            return self._words[base : base + self._slot_words]

    def retire(self, words: memoryview, now_s: float) -> None:
        """Note that the endpoint of a slot is no longer configured; it is remembered for `KEEP_REMOVED_S`."""
        words[GONE_US] = max(1, int(now_s * 1e6))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude the other processes for some microseconds."""
        if self.fd < 0:
            yield
            return
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, 0)

    def drop_worker(self, worker: int) -> int:
        """Have a dead worker hold nothing; return what it held. Call it before its successor starts under the same number."""
        held = 0
        for base in self._bases():
            column = base + HEAD_WORDS + COLUMN_WORDS * worker
            if self._words[base] and self._words[column]:
                held += self._words[column]
                self._words[column] = 0
        return held

    def _bases(self, start: int = 0) -> Iterator[int]:
        """Yield the first word of every slot, beginning with slot `start`."""
        size = self._slot_words
        for slot in itertools.chain(range(start, self._slots), range(start)):
            yield FILE_WORDS + slot * size

    def _find(self, key: bytes) -> int:
        """Return the slot of `key`, or 0. A slot once used is never empty again, so the first empty one ends the search."""
        words, (key0, key1) = self._words, _KEY.unpack(key)
        for base in self._bases(key0 % self._slots):
            if words[base] == key0 and words[base + 1] == key1:
                return base
            if not words[base]:
                return 0
        return 0

    def _place(self, key: bytes, now_us: int) -> int:
        """Return a slot for a new endpoint: an empty one, else one that is long gone; in a full board the one gone longest."""
        words, oldest, oldest_us = self._words, 0, now_us + 1
        for base in self._bases(_KEY.unpack(key)[0] % self._slots):
            if not words[base]:
                return base
            gone_us = words[base + GONE_US]
            if gone_us and gone_us < oldest_us and not any(self._held(base)):
                if now_us - gone_us > KEEP_REMOVED_S * 1e6:
                    return base
                oldest, oldest_us = base, gone_us
        return oldest

    def _held(self, base: int) -> memoryview:
        return self._words[base + HEAD_WORDS : base + self._slot_words : COLUMN_WORDS]

    def _begin(self, base: int, key: bytes) -> None:
        """Empty a slot and give it to `key`. What runs there stays counted. The first word is set last: half a key is no key."""
        words, (key0, key1) = self._words, _KEY.unpack(key)
        self._clear(base, base + HEAD_WORDS)
        for column in range(base + HEAD_WORDS, base + self._slot_words, COLUMN_WORDS):
            self._clear(column + 1, column + COLUMN_WORDS)
        words[base + 1] = key1
        words[base] = key0

    def _clear(self, first: int, end: int) -> None:
        for word in range(first, end):
            if self._words[word]:
                self._words[word] = 0


def _size_bytes(slots: int, workers: int) -> int:
    return 8 * (FILE_WORDS + slots * (HEAD_WORDS + COLUMN_WORDS * workers))
