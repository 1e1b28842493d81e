"""A calendar window in the words of one slot: what was used since the hour, day, week or month began, in UTC, or ever.

A week begins on Monday (ISO 8601). TOTAL is what is used, HEAD when the period ends, the first word of data since when TOTAL
counts; both in whole seconds of Unix time. WIDTH is CALENDAR. Every change is one store, but for the change of a slot from a
sliding window: then DIRTY says that TOTAL is the truth. When a window becomes another one, all that was used goes on to count
until the new period ends: nothing is forgotten by an edit. A stamp is the negative time of the take: no sliding window has one.
"""

from __future__ import annotations

from datetime import UTC, datetime

from routerd.state import window
from routerd.state.table import DATA, DIRTY, HEAD, TOTAL, WIDTH

CALENDAR = -1
_DAY_S = 86400
_EVER = (0, 1 << 40)  # thirty thousand years


def period(word: str, unix_s: int) -> tuple[int, int]:
    """Return the begin and the end of the hour, day, week or month that holds this moment; `ever` has no end."""
    if word == "ever":
        return _EVER
    if word == "month":
        now = datetime.fromtimestamp(unix_s, UTC)
        year, month = divmod(now.year * 12 + now.month, 12)
        begin = datetime(now.year, now.month, 1, tzinfo=UTC)
        return int(begin.timestamp()), int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp())
    length_s = {"hour": 3600, "day": _DAY_S, "week": 7 * _DAY_S}[word]
    shift_s = 3 * _DAY_S if word == "week" else 0  # 1970-01-01 was a Thursday
    begin_s = (unix_s + shift_s) // length_s * length_s - shift_s
    return begin_s, begin_s + length_s


def advance(words: memoryview[int], base: int, bounds: tuple[int, int], unix_s: int, now_us: int) -> int:
    """Bring the slot to the period `bounds`; return what is used. `now_us` is the clock of sliding windows."""
    begin_s, end_s = bounds
    if words[base + WIDTH] != CALENDAR:
        _from_sliding(words, base, end_s, unix_s, now_us)
    elif words[base + HEAD] <= unix_s:
        words[base + TOTAL] = 0
        words[base + DATA] = begin_s
        words[base + HEAD] = end_s
    elif words[base + HEAD] != end_s and unix_s >= words[base + DATA]:  # else the clock was set back
        words[base + HEAD] = end_s
    words[base + DIRTY] = 0
    return words[base + TOTAL]


def add(words: memoryview[int], base: int, amount: int, unix_s: int) -> int:
    """Add to the period; return a stamp for `subtract`."""
    words[base + TOTAL] += amount
    return -unix_s


def subtract(words: memoryview[int], base: int, stamp: int, amount: int) -> None:
    """Give back what was taken at `stamp`; what an earlier period counted is not given back to this one."""
    if -stamp >= words[base + DATA]:
        words[base + TOTAL] = max(0, words[base + TOTAL] - amount)


def is_idle(words: memoryview[int], base: int, unix_s: float) -> bool:
    """Tell whether forgetting the slot would change nothing."""
    return not words[base + TOTAL] or words[base + HEAD] <= unix_s


def _from_sliding(words: memoryview[int], base: int, end_s: int, unix_s: int, now_us: int) -> None:
    """Go on counting in a calendar window what a sliding one counts now."""
    window.advance(words, base, words[base + WIDTH], now_us)
    words[base + DIRTY] = window.TOTAL_IS_TRUE
    window.clear(words, base)
    words[base + DATA] = unix_s
    words[base + HEAD] = end_s
    words[base + WIDTH] = CALENDAR
