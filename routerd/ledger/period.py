"""From when to when usage is asked for: days (UTC) where that is enough, moments where it must be.

`7d` and `4w` are whole days, this one among them; `2026-11-01` is the begin of that day; `90m`, `6h` and `2026-11-01T12:00:00Z`
are moments. Days are answered from the sums, which are kept for ever; moments from the entries, which are kept as long as told.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["DAY_MS", "Period", "day_of", "period_of"]

DAY_MS = 86_400_000
_LENGTH = re.compile(r"(\d{1,6})([smhdw])")
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_LAST_MS = 253_402_300_799_999  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class Period:
    """From `since_ms` (0: ever) until before `until_ms` (None: now)."""

    since_ms: int = 0
    until_ms: int | None = None

    @property
    def whole_days(self) -> bool:
        """Whether both ends are the begin of a day."""
        return self.since_ms % DAY_MS == 0 and (self.until_ms is None or self.until_ms % DAY_MS == 0)


def period_of(since: str, until: str, now_ms: int) -> Period:
    """Read the words of an operator; ValueError says what is wrong with them. Empty: ever, and now."""
    begin = _moment(since, now_ms, "since") if since else 0
    end = _moment(until, now_ms, "until") if until else None
    if end is not None and end <= begin:
        raise ValueError(f"until {until} is not after since {since or 'ever'}")
    return Period(begin, end)


def day_of(at_ms: int) -> str:
    """Return the day (UTC) of a moment, as YYYY-MM-DD."""
    return _day(min(max(0, at_ms), _LAST_MS) // DAY_MS)


@functools.lru_cache(maxsize=64)
def _day(number: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=number)).strftime("%Y-%m-%d")


def _moment(text: str, now_ms: int, what: str) -> int:
    found = _LENGTH.fullmatch(text)
    if found:
        back_ms = int(found[1]) * _UNITS_MS[found[2]]
        if found[2] in "dw":  # this day and those before it
            return max(0, now_ms // DAY_MS * DAY_MS - back_ms + (DAY_MS if back_ms else 0))
        return max(0, now_ms - back_ms)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise ValueError(f"{what} {text[:40]!r} is neither a length, such as 7d or 6h, nor a date, such as 2026-11-01") from None
