"""No change makes a request or a chunk dearer unseen: counts of every case stay below their ceilings (counts.json)."""

from __future__ import annotations

import gc
import pathlib
import warnings

import pytest

from tests.bench import count as command
from tests.bench.counting import ceilings
from tests.bench.counting.meters import count, profile
from tests.bench.counting.stage import CASES, Case, staged
from tests.bench.counting.syscalls import syscall_figures, syscalls

LOCKS = frozenset({"futex", "fcntl", "flock", "semop", "semtimedop"})


def hold(name: str, figures: dict[str, float]) -> None:
    """Fail for what passes its ceiling; ask for a lower one where there is room for a regress."""
    known = ceilings.read()[name]
    worse = ceilings.over(figures, known)
    where = f"`tests/bench/count.py {name!r} --where 30` shows where"
    assert not worse, "\n".join([f"{name} costs more than before; {where}:", *worse])
    for line in ceilings.lower(figures, known):
        warnings.warn(f"{name} costs less than its ceiling: keep the gain by tests/bench/count.py --write ({line})", stacklevel=2)


@pytest.mark.parametrize("name", CASES)
def test_no_case_costs_more_than_its_ceiling(name: str) -> None:
    hold(name, count(CASES[name]))


def test_a_worker_makes_no_more_system_calls_than_before(tmp_path: pathlib.Path) -> None:
    for name, figures in syscall_figures(syscalls(tmp_path)).items():
        worse = ceilings.over(figures, ceilings.read()[name])
        assert not worse, "\n".join([f"{name}:", *worse])  # no ceiling is too high: a busy machine reads several chunks at once


def test_workers_share_no_lock_on_the_way_of_a_request(tmp_path: pathlib.Path) -> None:
    calls = syscalls(tmp_path, workers=2)
    assert not {name for found in calls.values() for name, n in found.items() if n > 1} & LOCKS


def test_budgets_over_workers_take_one_lock_to_take_and_one_to_settle(tmp_path: pathlib.Path) -> None:
    calls = syscalls(tmp_path, workers=2, budgets=True)["unary"]
    # Tokens and a slot are taken under one lock, tokens settled under one: twice locked and unlocked.
    assert {name for name, n in calls.items() if n > 1} & LOCKS == {"flock"}
    assert 400 <= calls["flock"] <= 420  # what ticks each second takes some, too


def test_no_task_wakes_and_no_timer_is_made_for_a_chunk() -> None:
    for name, case in CASES.items():
        if case.what == "chunk":
            known = ceilings.read()[name]
            assert (known["task_steps"], known["tasks"], known["futures"], known["timers"]) == (0, 0, 0, 0), name


def test_ten_thousand_models_cost_no_more_than_one() -> None:
    one, many = ceilings.read()["unary"], ceilings.read()["unary, 10,000 models"]
    for name in ("bytecodes", "calls"):  # a request now and then formats the date: a thousandth
        assert many[name] <= one[name] * 1.001


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.what != "chunk"])
def test_no_request_leaves_garbage_to_the_collector(name: str) -> None:
    with staged(CASES[name]) as stage:
        stage.begin()
        for _ in range(50):
            stage.step()
        stage.hand_over()
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                stage.step()
            stage.hand_over()
            assert gc.collect() < 10  # one a request would be 50: what it held would stay, a stream with all of its text
        finally:
            gc.enable()
        stage.end()


def test_nothing_grows_with_the_requests() -> None:
    assert all(known.get("blocks_kept", 0.0) <= 0.5 for known in ceilings.read().values())


def test_counting_twice_counts_the_same() -> None:
    once, again = count(Case()), count(Case())
    for name in ("bytecodes", "calls", "task_steps", "callbacks", "writes"):
        assert once[name] == pytest.approx(again[name], rel=0.002), name


def test_the_dearest_functions_are_named() -> None:
    functions = profile(Case(what="chunk"))
    assert any("relay.py" in where for _, where in functions)
    assert functions == sorted(functions, key=lambda one: -one[0])


def test_a_figure_beyond_the_margin_is_told_and_a_gain_asks_for_a_lower_ceiling() -> None:
    known = {"bytecodes": 1000.0, "task_steps": 4.0}
    assert not ceilings.over({"bytecodes": 1020.0, "task_steps": 4.0}, known)
    assert len(ceilings.over({"bytecodes": 1300.0, "task_steps": 5.0}, known)) == 2
    assert ceilings.lower({"bytecodes": 900.0, "task_steps": 4.0}, known) == ["bytecodes: 900, the ceiling is 1000"]


def test_a_case_is_asked_for_by_its_name_or_its_beginning() -> None:
    assert command.chosen(["chunk"]) == ["chunk"]
    assert command.chosen(["chunk from"]) == ["chunk from anthropic", "chunk from gemini", "chunk from ollama"]
    with pytest.raises(SystemExit, match="no case is called"):
        command.chosen(["nothing"])
