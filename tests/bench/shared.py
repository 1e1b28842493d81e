"""What budgets in shared memory cost: reserve and close of one charge, as a worker does them for a request.

With one worker a slot is not locked; with two it is, by a lock of the kernel (two system calls), held for microseconds. What a
request gives back is given back under the lock of the next one, as under load.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from routerd.graph import Budget
from routerd.policy import Bill, Charge, Need, reserve
from routerd.state import LocalCounters

__all__ = ["budget_costs"]

TIMES = 20_000
MOST = 10**15
NEED, USED = Need(600, 0), Need(44, 0)


def budget_costs(rounds: int = 3) -> dict[str, float]:
    """Return microseconds by kind of budget and number of workers: the best of some rounds, of CPU time."""
    budgets = {
        "requests": Budget(name="r", kind="requests", limit=MOST, window_s=60.0, scope="global"),
        "tokens": Budget(name="t", kind="tokens", limit=MOST, window_s=3600.0, scope="global"),
        "concurrency": Budget(name="c", kind="concurrency", limit=MOST, window_s=0.0, scope="global"),
    }
    costs = {}
    for workers in (1, 2):
        for name, budget in budgets.items():
            took = [_took_us([Charge(budget, "")], workers) for _ in range(max(3, rounds))]
            costs[f"{name}, {workers} worker{'s' * (workers > 1)}"] = min(took)
    return costs


def _took_us(charges: Sequence[Charge], workers: int) -> float:
    counters = LocalCounters.create(workers=workers, soon=lambda _flush: None)  # under load the next request comes before that
    bill = Bill(charges)
    now_s = time.monotonic()
    once: list[float] = []
    try:
        for _ in range(10):
            began_s = time.thread_time()
            for _ in range(TIMES // 10):
                lease = reserve(counters, bill, NEED, now_s)
                lease.close(USED, now_s)
            once.append((time.thread_time() - began_s) * 1e7 / TIMES)
    finally:
        counters.close()
    return statistics.median(once)
