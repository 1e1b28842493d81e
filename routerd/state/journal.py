"""What a worker reserved and has not settled, recorded in shared memory so that control can give back what a dead one reserved.

A record is (key of the charge, stamp of the take, amount); an amount of 0 means none. Each worker writes only its own records, so
nothing is locked. A record is made after the take has counted and is cleared before it is corrected: a process killed in between
leaves a reservation charged, never one given back twice. Beyond RECORDS at a time a take has no record: it would stay charged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routerd.state.table import Table

__all__ = ["RECORDS", "RECORD_WORDS", "Journal"]

RECORDS = 16384  # 512 KiB a worker, paid only where touched; the first one holds how many were ever used
RECORD_WORDS = 4
_AMOUNT = 3  # word of a record

_RECORD = struct.Struct("=16sqq")


class Journal:
    """The records of one worker. A record is named by the word of its amount; 0 is none."""

    __slots__ = ("_first", "_free", "_keys", "_map", "_next", "_words")

    def __init__(self, table: Table, worker: int) -> None:
        self._map = table.memory
        self._words = table.words
        self._first = table.journals + worker * RECORDS * RECORD_WORDS
        self._next = 1
        self._free: list[int] = []  # the last one first: few are touched
        self._keys: dict[int, bytes] = {}  # what stands in a record already

    def note(self, key: bytes, stamp: int, amount: int) -> int:
        """Record a take; return the record's name."""
        at = self._free.pop() if self._free else self._place()
        if self._keys.get(at) is key:
            words = self._words
            words[at - 1] = stamp
            words[at] = amount
        elif at:
            _RECORD.pack_into(self._map, 8 * (at - _AMOUNT), key, stamp, amount)
            self._keys[at] = key
        return at

    def clear(self, at: int) -> None:
        """Forget a record."""
        self._words[at] = 0
        self._free.append(at)

    def empty(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield what a dead worker left, key, stamp and amount, and forget it."""
        for number in range(1, 1 + self._words[self._first]):
            at = self._first + number * RECORD_WORDS
            key, stamp, amount = _RECORD.unpack_from(self._map, 8 * at)
            if amount:
                self._words[at + _AMOUNT] = 0
                yield key, stamp, amount
        self._words[self._first] = 0

    def _place(self) -> int:
        number = self._next
        if number >= RECORDS:
            return 0
        self._next = number + 1
        self._words[self._first] = max(number, self._words[self._first])
        return self._first + number * RECORD_WORDS + _AMOUNT
