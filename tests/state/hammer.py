"""A process of its own that uses the counters: `python hammer.py FD WORKER MODE`; it starts at a line on stdin."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from routerd.state import LocalCounters


@dataclass(frozen=True)
class Budget:
    name: str
    limit: int
    window_s: float = 3600.0
    calendar: str = ""
    drain_s: float = 0.0
    enforced: bool = True
    settled: bool = False

    @property
    def key(self) -> bytes:
        return hashlib.blake2b(self.name.encode(), digest_size=16).digest()


def say(*values: object) -> None:
    print(*values, flush=True)


def one_budget(counters: LocalCounters) -> None:
    """Take from one budget of 100, far more often than it allows."""
    meters = (Budget("one", 100),)
    say(sum(counters.take(meters, [1], time.monotonic()).refused < 0 for _ in range(1000)))


def crossed(counters: LocalCounters) -> None:
    """Take from two budgets at once, every second time in the other order."""
    a, b = Budget("a", 150), Budget("b", 100)
    pairs = (a, b), (b, a)
    taken = 0
    for i in range(1000):
        taken += counters.take(pairs[i % 2], [1, 1], time.monotonic()).refused < 0
    say(taken)


def held(counters: LocalCounters) -> None:
    """Take a slot beside windows and give it back; say how often more were in use than there are, and how often it had one."""
    meters, seen, had = (Budget("slots", 2, 0.0), Budget("wide", 10**9), Budget("tokens", 10**9, settled=True)), 0, 0
    for _ in range(2000):
        taken = counters.take(meters, [1, 1, 5], time.monotonic())
        if taken.refused < 0:
            had += 1
            seen += taken.used[0] > 2
            counters.settle(meters, taken.handles, [1, 1, 5], [0, 1, 3], time.monotonic())
    say(seen, had)


def late(counters: LocalCounters) -> None:
    """As `held`, but what is given back waits for the next take, or the end of a turn of seven."""
    turns: list[Callable[[], None]] = []
    counters = LocalCounters.attach(os.dup(counters.fd), worker=int(sys.argv[2]), soon=turns.append)
    meters, had = (Budget("wide", 10**9), Budget("tokens", 60, settled=True)), 0
    for i in range(3000):
        taken = counters.take(meters, [1, 5], time.monotonic())
        if taken.refused < 0:
            had += 1
            counters.settle(meters, taken.handles, [1, 5], [1, 0], time.monotonic())
        if i % 7 == 0 and turns:
            turns.pop()()
    counters.flush()
    say(had)


def many_keys(counters: LocalCounters) -> None:
    """Take once from each of 300 new budgets of 1: they are all inserted by all processes at the same time."""
    say(*(int(counters.take([Budget(f"k{i}", 1)], [1], time.monotonic()).refused < 0) for i in range(300)))


def hold(counters: LocalCounters) -> None:
    """Hold 3 of a concurrency budget, and reserve 100 tokens, until killed."""
    for _ in range(3):
        counters.take([Budget("slots", 8, 0.0)], [1], time.monotonic())
    counters.take([Budget("tokens", 1000, settled=True)], [100], time.monotonic())
    say("holding")
    sys.stdin.readline()


def keep_lock(counters: LocalCounters) -> None:
    """Keep the lock of budget `one` until killed."""
    counters.take([Budget("one", 100)], [1], time.monotonic())
    counters._table.lock([counters._table.find(Budget("one", 100).key)])
    say("locked")
    sys.stdin.readline()


def endless(counters: LocalCounters) -> None:
    """Take and settle until killed, somewhere in the middle."""
    meters = (Budget("one", 10**15, settled=True),)
    say("running")
    while True:
        now_s = time.monotonic()
        taken = counters.take(meters, [10], now_s)
        counters.settle(meters, taken.handles, [10], [7], now_s)


if __name__ == "__main__":
    modes = {f.__name__: f for f in (one_budget, crossed, held, late, many_keys, hold, keep_lock, endless)}
    used = LocalCounters.attach(int(sys.argv[1]), worker=int(sys.argv[2]))
    say("ready")
    sys.stdin.readline()
    modes[sys.argv[3]](used)
