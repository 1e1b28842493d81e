"""Rules of the streaks of an active probe."""

from __future__ import annotations

import pytest

from routerd.health import Streak


@pytest.mark.parametrize(
    ("answers", "up"),
    [
        ("bb", True),
        ("bbb", False),
        ("bbgbb", True),
        ("bbgbbb", False),
        ("bbbg", False),
        ("bbbgg", True),
        ("bbbgbg", False),
        ("bbbggbb", True),
    ],
)
def test_fall_bad_ones_in_a_row_take_it_down_and_rise_good_ones_bring_it_back(answers: str, up: bool) -> None:
    streak = Streak(fall=3, rise=2)
    changes = [streak.seen(answer == "g") for answer in answers]
    assert streak.up is up
    assert sum(changes) % 2 == (0 if up else 1)


def test_it_goes_on_from_where_another_left_off() -> None:
    streak = Streak(fall=3, rise=1, up=False)
    assert streak.seen(True)
    assert streak.up
