"""When a trial begins, ends and rolls back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from routerd.config import Kept
from routerd.daemon.reload import Outcome, Reloader, Steps, Teller
from routerd.daemon.reload.history import Entry
from routerd.daemon.reload.probation import Count
from routerd.daemon.reload.trial import Trials
from routerd.daemon.workers.generation import Package
from routerd.graph import Graph, Probation, Reload
from routerd.observe import Metrics
from tests.daemon.fakes import graph

POLICY = Probation(for_s=60.0, max_error_ratio=0.2, min_requests=20)


class Loaded:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.warnings = ()
        self.inputs = ()
        self.kept = Kept(main="/r", files={})


class Unseen:
    def before_load(self) -> None:
        return None

    def taken(self, before: object, paths: object) -> None:
        pass


class Desk:
    """A reloader, trials over it, and counts that the test writes."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.counts: dict[int, Count] = {}
        self.proven: list[int] = []
        self.policy: Probation | None = POLICY
        self.text = ""

        async def publish(_package: Package) -> tuple[float, float]:
            return 0.0, 0.0

        def load(_kept: Kept | None) -> Loaded:
            return Loaded(replace(graph(self.text), reload=Reload(probation=self.policy)))

        steps = Steps(load=load, gate=lambda _: (), compare=lambda _old, _new: (), publish=publish)
        self.reloader = Reloader(steps, Unseen(), Teller(Metrics(), lambda _: ""), main=Path("/r"))
        self.trials = Trials(self.reloader, lambda: self.counts, self._proved, lambda: self.now_s)

    def _proved(self, entry: Entry) -> None:
        self.proven.append(entry.package.number)

    async def serve(self, text: str) -> Outcome:
        self.text = text
        return await self.reloader.request("file")

    async def later(self, seconds: float, **counts: Count) -> None:
        self.now_s += seconds
        self.counts.update({int(name.removeprefix("g")): count for name, count in counts.items()})
        self.trials.look()
        for _ in range(50):
            await asyncio.sleep(0.001)
            if not self.reloader._queue:
                break
        await asyncio.sleep(0.02)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    task = asyncio.create_task(made.reloader.run())
    yield made
    task.cancel()


async def test_the_first_generation_has_nothing_to_go_back_to(desk: Desk) -> None:
    await desk.serve("a")
    assert desk.trials.trial is None
    assert desk.proven == [1]


async def test_without_a_policy_nothing_is_on_trial(desk: Desk) -> None:
    await desk.serve("a")
    desk.policy = None
    await desk.serve("b")
    assert desk.trials.trial is None
    assert desk.proven == [1, 2]


async def test_one_that_fails_is_rolled_back_and_was_never_proven(desk: Desk) -> None:
    await desk.serve("a")
    await desk.later(30, g1=Count(100, 1))
    await desk.serve("b")
    await desk.later(1, g2=Count(19, 19))
    assert desk.reloader.serving is not None
    assert desk.reloader.serving.number == 2
    await desk.later(1, g2=Count(20, 19))
    assert (desk.reloader.serving.number, desk.reloader.serving.digest) == (3, "a")
    last = desk.reloader.last
    assert last is not None
    assert (last.trigger, last.result, last.event) == ("probation", "reverted", "rolled_back")
    assert "generation 2 failed 19 of 20 requests (95%)" in last.problems[0].message
    assert desk.trials.trial is None
    assert desk.proven == [1, 3]


async def test_one_that_lasts_is_proven(desk: Desk) -> None:
    await desk.serve("a")
    await desk.serve("b")
    assert desk.proven == [1]
    await desk.later(59, g2=Count(100, 20))
    assert desk.proven == [1]
    await desk.later(1)
    assert desk.proven == [1, 2]
    await desk.later(1, g2=Count(200, 120))  # too late
    assert desk.trials.trial is None


async def test_a_fault_that_was_there_before_is_not_the_edits(desk: Desk) -> None:
    await desk.serve("a")
    await desk.later(1, g1=Count(100, 90))
    await desk.serve("b")
    await desk.later(1, g2=Count(100, 95))
    assert desk.reloader.serving is not None
    assert desk.reloader.serving.number == 2


async def test_an_edit_during_a_trial_is_measured_against_the_same_good_one(desk: Desk) -> None:
    await desk.serve("a")
    await desk.serve("b")
    await desk.serve("c")
    assert desk.trials.trial is not None
    assert (desk.trials.trial.number, desk.trials.trial.before) == (3, 1)
    await desk.later(1, g3=Count(50, 50))
    assert desk.reloader.serving is not None
    assert desk.reloader.serving.digest == "a"


async def test_a_rejected_or_unchanged_reload_does_not_end_the_trial(desk: Desk) -> None:
    await desk.serve("a")
    await desk.serve("b")
    await desk.serve("b")
    assert desk.trials.trial is not None
    assert desk.trials.as_json() is not None


async def test_an_operators_rollback_ends_the_trial(desk: Desk) -> None:
    await desk.serve("a")
    await desk.serve("b")
    entry = desk.reloader.history.find(1)
    assert entry is not None
    await desk.reloader.roll_back(entry)
    assert desk.trials.trial is None
    assert desk.proven == [1, 3]
