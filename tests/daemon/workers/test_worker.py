"""What a worker does with the messages of control, and what it must not carry in memory."""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar

import pytest

from routerd.daemon.workers.channel import Abort, Ask, Commit, Committed, Drain, Forget, Hello, Piece, Prepare, Prepared, Tick
from routerd.daemon.workers.generation import pack
from routerd.daemon.workers.worker import FREED_A_STEP, Worker
from routerd.graph import Params
from routerd.observe import Metrics, Snapshot
from tests.daemon.fakes import Pipe, Plane, graph, until


class Desk:
    """A worker and control's end of its wire."""

    def __init__(self) -> None:
        self.control, inside = Pipe.pair()
        self.inside = inside
        self.plane = Plane()
        self.metrics = Metrics()
        self.worker = Worker(inside, self.plane, self.metrics, index=0, sock=socket.socket())
        self.task = asyncio.create_task(self.worker.run())

    def sent(self, kind: type) -> list[object]:
        return [message for message in self.inside.sent if isinstance(message, kind)]

    async def answer(self, kind: type) -> object:
        before = len(self.sent(kind))
        await until(lambda: len(self.sent(kind)) > before)
        return self.sent(kind)[-1]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    await until(lambda: made.sent(Hello))
    yield made
    made.task.cancel()
    await asyncio.wait([made.task])


async def test_it_accepts_only_after_the_first_commit(desk: Desk) -> None:
    desk.control.send_frames(pack(1, graph("a")).frames)
    assert await desk.answer(Prepared) is not None
    assert desk.plane.started == 0
    desk.control.send(Commit(1))
    committed = await desk.answer(Committed)
    assert isinstance(committed, Committed)
    assert (committed.number, desk.plane.started) == (1, 1)
    desk.control.send_frames(pack(2, graph("b")).frames)
    desk.control.send(Commit(2))
    await desk.answer(Committed)
    assert desk.plane.started == 1
    assert desk.plane.serving is not None
    assert desk.plane.serving[1] == graph("b")


async def test_an_aborted_generation_cannot_be_committed(desk: Desk) -> None:
    desk.control.send_frames(pack(1, graph("a")).frames)
    desk.control.send(Abort(1))
    desk.control.send(Commit(1))
    desk.control.send(Ask(5))
    await until(lambda: any(tick.ticket == 5 for tick in desk.sent(Tick)))  # type: ignore[attr-defined]
    assert desk.plane.served == []
    assert desk.sent(Committed) == []


async def test_pieces_that_are_given_up_do_not_leak_into_the_next_generation(desk: Desk) -> None:
    desk.control.send_frames(pack(1, graph("a", routes=9)).frames[:-1])
    desk.control.send(Abort(1))
    desk.control.send_frames(pack(2, graph("b", routes=1)).frames)
    desk.control.send(Commit(2))
    await desk.answer(Committed)
    assert desk.plane.serving is not None
    assert desk.plane.serving[1] == graph("b", routes=1)
    assert gc.isenabled()


async def test_a_prepare_without_its_pieces_is_answered_with_a_problem(desk: Desk) -> None:
    desk.control.send(Prepare(3, "d"))
    answer = await desk.answer(Prepared)
    assert isinstance(answer, Prepared)
    assert answer.problems[0].stage == "build"


async def test_what_cannot_be_decoded_spoils_the_generation_it_belongs_to_and_no_other(desk: Desk) -> None:
    desk.inside.garble = lambda message: isinstance(message, Piece) and message.name == "routes"
    desk.control.send_frames(pack(1, graph("a")).frames)
    refused = await desk.answer(Prepared)
    assert isinstance(refused, Prepared)
    assert [problem.code for problem in refused.problems] == ["internal"]
    desk.control.send_frames(pack(2, graph("b")).frames[:-1])
    desk.control.send(Abort(2))
    desk.inside.garble = lambda _: False
    desk.control.send_frames(pack(3, graph("c")).frames)
    fine = await desk.answer(Prepared)
    assert isinstance(fine, Prepared)
    assert fine.problems == ()
    assert gc.isenabled()


async def test_a_piece_that_does_not_fit_is_answered_with_a_problem(desk: Desk) -> None:
    desk.control.send_frames(pack(1, graph("a")).frames[:-1])
    desk.control.send(Piece(1, "routes", "mapping", 7))
    desk.control.send(Prepare(1, "a"))
    refused = await desk.answer(Prepared)
    assert isinstance(refused, Prepared)
    assert "the piece routes cannot be added" in refused.problems[0].message


class Counted:
    """A value inside a graph whose end is counted: how many ended in this turn of the loop."""

    ended: ClassVar[list[int]] = [0]

    def __reduce__(self) -> tuple[type[Counted], tuple[()]]:
        return Counted, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted)

    __hash__ = None  # type: ignore[assignment]  # a value of a mapping

    def __del__(self) -> None:
        Counted.ended[-1] += 1


async def test_an_old_generation_is_freed_some_at_a_time(desk: Desk) -> None:
    models = 10 * FREED_A_STEP
    base = graph("a", routes=models)
    params = [Params(defaults=MappingProxyType({"x": Counted()})) for _ in base.routes]
    traced = {route.name: replace(route, params=each) for route, each in zip(base.routes.values(), params, strict=True)}
    frames = pack(1, replace(base, routes=traced, patterns=(traced["x-*"],))).frames
    desk.control.sent.clear()  # the test's own copies
    traced.clear()
    params.clear()
    for number, sent in ((1, frames), (2, pack(2, graph("b")).frames)):
        desk.control.send_frames(sent)
        await desk.answer(Prepared)
        desk.control.send(Commit(number))
        await desk.answer(Committed)
    desk.control.sent.clear()
    desk.plane.compiled[1] = True
    gc.collect()
    Counted.ended[:] = [0]
    task = asyncio.create_task(desk.worker._free())
    while not task.done():
        await asyncio.sleep(0)
        Counted.ended.append(0)
    assert desk.plane.compiled == {}
    assert sum(Counted.ended) == models + 1
    assert max(Counted.ended) <= FREED_A_STEP


