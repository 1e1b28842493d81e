"""Rules of the x-ratelimit-* fields and of the gauge of what is used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from routerd.graph import Budget
from routerd.messages import Taken
from routerd.observe import Metrics
from routerd.policy import Bill, Charge
from routerd.server.budget import limits
from routerd.server.budget.limits import UsedRatio, limit_fields
from routerd.state import LocalCounters


def budget(name: str, kind: str = "requests", limit: int = 10, scope: str = "client", **more: object) -> Budget:
    return Budget(name=name, kind=kind, limit=limit, scope=scope, **({"window_s": 90.0} | more))  # type: ignore[arg-type]


@pytest.fixture
def counters() -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=2048, workers=1)
    yield counters
    counters.close()


BUDGETS = {"a": budget("a")}


def fields(used: tuple[int, ...], *budgets: Budget) -> dict[str, str]:
    return limit_fields(Bill(Charge(b, "ann") for b in budgets), Taken((), used=used))


def test_the_budget_with_least_remaining_of_each_kind_is_shown() -> None:
    tokens = budget("t", "tokens", 2000, window_s=86400.0)
    assert fields((4, 9, 500), budget("a"), budget("b", limit=12), tokens) == {
        "x-ratelimit-limit-requests": "12",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "1m30s",
        "x-ratelimit-limit-tokens": "2000",
        "x-ratelimit-remaining-tokens": "1500",
        "x-ratelimit-reset-tokens": "24h0m0s",
    }


def test_budgets_that_others_share_are_not_shown() -> None:
    assert fields((4, 4), budget("a", scope="global"), budget("b", "usd")) == {}


@pytest.mark.parametrize(("window_s", "used", "text"), [(1.0, 1, "1s"), (0.2, 1, "1s"), (360.0, 1, "6m0s"), (360.0, 0, "0s")])
def test_the_reset_is_written_as_openai_does(window_s: float, used: int, text: str) -> None:
    assert fields((used,), budget("a", window_s=window_s))["x-ratelimit-reset-requests"] == text


def test_a_calendar_window_resets_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.time, "time", lambda: 1_700_000_000.0)  # 22:13:20 UTC
    assert fields((1,), budget("a", window_s=0.0, calendar="day"))["x-ratelimit-reset-requests"] == "1h46m40s"


def test_more_than_the_limit_used_leaves_nothing_not_less() -> None:
    assert fields((15,), budget("a"))["x-ratelimit-remaining-requests"] == "0"


def test_the_gauge_is_the_largest_of_all_subjects(counters: LocalCounters) -> None:
    metrics = Metrics()
    ratio = UsedRatio(counters, metrics)
    charges = {c.key: c for c in (Charge(budget("a"), "ann"), Charge(budget("a"), "bob"))}
    for charge, amount in zip(charges.values(), (3, 7), strict=True):
        counters.take([charge], [amount], 1000.0)
    ratio.publish(charges, BUDGETS, 1000.0)
    gauge = metrics.gauge("routerd_budget_used_ratio", "a", "client", "enforce")
    assert gauge.value == 0.7
    ratio.publish({}, {}, 1000.0)
    assert not metrics.snapshot().values  # no such budget any more


def test_many_subjects_are_looked_at_some_at_a_time(counters: LocalCounters) -> None:
    metrics = Metrics()
    ratio = UsedRatio(counters, metrics)
    charges = {c.key: c for c in (Charge(budget("a"), str(i)) for i in range(limits.LOOKS + 50))}
    for number, charge in enumerate(charges.values()):
        counters.take([charge], [5 if number == 0 else 1], 1000.0)
    gauge = metrics.gauge("routerd_budget_used_ratio", "a", "client", "enforce")
    ratio.publish(charges, BUDGETS, 1000.0)
    assert gauge.value == 0.0
    ratio.publish(charges, BUDGETS, 1000.0)
    assert gauge.value == 0.5


def test_what_was_seen_before_a_reload_is_still_shown_with_the_new_limit(counters: LocalCounters) -> None:
    metrics = Metrics()
    ratio = UsedRatio(counters, metrics)
    charge = Charge(BUDGETS["a"], "ann")
    counters.take([charge], [6], 1000.0)
    ratio.publish({charge.key: charge}, BUDGETS, 1000.0)
    ratio.publish({}, {"a": budget("a", limit=20)}, 1000.0)
    gauge = metrics.gauge("routerd_budget_used_ratio", "a", "client", "enforce")
    assert gauge.value == 0.3
    ratio.publish({}, {"a": budget("a", "tokens", limit=20)}, 1000.0)  # another kind: another counter
    assert not metrics.snapshot().values
