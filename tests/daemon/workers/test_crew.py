"""Workers that die, refuse or keep silent; control and real worker loops in one process, without a fork."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest

from routerd.daemon.workers.channel import Piece, Prepare, Prepared
from routerd.daemon.workers.crew import Crew, StartFailed
from routerd.daemon.workers.generation import WorkerGone, pack
from routerd.errors import ConfigError
from routerd.observe import Metrics, merge
from tests.daemon.fakes import Process, graph, until

ATTEMPTS = "routerd_attempts_total"


class Yard:
    """A crew over fake processes, with a clock and pauses that the test holds."""

    def __init__(self, workers: int = 2) -> None:
        self.now_s = 100.0
        self.processes: list[Process] = []
        self.no_process: list[OSError] = []  # what the next starts of a process fail with
        self.pauses: list[float] = []
        self.dropped: list[int] = []
        self.paused: list[int] = []
        self.may_restart = asyncio.Event()
        self.may_restart.set()
        self.guard = asyncio.Event()
        self.metrics = Metrics()
        self.crew = Crew(
            workers,
            self._spawn,
            metrics=self.metrics,
            dropped=self.dropped.append,
            clock=lambda: self.now_s,
            sleep=self._sleep,
            paused=self.paused.append,
        )

    async def _spawn(self, index: int) -> Process:
        if self.no_process:
            raise self.no_process.pop()
        process = Process(index, pid=1000 + len(self.processes))
        self.processes.append(process)
        return process

    async def _sleep(self, length_s: float) -> None:
        if length_s == 1.0 and asyncio.current_task().get_name() == "worker-guard":  # type: ignore[union-attr]
            await self.guard.wait()
            self.guard.clear()
            return
        self.pauses.append(length_s)
        await self.may_restart.wait()

    def served(self) -> list[tuple[int, int]]:
        """Return (index, generation) of what each slot serves."""
        return [(slot.index, slot.generation) for slot in self.crew.slots]


@pytest.fixture
async def yard() -> AsyncIterator[Yard]:
    made = Yard()
    made.crew.start()
    yield made
    made.may_restart.set()
    await made.crew.kill()


async def test_the_first_generation_waits_for_all_workers_and_serves_on_all(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    assert yard.served() == [(0, 1), (1, 1)]
    assert [slot.digest for slot in yard.crew.slots] == ["a", "a"]
    assert [process.plane.started for process in yard.processes] == [1, 1]


async def test_one_refusal_keeps_the_old_generation_everywhere(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[1].plane.refuse = True
    with pytest.raises(ConfigError) as caught:
        await yard.crew.publish(pack(2, graph("b")))
    assert caught.value.problems[0].code == "no-such-regex"
    assert [process.plane.served for process in yard.processes] == [[1], [1]]
    assert yard.crew.current is not None
    assert yard.crew.current.number == 1
    yard.processes[1].plane.refuse = False
    await yard.crew.publish(pack(3, graph("c")))
    assert [process.plane.served for process in yard.processes] == [[1, 3], [1, 3]]


async def test_a_fault_of_our_own_while_building_is_a_problem_not_a_dead_worker(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))

    def fault() -> None:
        raise RuntimeError("a bug")

    yard.processes[0].plane.on_prepare = fault
    with pytest.raises(ConfigError) as caught:
        await yard.crew.publish(pack(2, graph("b")))
    assert caught.value.problems[0].code == "internal"
    assert not yard.processes[0].killed
    assert yard.served() == [(0, 1), (1, 1)]


async def test_a_piece_that_a_worker_cannot_decode_costs_the_edit_and_no_worker(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    inside = yard.processes[1].inside
    inside.garble = lambda message: isinstance(message, Piece)
    with pytest.raises(ConfigError) as caught:
        await yard.crew.publish(pack(2, graph("b")))
    assert caught.value.problems[0].code == "internal"
    assert "cannot be decoded" in caught.value.problems[0].message
    assert yard.served() == [(0, 1), (1, 1)]
    inside.garble = lambda _: False
    await yard.crew.publish(pack(3, graph("c")))
    assert yard.served() == [(0, 3), (1, 3)]
    assert not any(process.killed for process in yard.processes)


async def test_a_worker_that_cannot_be_understood_is_replaced(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].stream.garble = lambda message: isinstance(message, Prepared)
    await yard.crew.publish(pack(2, graph("b")))  # its replacement can be
    assert yard.processes[0].killed
    assert yard.served() == [(0, 2), (1, 2)]
    assert yard.crew.slots[0].restarts == 1


async def test_a_listener_that_fails_ends_the_worker_and_never_its_place(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))

    def fault(_kind: str, _fields: object) -> None:
        yard.crew.news = lambda *_: None
        raise RuntimeError("a bug")

    yard.crew.news = fault
    yard.processes[0].notice("breaker", {})
    await until(lambda: len(yard.processes) == 3 and yard.crew.slots[0].usable.is_set())
    assert yard.served() == [(0, 1), (1, 1)]


async def test_a_worker_that_cannot_be_started_is_tried_again_with_pauses(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.no_process = [OSError(errno.EAGAIN, "Resource temporarily unavailable") for _ in range(3)]
    yard.processes[0].kill()
    await until(lambda: len(yard.processes) == 3 and yard.crew.slots[0].usable.is_set())
    assert yard.served() == [(0, 1), (1, 1)]
    assert yard.pauses == [0.0, 0.1, 0.2, 0.4]


async def test_a_first_worker_that_cannot_be_started_ends_the_start() -> None:
    made = Yard()
    made.no_process = [OSError(errno.EMFILE, "Too many open files")]
    made.crew.start()
    with pytest.raises(StartFailed, match=r"worker 0 could not be started: .*Too many open files, before it served"):
        await made.crew.failed
    await made.crew.kill()


async def test_a_dead_worker_is_replaced_at_once_and_has_the_generation_before_it_accepts(yard: Yard) -> None:
    await yard.crew.publish(pack(5, graph("a")))
    yard.processes[0].kill()
    await until(lambda: len(yard.processes) == 3 and yard.crew.slots[0].usable.is_set())
    assert yard.processes[2].plane.started == 1  # the fake refuses to start without a generation
    assert yard.served() == [(0, 5), (1, 5)]
    assert yard.pauses == [0.0]
    assert yard.dropped == [0]
    assert yard.crew.slots[0].restarts == 1


async def test_workers_that_keep_dying_young_wait_longer_each_time_and_an_old_one_does_not(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    for _ in range(8):
        await until(lambda: yard.crew.slots[0].usable.is_set())
        yard.crew.slots[0].link.kill()  # type: ignore[union-attr]
        await until(lambda: not yard.crew.slots[0].usable.is_set())
    await until(lambda: yard.crew.slots[0].usable.is_set())
    assert yard.pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert yard.paused == [0, 0, 0]  # its queue is closed where the pause is long, for another worker is up
    yard.now_s += 60.0
    yard.crew.slots[0].link.kill()  # type: ignore[union-attr]
    await until(lambda: len(yard.pauses) == 9)
    assert yard.pauses[-1] == 0.0


async def test_a_worker_that_dies_while_building_costs_no_edit(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    victim = yard.processes[0]
    victim.plane.on_prepare = victim.kill
    await yard.crew.publish(pack(2, graph("b")))
    assert yard.served() == [(0, 2), (1, 2)]
    assert yard.processes[1].plane.served == [1, 2]


async def test_a_worker_that_stands_still_while_building_is_replaced_and_the_edit_tried_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    monkeypatch.setattr("routerd.daemon.workers.crew.PUBLISH_TIMEOUT_S", 0.05)
    yard.processes[0].stream.peer = None  # what control sends is lost
    publishing = asyncio.ensure_future(yard.crew.publish(pack(2, graph("b"))))
    await until(lambda: yard.processes[1].stream.sent[-1] == Prepare(2, "b"))
    yard.now_s += 11.0
    yard.crew.slots[1].heard_at_s = yard.now_s
    await publishing
    assert yard.processes[0].killed
    assert not yard.processes[1].killed
    assert yard.served() == [(0, 2), (1, 2)]


async def test_a_slow_build_that_is_not_stuck_ends_no_worker(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    monkeypatch.setattr("routerd.daemon.workers.crew.PUBLISH_TIMEOUT_S", 0.05)
    yard.processes[0].stream.peer = None
    with pytest.raises(ConfigError) as caught:
        await yard.crew.publish(pack(2, graph("b")))
    assert caught.value.problems[0].code == "build-timeout"
    assert not any(process.killed for process in yard.processes)


async def test_an_edit_that_kills_workers_is_given_up_and_the_old_one_serves(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    spawn = yard.crew._spawn

    async def doomed(index: int) -> Process:
        process = await spawn(index)

        def die_on_the_new_one() -> None:
            if yard.crew._publishing.locked() and len(process.stream.sent) and process.stream.sent[-1].number == 2:
                process.kill()

        process.plane.on_prepare = die_on_the_new_one
        return process

    yard.crew._spawn = doomed
    for process in yard.processes:
        process.plane.on_prepare = process.kill
    with pytest.raises(WorkerGone):
        await yard.crew.publish(pack(2, graph("b")))
    await until(lambda: all(slot.usable.is_set() for slot in yard.crew.slots))
    assert yard.served() == [(0, 1), (1, 1)]
    assert yard.crew.current is not None
    assert yard.crew.current.number == 1


async def test_a_worker_that_is_down_does_not_hold_up_an_edit_and_comes_back_with_it(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].kill()
    await until(lambda: len(yard.processes) == 3 and yard.crew.slots[0].usable.is_set())
    yard.may_restart.clear()
    yard.processes[2].kill()  # the second death brings a pause
    await until(lambda: yard.crew.slots[0].pausing)
    await yard.crew.publish(pack(2, graph("b")))
    assert yard.crew.slots[1].generation == 2
    yard.may_restart.set()
    await until(lambda: yard.served() == [(0, 2), (1, 2)])


async def test_counters_never_go_back_when_a_worker_dies(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    for process in yard.processes:
        process.metrics.counter(ATTEMPTS, "t", "ok").inc(5)
        process.metrics.gauge("routerd_inflight_requests", "e").set(2)
    key = (ATTEMPTS, ("t", "ok"))
    before = merge(await yard.crew.collect(60.0), yard.crew.retired)
    assert before.values[key] == 10
    yard.processes[0].kill()
    await until(lambda: len(yard.processes) == 3 and yard.crew.slots[0].usable.is_set())
    yard.processes[2].metrics.counter(ATTEMPTS, "t", "ok").inc(1)
    after = merge(await yard.crew.collect(60.0), yard.crew.retired)
    assert after.values[key] == 11
    assert after.values[("routerd_inflight_requests", ("e",))] == 2


async def test_a_worker_that_does_not_answer_a_scrape_is_shown_as_it_was(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].metrics.counter(ATTEMPTS, "t", "ok").inc(3)
    await yard.crew.collect(60.0)
    yard.processes[0].stream.peer = None  # what control sends is lost
    yard.processes[1].metrics.counter(ATTEMPTS, "t", "ok").inc(4)
    snapshots = await yard.crew.collect(0.01)
    assert merge(snapshots).values[(ATTEMPTS, ("t", "ok"))] == 7


async def test_a_worker_without_signs_of_life_is_ended(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].stream.peer = None
    yard.now_s += 19.0
    yard.crew.slots[1].heard_at_s = yard.now_s
    yard.guard.set()
    await until(lambda: not yard.guard.is_set())
    assert not yard.processes[0].killed
    yard.now_s += 2.0
    yard.guard.set()
    await until(lambda: yard.processes[0].killed)
    assert not yard.processes[1].killed


async def test_a_worker_that_ends_before_the_first_generation_stops_the_start(yard: Yard) -> None:
    await until(lambda: len(yard.processes) == 2)
    yard.processes[1].end(1)
    with pytest.raises(StartFailed, match="worker 1 ended with status 1"):
        await yard.crew.failed
    assert len(yard.processes) == 2


async def test_draining_waits_for_the_workers_and_starts_no_new_ones(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].plane.finish.clear()
    yard.processes[1].metrics.counter(ATTEMPTS, "t", "ok").inc(9)
    draining = asyncio.ensure_future(yard.crew.drain(30.0))
    await until(lambda: yard.crew.slots[1].link is None)
    assert not draining.done()
    snapshots = await yard.crew.collect(60.0)  # a draining worker still answers
    assert merge(snapshots, yard.crew.retired).values[(ATTEMPTS, ("t", "ok"))] == 9
    yard.processes[0].plane.finish.set()
    await draining
    assert [process.plane.drained for process in yard.processes] == [30.0, 30.0]
    assert len(yard.processes) == 2


async def test_an_old_generation_is_kept_while_a_request_uses_it_and_then_freed(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a", routes=120)))
    plane = yard.processes[0].plane
    worker = _worker_of(yard.processes[0])
    plane.inflight = {1: 1}
    await yard.crew.publish(pack(2, graph("b")))
    await worker._free()
    assert set(worker._live) == {1, 2}
    plane.inflight = {}
    await worker._free()
    assert set(worker._live) == {2}


def _worker_of(process: Process):  # type: ignore[no-untyped-def]
    return process._task.get_coro().cr_frame.f_locals["worker"]  # type: ignore[union-attr]


# ── what workers tell ──


async def test_what_a_worker_notices_is_news_with_its_number(yard: Yard) -> None:
    news: list[tuple[str, dict[str, object]]] = []
    yard.crew.news = lambda kind, fields: news.append((kind, fields))
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[1].notice("breaker", {"endpoint": "gpu-a", "state": "open"})
    await until(lambda: news)
    assert news == [("breaker", {"endpoint": "gpu-a", "state": "open", "worker": 1})]


async def test_a_restarted_worker_is_news(yard: Yard) -> None:
    news: list[tuple[str, dict[str, object]]] = []
    yard.crew.news = lambda kind, fields: news.append((kind, fields))
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].kill()
    await until(lambda: news)
    assert news == [("worker_restarted", {"worker": 0, "status": -9, "restarts": 1})]


async def test_outcomes_are_added_up_over_workers_and_outlive_them(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    for process, counted in zip(yard.processes, ({1: (5, 1), 2: (3, 3)}, {2: (4, 0)}), strict=True):
        process.plane.counted = counted
    await yard.crew.collect(1.0)
    assert yard.crew.outcomes() == {1: (5, 1), 2: (7, 3)}
    yard.processes[0].plane.counted = {2: (6, 3)}  # it has forgotten generation 1
    await yard.crew.collect(1.0)
    assert yard.crew.outcomes() == {1: (5, 1), 2: (10, 3)}
    yard.processes[0].kill()
    await until(lambda: len(yard.processes) == 3)
    assert yard.crew.outcomes() == {1: (5, 1), 2: (10, 3)}


async def test_outcomes_of_old_generations_are_forgotten(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    yard.processes[0].plane.counted = dict.fromkeys(range(1, 100), (1, 0))
    await yard.crew.collect(1.0)
    assert len(yard.crew.outcomes()) == 32
    assert max(yard.crew.outcomes()) == 99


async def test_what_is_forgotten_goes_in_all_workers_and_in_what_dead_ones_counted(yard: Yard) -> None:
    await yard.crew.publish(pack(1, graph("a")))
    for process in yard.processes:
        process.metrics.counter(ATTEMPTS, "t", "ok").inc()
    await yard.crew.collect(60)
    yard.processes[0].kill()
    await until(lambda: len(yard.processes) == 3 and yard.crew.slots[0].usable.is_set())
    assert merge(await yard.crew.collect(60), yard.crew.retired).values[(ATTEMPTS, ("t", "ok"))] == 2
    yard.crew.forget(frozenset({("target", "t")}))
    assert (ATTEMPTS, ("t", "ok")) not in merge(await yard.crew.collect(60), yard.crew.retired).values
