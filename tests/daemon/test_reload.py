"""One queue, one path, one word for each outcome; success is told last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from routerd.daemon.generation import Package, WorkerGone, build_problem
from routerd.daemon.reload import Reloader
from routerd.errors import ConfigError, Problem
from routerd.graph import Graph
from routerd.observe import Metrics
from tests.daemon.fakes import graph, problem

MAIN = Path("routes.yaml")


@dataclass
class Input:
    path: Path
    sha256: str = ""


@dataclass
class Loaded:
    graph: Graph
    inputs: Sequence[Input] = (Input(MAIN),)
    warnings: tuple[Problem, ...] = ()


@dataclass
class Desk:
    """A reloader whose file, workers and clock the test holds."""

    file: Loaded | Exception = field(default_factory=lambda: Loaded(graph("a")))
    refused: tuple[Problem, ...] = ()
    publishing: Exception | None = None
    published: list[Package] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    at_publish: list[float] = field(default_factory=list)
    may_publish: asyncio.Event = field(default_factory=asyncio.Event)
    now_s: float = 50.0
    loads: int = 0

    def __post_init__(self) -> None:
        self.may_publish.set()
        self.reloader = Reloader(
            load=self._load,
            gate=lambda graph: self.refused,
            publish=self._publish,
            inputs=self,  # type: ignore[arg-type]
            metrics=self.metrics,
            report=lambda problems: "\n".join(p.code for p in problems),
            clock=lambda: self.now_s,
            wall=lambda: 1000.0 + self.now_s,
        )

    def before_load(self) -> str:
        return f"look {self.loads}"

    def taken_(self, before: Any, paths: Sequence[Path]) -> None:
        self.taken.append((before, tuple(paths)))

    def _load(self) -> Loaded:
        self.loads += 1
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    async def _publish(self, package: Package) -> tuple[float, float]:
        self.at_publish.append(self.value("routerd_config_last_reload_successful"))
        await self.may_publish.wait()
        if self.publishing:
            raise self.publishing
        self.published.append(package)
        return 0.01, 0.001

    def value(self, name: str, *labels: str) -> float:
        return self.metrics.snapshot().values.get((name, labels), -1.0)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    made.reloader._inputs = _Inputs(made)
    task = asyncio.create_task(made.reloader.run())
    yield made
    task.cancel()


class _Inputs:
    def __init__(self, desk: Desk) -> None:
        self.before_load = desk.before_load
        self.taken = desk.taken_


async def test_what_is_new_is_applied_and_success_is_told_after_it_serves(desk: Desk) -> None:
    outcome = await desk.reloader.request("start", seen_at_s=49.0)
    assert (outcome.result, outcome.generation, outcome.digest, outcome.ok) == ("applied", 1, "a", True)
    assert desk.at_publish == [-1.0]
    assert desk.value("routerd_config_last_reload_successful") == 1
    assert desk.value("routerd_config_reloads_total", "start", "applied") == 1
    assert desk.value("routerd_config_info", "a", "1", "file") == 1
    assert desk.value("routerd_config_last_reload_success_timestamp_seconds") == 1050
    assert desk.metrics.histogram("routerd_config_detect_to_serve_seconds").sum == 1.0
    assert desk.taken == [("look 0", (MAIN,))]


async def test_the_same_content_is_no_new_generation(desk: Desk) -> None:
    await desk.reloader.request("start")
    outcome = await desk.reloader.request("signal")
    assert (outcome.result, outcome.generation) == ("unchanged", 1)
    assert len(desk.published) == 1
    assert desk.value("routerd_config_reloads_total", "signal", "unchanged") == 1


@pytest.mark.parametrize("stage", ["read", "yaml", "interpolate", "schema", "semantic"])
async def test_a_bad_edit_keeps_what_serves_and_names_its_stage(desk: Desk, stage: str) -> None:
    await desk.reloader.request("start")
    desk.file = ConfigError([problem(stage=stage)], inputs=[MAIN, Path("prompt.md")])
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.generation, outcome.digest, outcome.ok) == (stage, 1, "a", False)
    assert outcome.problems == (problem(stage=stage),)
    assert desk.value("routerd_config_last_reload_successful") == 0
    assert desk.value("routerd_config_reloads_total", "file", stage) == 1
    assert desk.value("routerd_config_info", "a", "1", "file") == 1
    assert desk.taken[-1] == ("look 1", (MAIN, Path("prompt.md")))
    desk.file = Loaded(graph("b"))
    assert (await desk.reloader.request("file")).result == "applied"
    assert desk.value("routerd_config_info", "a", "1", "file") == -1
    assert desk.value("routerd_config_last_reload_successful") == 1


async def test_what_the_command_line_forbids_is_refused_before_any_worker_hears_of_it(desk: Desk) -> None:
    desk.refused = (problem("open-listener", "semantic"),)
    outcome = await desk.reloader.request("api")
    assert outcome.result == "semantic"
    assert desk.published == []
    assert desk.taken == [("look 0", (MAIN,))]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ConfigError([build_problem("no")]), "build-failed"),
        (WorkerGone("worker 1 died"), "worker-died"),
        (RuntimeError("a bug"), "internal"),
    ],
)
async def test_a_failure_while_publishing_is_told_and_reloading_goes_on(desk: Desk, failure: Exception, code: str) -> None:
    await desk.reloader.request("start")
    desk.file, desk.publishing = Loaded(graph("b")), failure
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.problems[0].code, outcome.generation) == ("build", code, 1)
    desk.publishing = None
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.generation) == ("applied", 3)  # a number is never used twice


async def test_an_unexpected_fault_while_loading_keeps_the_watched_paths(desk: Desk) -> None:
    desk.file = RecursionError("deep")
    assert (await desk.reloader.request("file")).result == "build"
    assert desk.taken == [("look 0", ())]


async def test_requests_that_wait_share_one_reload_that_reads_the_newest_bytes(desk: Desk) -> None:
    await desk.reloader.request("start")
    desk.may_publish.clear()
    desk.file = Loaded(graph("b"))
    running = desk.reloader.request("file")
    while len(desk.at_publish) < 2:
        await asyncio.sleep(0)
    desk.file = Loaded(graph("c"))
    waiting = [desk.reloader.request("file"), desk.reloader.request("api"), desk.reloader.request("signal")]
    assert waiting[0] is waiting[1] is waiting[2]
    desk.may_publish.set()
    assert (await running).digest == "b"
    assert (await waiting[0]).digest == "c"
    assert desk.loads == 3


async def test_the_same_problems_are_written_to_the_log_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "routerd")
    desk.file = ConfigError([problem("unknown-key"), problem("other")])
    for _ in range(3):
        await desk.reloader.request("file")
    assert caplog.text.count("unknown-key") == 1
    assert caplog.text.count("the same problems as before") == 2
    desk.file = Loaded(graph("a"))
    await desk.reloader.request("file")
    desk.file = ConfigError([problem("unknown-key"), problem("other")])
    await desk.reloader.request("file")
    assert caplog.text.count("unknown-key") == 2


async def test_warnings_are_written_once_for_each_new_set(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.file = Loaded(graph("a"), warnings=(problem("unused-alias"),))
    await desk.reloader.request("start")
    await desk.reloader.request("signal")
    assert caplog.text.count("unused-alias") == 1


async def test_an_edit_that_no_worker_was_there_to_take_counts_as_unseen(desk: Desk) -> None:
    desk.publishing = ConfigError([build_problem("no worker is up", code="no-worker")])
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.untried) == ("build", True)
    assert desk.taken[-1] == ({}, ())