async def test_a_question_is_answered_with_every_change_since_the_last(desk: Desk) -> None:
    desk.metrics.counter("routerd_attempts_total", "t", "ok").inc(2)
    desk.control.send(Ask(7))
    await until(lambda: any(tick.ticket == 7 for tick in desk.sent(Tick)))  # type: ignore[attr-defined]
    ticks = desk.sent(Tick)
    assert ticks[0].snapshot.values[("routerd_attempts_total", ("t", "ok"))] == 2  # type: ignore[attr-defined]
    assert ticks[-1].last  # type: ignore[attr-defined]


async def test_the_series_of_what_is_forgotten_go_and_control_is_told(desk: Desk) -> None:
    desk.metrics.counter("routerd_attempts_total", "t", "ok").inc()
    desk.metrics.counter("routerd_attempts_total", "u", "ok").inc()
    desk.control.send(Ask(1))
    desk.control.send(Forget(frozenset({("target", "t")})))
    desk.control.send(Ask(2))
    await until(lambda: any(tick.ticket == 2 for tick in desk.sent(Tick)))  # type: ignore[attr-defined]
    told = Snapshot()
    for tick in desk.sent(Tick):
        told.update(tick.snapshot)  # type: ignore[attr-defined]
    assert [key[1] for key in told.values if key[0] == "routerd_attempts_total"] == [("u", "ok")]


class Left:
    """What requests leave behind: how often it was handed over, and whether some of it waits."""

    def __init__(self) -> None:
        self.handed_over = 0
        self.waits = False

    def flush(self) -> bool:
        self.handed_over += 1
        return False


@pytest.fixture
async def beaten(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Left, asyncio.Event, Plane, Worker]]:
    """Give a worker whose beats take no time, what its requests left, and what stirs it."""
    monkeypatch.setattr("routerd.daemon.workers.worker.FLUSH_S", 0.0)
    left, stirred, plane = Left(), asyncio.Event(), Plane()
    way = {"flush": left.flush, "unsaid": lambda: left.waits, "stirred": stirred}
    worker = Worker(Pipe.pair()[1], plane, Metrics(), index=0, sock=socket.socket(), **way)  # type: ignore[arg-type]  # of three types
    task = asyncio.create_task(worker.run())
    for _ in range(100):
        await asyncio.sleep(0)
    yield left, stirred, plane, worker
    task.cancel()
    await asyncio.wait([task])


async def turns(many: int = 200) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def test_an_idle_worker_has_no_beat_until_something_stirs_it(beaten: tuple[Left, asyncio.Event, Plane, Worker]) -> None:
    left, stirred, _, _ = beaten
    assert left.handed_over == 0
    for times in (1, 2):
        stirred.set()
        await turns()
        assert left.handed_over == times


async def test_the_beat_goes_on_while_something_waits_or_runs_and_ends_with_it(
    beaten: tuple[Left, asyncio.Event, Plane, Worker],
) -> None:
    left, stirred, plane, _ = beaten
    left.waits = True
    stirred.set()
    await turns()
    assert left.handed_over > 10
    left.waits, plane.inflight = False, {1: 1}
    before = left.handed_over
    await turns()
    assert left.handed_over > before + 10
    plane.inflight = {}
    await turns()
    before = left.handed_over
    await turns()
    assert left.handed_over == before


async def test_requests_that_ended_without_a_record_are_noticed_by_the_tick(
    beaten: tuple[Left, asyncio.Event, Plane, Worker],
) -> None:
    _, _, plane, worker = beaten
    assert not worker._is_busy()
    plane.counted = {1: (5, 0)}
    assert worker._is_busy()
    assert not worker._is_busy()


async def test_it_ends_when_it_is_drained_and_says_its_last_figures(desk: Desk) -> None:
    desk.plane.finish.clear()
    desk.control.send(Drain(3.0))
    await until(lambda: desk.plane.drained == 3.0)
    assert not desk.task.done()
    desk.metrics.counter("routerd_attempts_total", "t", "ok").inc(4)
    desk.plane.finish.set()
    await desk.task
    assert any(("routerd_attempts_total", ("t", "ok")) in tick.snapshot.values for tick in desk.sent(Tick))  # type: ignore[attr-defined]


async def test_it_ends_when_control_is_gone(desk: Desk) -> None:
    desk.control.close()
    with pytest.raises(EOFError):
        await desk.task


async def test_it_ends_when_control_goes_while_it_drains(desk: Desk) -> None:
    desk.plane.finish.clear()
    desk.control.send(Drain(3.0))
    await until(lambda: desk.plane.drained == 3.0)
    desk.control.close()
    await desk.task


def test_a_worker_process_does_not_carry_what_only_control_needs() -> None:
    heavy = ["yaml", "jsonschema", "jsonschema_rs", "watchfiles", "prometheus_client", "routerd.config"]
    program = (
        "import sys, routerd.daemon.workers.worker, routerd.server, routerd.state\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_secret_survives_the_wire_and_its_text_form_does_not() -> None:
    frames = pack(1, graph()).frames
    assert any(b"sk-hidden" in frame for frame in frames)
    assert "sk-hidden" not in repr([pickle.loads(frame[4:]) for frame in frames])
