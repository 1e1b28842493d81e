"""Rules of the line in front of a budget: first come first served, bounded, left at once, woken soon."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from routerd.errors import BudgetExceeded
from routerd.graph import Budget
from routerd.observe import Metrics
from routerd.policy import NOTHING, Bill, Charge, Lease, Need
from routerd.server.budget.admission import TICK_S, Admission
from routerd.state import LocalCounters

Make = Callable[..., Admission]


@pytest.fixture
def counters() -> Iterator[LocalCounters]:
    counters = LocalCounters.create(slots=64, workers=2)
    yield counters
    counters.close()


@pytest.fixture
async def admission(counters: LocalCounters) -> Admission:
    return Admission(asyncio.get_running_loop(), counters, Metrics())


def slots(limit: int = 1, most: int = 64, wait_s: float = 5.0, name: str = "s") -> Budget:
    return Budget(name=name, kind="concurrency", limit=limit, queue_max=most, queue_wait_s=wait_s)


def bill(*budgets: Budget) -> Bill:
    return Bill(Charge(budget, "") for budget in budgets)


def now(pending: Lease | Awaitable[Lease]) -> Lease:
    assert isinstance(pending, Lease)
    return pending


def later(pending: Lease | Awaitable[Lease]) -> asyncio.Task[Lease]:
    assert not isinstance(pending, Lease)
    return asyncio.ensure_future(pending)  # type: ignore[return-value, arg-type]


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def end(lease: Lease) -> None:
    lease.close(None, time.monotonic())


async def test_who_finds_room_does_not_wait(admission: Admission) -> None:
    end(now(admission.reserve(bill(slots()), NOTHING)))
    end(now(admission.reserve(bill(slots()), NOTHING)))


async def test_a_release_wakes_the_first_in_line_and_nobody_overtakes(admission: Admission) -> None:
    b, order = bill(slots()), list[int]()
    held = now(admission.reserve(b, NOTHING))
    waiting = [later(admission.reserve(b, NOTHING)) for _ in range(4)]
    for number, task in enumerate(waiting):
        task.add_done_callback(lambda _, number=number: order.append(number))
    await settle()
    began_s = time.monotonic()
    end(held)
    newcomer = later(admission.reserve(b, NOTHING))  # there is room now, but others wait
    for task in waiting:
        end(await task)
    end(await newcomer)
    assert order == [0, 1, 2, 3]
    assert time.monotonic() - began_s < TICK_S  # woken, not polled
    assert not admission._lines


async def test_one_more_than_may_wait_is_refused_at_once(admission: Admission) -> None:
    b = bill(slots(most=2))
    held = now(admission.reserve(b, NOTHING))
    waiting = [later(admission.reserve(b, NOTHING)) for _ in range(2)]
    await settle()
    with pytest.raises(BudgetExceeded, match="allows 1 requests at a time, and 2 wait already; retry in 1 s"):
        await later(admission.reserve(b, NOTHING))
    end(held)
    for task in waiting:
        end(await task)


async def test_who_waited_its_time_is_refused(admission: Admission) -> None:
    b = bill(slots(wait_s=0.03))
    held = now(admission.reserve(b, NOTHING))
    head, behind = later(admission.reserve(b, NOTHING)), later(admission.reserve(b, NOTHING))
    for task in (head, behind):
        with pytest.raises(BudgetExceeded, match="'s' allows 1 requests at a time"):
            await task
    assert not admission._lines
    end(held)
    end(now(admission.reserve(b, NOTHING)))


async def test_nobody_waits_past_the_deadline_of_the_request(admission: Admission) -> None:
    b = bill(slots(wait_s=60.0))
    held = now(admission.reserve(b, NOTHING))
    began_s = time.monotonic()
    with pytest.raises(BudgetExceeded):
        await later(admission.reserve(b, NOTHING, began_s + 0.03))
    assert time.monotonic() - began_s < 1.0
    end(held)


async def test_who_leaves_the_line_holds_nothing_and_lets_the_next_one_go(admission: Admission, counters: LocalCounters) -> None:
    b = bill(slots())
    held = now(admission.reserve(b, NOTHING))
    gone, stays = later(admission.reserve(b, NOTHING)), later(admission.reserve(b, NOTHING))
    await settle()
    gone.cancel()
    end(held)
    end(await stays)
    assert gone.cancelled()
    assert counters.used(b.charges[0], 0.0) == 0
    assert not admission._lines


async def test_a_release_in_another_worker_is_noticed_soon(admission: Admission, counters: LocalCounters) -> None:
    b = bill(slots())
    other = LocalCounters.attach(os.dup(counters.fd), worker=1)
    held = other.take(b.charges, (1,), 0.0)
    task = later(admission.reserve(b, NOTHING))
    await settle()
    other.settle(b.charges, held.handles, [1], [0], time.monotonic())
    async with asyncio.timeout(20 * TICK_S):
        end(await task)
    other.close()


async def test_a_budget_without_a_queue_refuses_even_who_waited(admission: Admission, counters: LocalCounters) -> None:
    queued, hard = slots(), Budget(name="hard", kind="requests", limit=1, window_s=60.0)
    held = now(admission.reserve(bill(queued), NOTHING))
    task = later(admission.reserve(bill(queued, hard), NOTHING))
    await settle()
    now(admission.reserve(bill(hard), NOTHING))
    end(held)
    with pytest.raises(BudgetExceeded, match="'hard'"):
        await task
    assert counters.used(bill(queued).charges[0], 0.0) == 0
    assert not admission._lines


async def test_a_window_lets_the_next_one_in_when_it_says(admission: Admission) -> None:
    b = bill(Budget(name="w", kind="requests", limit=1, window_s=0.06, queue_max=5, queue_wait_s=5.0))
    now(admission.reserve(b, NOTHING))
    began_s = time.monotonic()
    await later(admission.reserve(b, NOTHING))
    assert 0.05 < time.monotonic() - began_s < 1.0


async def test_what_can_never_pass_does_not_wait(admission: Admission) -> None:
    b = Budget(name="t", kind="tokens", limit=10, window_s=60.0, queue_max=5, queue_wait_s=5.0)
    with pytest.raises(BudgetExceeded, match="this request alone needs more"):
        admission.reserve(bill(b), Need(11))


async def test_refusals_are_counted_once_and_told_once_a_second(counters: LocalCounters) -> None:
    metrics, told = Metrics(), list[str]()
    admission = Admission(asyncio.get_running_loop(), counters, metrics)
    admission.notify = lambda kind, fields: told.append(f"{kind} {fields['budget']} {fields['scope']}")
    hard = bill(Budget(name="hard", kind="requests", limit=1, window_s=60.0))
    queued = bill(slots(wait_s=0.01))
    now(admission.reserve(hard, NOTHING))
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            admission.reserve(hard, NOTHING)
    now(admission.reserve(queued, NOTHING))
    with pytest.raises(BudgetExceeded):
        await later(admission.reserve(queued, NOTHING))
    assert metrics.counter("routerd_budget_rejections_total", "hard", "global", "enforce").value == 3
    assert metrics.counter("routerd_budget_rejections_total", "s", "global", "enforce").value == 1
    assert told == ["budget_exhausted hard global", "budget_exhausted s global"]


async def test_shadow_refusals_are_counted_as_such(counters: LocalCounters) -> None:
    metrics = Metrics()
    admission = Admission(asyncio.get_running_loop(), counters, metrics)
    shadow = bill(Budget(name="x", kind="requests", limit=1, window_s=60.0, shadow=True))
    for _ in range(3):
        now(admission.reserve(shadow, NOTHING))
    assert metrics.counter("routerd_budget_rejections_total", "x", "global", "shadow").value == 2


async def test_the_depth_of_lines_is_a_gauge_that_goes_back_to_zero(counters: LocalCounters) -> None:
    metrics = Metrics()
    admission = Admission(asyncio.get_running_loop(), counters, metrics)
    b = bill(slots())
    held = now(admission.reserve(b, NOTHING))
    tasks = [later(admission.reserve(b, NOTHING)) for _ in range(3)]
    await settle()
    admission.publish_gauges()
    depth = metrics.gauge("routerd_budget_queue_depth", "s")
    assert depth.value == 3
    end(held)
    for task in tasks:
        end(await task)
    admission.publish_gauges()
    assert depth.value == 0
