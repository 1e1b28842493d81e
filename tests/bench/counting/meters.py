"""What is counted of a stage: bytecodes, calls, what the loop was asked for, memory kept and memory at the peak."""

from __future__ import annotations

import gc
import pathlib
import sys
import tracemalloc
from collections import Counter
from types import CodeType, FrameType
from typing import Any

import routerd
from tests.bench.counting.stage import Case, Stage, staged

__all__ = ["FIGURES", "count", "profile"]

HERE = str(pathlib.Path(__file__).parent)
PACKAGE = str(pathlib.Path(routerd.__file__).parent)
GENERATED = "<string>"  # where dataclasses write their __init__
WARM, STEPS, TRACED = 60, 200, 40  # TRACED divides what is handed over in batches (100 records) into shares of the same size
FIGURES = {
    "bytecodes": "bytecodes run in routerd's own code",
    "library_bytecodes": "bytecodes run in Python code of libraries",
    "calls": "calls of Python functions, and of C functions by Python code",
    "task_steps": "times a task was woken",
    "callbacks": "callbacks queued, task steps among them",
    "tasks": "tasks made",
    "futures": "futures made by the loop",
    "timers": "timers of the loop",
    "writes": "writes to transports",
    "blocks_kept": "memory blocks that stay",
    "peak_bytes": "memory at the peak, above what stays, in bytes",
}


def count(case: Case) -> dict[str, float]:
    """Return all figures of a case, for one of its units."""
    with staged(case) as stage:
        _warm(stage)
        figures: dict[str, float] = dict(_loop_counts(stage))
        figures["blocks_kept"] = _blocks_kept(stage)
        figures["peak_bytes"] = _peak_bytes(stage)
        figures["calls"] = _calls(stage)
        places = _bytecodes(stage)
    own = sum(n for (code, _), n in places.items() if code.co_filename.startswith((PACKAGE, GENERATED)))
    figures["bytecodes"] = own / TRACED
    figures["library_bytecodes"] = (sum(places.values()) - own) / TRACED
    return {name: round(figures[name], 2) for name in FIGURES}


def profile(case: Case) -> list[tuple[float, str]]:
    """Return bytecodes for each function and unit, the dearest first."""
    with staged(case) as stage:
        _warm(stage)
        places = _bytecodes(stage)
    named = Counter[str]()
    for (code, owner), n in places.items():
        path = code.co_filename.removeprefix(PACKAGE + "/")
        path = path.partition("/site-packages/")[2] or path.rpartition("/lib/")[2] or path
        named[f"{path}:{code.co_firstlineno} {owner}{code.co_qualname.rpartition('<locals>.')[2]}"] += n
    return [(n / TRACED, name) for name, n in named.most_common()]


def _warm(stage: Stage) -> None:
    stage.begin()
    for _ in range(WARM):
        stage.step()
    stage.end()


def _loop_counts(stage: Stage) -> dict[str, float]:
    stage.begin()
    before = stage.loop.counts.copy()
    for _ in range(STEPS):
        stage.step()
    spent = stage.loop.counts - before
    stage.end()
    return {name: spent[name] / STEPS for name in ("callbacks", "task_steps", "tasks", "futures", "timers", "writes")}


def _blocks_kept(stage: Stage) -> float:
    """Ten times as many steps keep no more blocks than that many: what one step keeps is the slope."""
    kept = []
    for steps in (STEPS, STEPS * 11):
        stage.begin()
        gc.collect()
        before = sys.getallocatedblocks()
        for number in range(steps):
            stage.step()
            if number % 100 == 0:
                stage.hand_over()
        stage.hand_over()
        gc.collect()
        kept.append(sys.getallocatedblocks() - before)
        stage.end()
    return max(0.0, (kept[1] - kept[0]) / (STEPS * 10))


def _peak_bytes(stage: Stage) -> float:
    stage.begin()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(9):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            stage.step()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
        gc.enable()
    stage.end()
    return float(sorted(peaks)[4])


def _calls(stage: Stage) -> float:
    calls = 0

    def called(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal calls
        # What the stage itself does is not counted, a call of it is: it stands for the loop and the transports.
        inside = frame.f_code.co_filename.startswith(HERE)
        if event == "c_call":
            calls += not inside
        elif event == "call":
            caller = frame.f_back
            calls += not inside or (caller is not None and not caller.f_code.co_filename.startswith(HERE))

    stage.begin()
    gc.disable()
    sys.setprofile(called)
    try:
        for _ in range(TRACED):
            stage.step()
        stage.hand_over()
    finally:
        sys.setprofile(None)
        gc.enable()
    stage.end()
    return calls / TRACED


def _bytecodes(stage: Stage) -> Counter[tuple[CodeType, str]]:
    """Count by function; what dataclasses generated also by the name of its class."""
    counts: Counter[tuple[CodeType, str]] = Counter()

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code.co_filename.startswith(HERE):
            return None
        owner = f"{type(frame.f_locals.get('self')).__name__}." if code.co_filename == GENERATED else ""
        place = (code, owner)
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False

        def opcode(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode":
                counts[place] += 1
            return opcode

        return opcode

    stage.begin()
    gc.disable()
    sys.settrace(enter)
    try:
        for _ in range(TRACED):
            stage.step()
        stage.hand_over()
    finally:
        sys.settrace(None)
        gc.enable()
    stage.end()
    return counts
