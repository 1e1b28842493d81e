"""Rules that need real processes: exact over all of them, nothing left behind by a killed one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from routerd.state import LocalCounters
from routerd.state.table import FEW_WORKERS
from tests.state.hammer import Budget

ROOT = Path(__file__).parents[2]
Start = Callable[[str, int], subprocess.Popen[str]]


@pytest.fixture(params=[(FEW_WORKERS, True), (FEW_WORKERS, False), (FEW_WORKERS + 1, True)], ids=["one lock", "no /proc", "many"])
def counters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCounters]:
    workers, mounted = request.param
    if not mounted:
        monkeypatch.setattr("routerd.state.table.OWN_FILE", "/nowhere/{}")  # the processes that attach are not told otherwise
    counters = LocalCounters.create(slots=512, workers=workers, worker=workers - 1)
    yield counters
    counters.close()


@pytest.fixture
def start(counters: LocalCounters) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def start(mode: str, worker: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.state.hammer", str(counters.fd), str(worker), mode],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[counters.fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert said(process) == "ready"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def run_all(counters: LocalCounters, start: Start, mode: str) -> list[str]:
    """Run `mode` in as many processes as have a place, which begin together; return what each said."""
    processes = [start(mode, worker) for worker in range(counters._worker)]
    for process in processes:
        go(process)
    return [said(process) for process in processes]


def test_processes_pass_exactly_the_limit(counters: LocalCounters, start: Start) -> None:
    assert sum(map(int, run_all(counters, start, "one_budget"))) == 100
    assert counters.used(Budget("one", 100), time.monotonic()) == 100


def test_two_budgets_at_once_stay_exact_and_never_deadlock(counters: LocalCounters, start: Start) -> None:
    assert sum(map(int, run_all(counters, start, "crossed"))) == 100
    assert counters.used(Budget("a", 150), time.monotonic()) == 100


def test_what_is_held_and_settled_by_all_is_counted_to_the_end(counters: LocalCounters, start: Start) -> None:
    said = [list(map(int, line.split())) for line in run_all(counters, start, "held")]
    now_s, had = time.monotonic(), sum(had for _, had in said)
    assert [seen for seen, _ in said] == [0] * len(said)
    assert counters.used(Budget("slots", 2, 0.0), now_s) == 0
    assert counters.used(Budget("wide", 10**9), now_s) == had
    assert counters.used(Budget("tokens", 10**9, settled=True), now_s) == 3 * had


def test_what_is_given_back_late_by_all_is_given_back_once(counters: LocalCounters, start: Start) -> None:
    had = sum(map(int, run_all(counters, start, "late")))
    assert had > 1000
    assert counters.used(Budget("wide", 10**9), time.monotonic()) == had
    assert counters.used(Budget("tokens", 60, settled=True), time.monotonic()) == 0


def test_a_key_inserted_by_all_at_once_has_one_slot(counters: LocalCounters, start: Start) -> None:
    columns = [list(map(int, line.split())) for line in run_all(counters, start, "many_keys")]
    assert [sum(row) for row in zip(*columns, strict=True)] == [1] * 300
    assert counters.overflows == 0


def test_what_a_killed_process_held_is_given_back(counters: LocalCounters, start: Start) -> None:
    slots, tokens = Budget("slots", 8, 0.0), Budget("tokens", 1000, settled=True)
    processes = [start("hold", worker) for worker in (0, 1)]
    for process in processes:
        go(process)
        assert said(process) == "holding"
    assert counters.used(slots, 0.0) == 6
    processes[0].kill()
    processes[0].wait()
    assert counters.drop_worker(0) == 3 + 100
    assert counters.used(slots, 0.0) == 3
    assert counters.used(tokens, time.monotonic()) == 100
    assert counters.drop_worker(0) == 0


def test_the_lock_of_a_killed_process_is_free(counters: LocalCounters, start: Start) -> None:
    process = start("keep_lock", 0)
    go(process)
    assert said(process) == "locked"
    waiting = start("one_budget", 1)
    go(waiting)
    process.kill()
    process.wait()
    assert int(said(waiting)) == 99


def test_a_kill_in_the_middle_leaves_whole_counters(counters: LocalCounters, start: Start) -> None:
    budget = Budget("one", 10**15)
    used = 0
    for turn in range(5):
        process = start("endless", turn % 3)
        go(process)
        assert said(process) == "running"
        before = counters.used(budget, time.monotonic())
        while counters.used(budget, time.monotonic()) < before + 700:
            pass
        process.kill()
        process.wait()
        assert counters.drop_worker(turn % 3) in (0, 10)
        now_used = counters.used(budget, time.monotonic())
        assert now_used >= used + 690
        assert (now_used - used) % 7 in {0, 10 % 7}  # all settled to 7, but for the take of 10 that the kill cut short
        used = now_used
        base = counters._table.find(budget.key)
        assert 0 <= sum(counters._words[base + 8 : base + 8 + 33]) <= used  # the rest is in the newest bucket
