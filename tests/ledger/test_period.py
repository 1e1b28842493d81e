"""When is asked for: whole days where days are said, moments otherwise."""

from __future__ import annotations

import pytest

from routerd.ledger import Period, period_of
from tests.ledger.build import DAY_MS, NOON_MS

MIDNIGHT = NOON_MS - DAY_MS // 2


@pytest.mark.parametrize(
    ("since", "begin"),
    [
        ("", 0),
        ("1d", MIDNIGHT),
        ("7d", MIDNIGHT - 6 * DAY_MS),
        ("1w", MIDNIGHT - 6 * DAY_MS),
        ("2026-11-20", MIDNIGHT - DAY_MS),
        ("90m", NOON_MS - 5_400_000),
        ("2026-11-21T12:00:00Z", NOON_MS),
        ("2026-11-21T13:00:00+01:00", NOON_MS),
        ("999999w", 0),
    ],
)
def test_words_are_moments(since: str, begin: int) -> None:
    assert period_of(since, "", NOON_MS) == Period(begin, None)


def test_days_are_whole_and_hours_are_not() -> None:
    assert period_of("7d", "2026-11-21", NOON_MS).whole_days
    assert not period_of("6h", "", NOON_MS).whole_days
    assert not period_of("7d", "1h", NOON_MS).whole_days


@pytest.mark.parametrize("text", ["7", "d", "yesterday", "-1d", "2026-13-01", "7 d", "1e3d"])
def test_nonsense_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="neither a length, such as 7d"):
        period_of(text, "", NOON_MS)


def test_an_end_before_the_begin_is_told() -> None:
    with pytest.raises(ValueError, match="is not after since 1d"):
        period_of("1d", "2026-11-01", NOON_MS)
