"""A take made ready: what it compares, reads and writes while the slots of its meters stay as they are.

The words of a slot before TOTAL are its key, how it is counted, and the newest bucket or the end of the period. While they are
what they were and the clock has not passed their end, nothing is to be brought up to date: a take adds to one word a charge. This
module finds those words once a bucket; `local` uses them under the lock, and goes its long way whenever something else is found.
A bucket that drains is never ready: its level is another one each moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add, itemgetter, le
from typing import Protocol

from routerd.messages import Handle
from routerd.state.table import DATA, HEAD, TOTAL, WIDTH, Table

__all__ = ["Meter", "Ready"]


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


class Ready:
    """What the next takes of some meters need, while their slots stay as they are and until these moments."""

    __slots__ = (
        "_columns", "_limits", "_one", "_places", "_set", "_states", "_states_of", "_table", "_values_of",
        "bases", "handles", "meters", "settled", "until_s", "until_unix_s",
    )  # fmt: skip

    def __init__(self, table: Table, worker: int, meters: Sequence[Meter], bases: Sequence[int], unix_s: float) -> None:
        """Look at slots that are locked and up to date."""
        words, until_us = table.words, math.inf
        self.meters = meters
        self.until_unix_s = 0.0  # on the wall clock; 0: nothing follows it
        places, handles, settled = [], list[Handle](), []
        columns = []  # of what is held, where other workers have columns too: index, byte offset of all of them
        for i, (meter, base) in enumerate(zip(meters, bases, strict=True)):
            width, place, stamp = words[base + WIDTH], base + TOTAL, 0
            if width > 0:
                stamp = (words[base + HEAD] + 1) * width - 1
                until_us = min(until_us, stamp)
            elif meter.calendar:
                stamp = -int(unix_s)
                self.until_unix_s = min(self.until_unix_s or math.inf, words[base + HEAD])
            else:
                place = base + DATA + worker
                if table.workers > 1:
                    columns.append((i, 8 * (base + DATA)))
            places.append(place)
            handles.append((base, stamp, 0, width))
            if meter.settled:
                settled.append((i, meter.key, base, stamp, width))
        self.until_s = (until_us - 1) / 1e6  # on the clock of sliding windows; a microsecond before, for the rounding of floats
        self.handles = tuple(handles)
        self.settled = tuple(settled)
        self.bases = bases
        self._table = table
        self._set = words.__setitem__
        self._one = len(bases) == 1
        self._columns = tuple(columns)
        self._limits = tuple(meter.limit for meter in meters)
        self._places = tuple(places)
        self._values_of = itemgetter(*places, places[0])  # two at least: of one alone it would return no tuple
        self._states_of = itemgetter(*(slice(8 * base, 8 * (base + TOTAL)) for base in bases))
        self._states = self._states_of(table.memory)

    def add(self, amounts: Sequence[int]) -> tuple[int, ...] | None:
        """Add the amounts, under the lock; return what is used then. None, and nothing is added: another case, or no room."""
        table = self._table
        if self._states_of(table.memory) != self._states:
            return None
        words, columns = table.words, self._columns
        if self._one:  # no tuple of values, which is faster
            (place,), (limit,) = self._places, self._limits
            mine = words[place] + amounts[0]
            total = mine if not columns else sum(table.columns_of(table.memory, columns[0][1])) + amounts[0]
            if total > limit:
                return None
            words[place] = mine
            return (total,)
        used = values = (*map(add, self._values_of(words), amounts),)
        if columns:
            used = self._with_others(values, amounts)
        if not all(map(le, used, self._limits)):
            return None
        any(map(self._set, self._places, values))
        return used

    def _with_others(self, values: tuple[int, ...], amounts: Sequence[int]) -> tuple[int, ...]:
        """Return the values with what other workers hold."""
        used = list(values)
        for i, columns in self._columns:
            used[i] = sum(self._table.columns_of(self._table.memory, columns)) + amounts[i]
        return tuple(used)
