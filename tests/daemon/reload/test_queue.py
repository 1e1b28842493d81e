"""One queue, one path, one word for each outcome; success is told last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from routerd.config import Kept
from routerd.daemon.reload import RESULTS, TRIGGERS, Outcome, Reloader, Steps, Teller
from routerd.daemon.workers.generation import Package, WorkerGone, build_problem
from routerd.errors import ConfigError, Problem
from routerd.graph import Graph
from routerd.observe import Metrics
from tests.daemon.fakes import graph, problem, until

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
    kept: Kept = field(default_factory=lambda: Kept(main="/routes.yaml", files={}))
    origins: Mapping[str, str] = field(default_factory=dict)


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
    wordless: bool = False

    def __post_init__(self) -> None:
        self.may_publish.set()
        self.told: list[Outcome] = []
        self.reloader = Reloader(
            Steps(
                load=self._load,
                gate=lambda graph: self.refused,
                compare=self._compare,
                publish=self._publish,
            ),
            _Inputs(self),
            Teller(self.metrics, lambda problems: "\n".join(p.code for p in problems)),
            main=MAIN,
            clock=lambda: self.now_s,
            wall=lambda: 1000.0 + self.now_s,
        )
        self.reloader.listeners.append(self.told.append)

    def before_load(self) -> str:
        return f"look {self.loads}"

    def taken_(self, before: Any, paths: Sequence[Path]) -> None:
        self.taken.append((before, tuple(paths)))

    def _load(self, kept: Kept | None) -> Loaded:
        self.loads += 1
        if kept is not None:
            return Loaded(graph(kept.main), kept=kept)
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

    def _compare(self, old: Graph, new: Graph) -> tuple[str, ...]:
        if self.wordless:
            raise KeyError("words")
        return (f"{old.digest} -> {new.digest}",)

    def value(self, name: str, *labels: str) -> float:
        return self.metrics.snapshot().values.get((name, labels), -1.0)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
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
    assert desk.at_publish == [0.0]
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


async def test_who_saw_the_edit_too_can_wait_for_the_reload_that_reads_it(desk: Desk) -> None:
    assert not await desk.reloader.waited()
    desk.may_publish.clear()
    asked = desk.reloader.request("api")
    await until(lambda: desk.loads)
    waiting = asyncio.create_task(desk.reloader.waited())
    await asyncio.sleep(0)
    assert not waiting.done()
    desk.may_publish.set()
    assert await waiting
    assert asked.done()
    assert not await desk.reloader.waited()
    assert desk.loads == 1


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


# ── the shrink guard ──


async def test_half_a_file_is_refused_unless_that_is_meant(desk: Desk) -> None:
    desk.file = Loaded(graph("a", routes=20))
    await desk.reloader.request("start")
    desk.file = Loaded(graph("b", routes=5))
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.generation, outcome.ok) == ("shrink_guard", 1, False)
    assert "15 of 21 models" in outcome.problems[0].message
    assert desk.value("routerd_config_reloads_total", "file", "shrink_guard") == 1
    assert desk.reloader.drifts
    assert (await desk.reloader.request("api", allow_removal=True)).result == "applied"
    assert not desk.reloader.drifts


async def test_an_empty_file_is_told_by_the_guard_and_at_the_start_by_its_stage(desk: Desk) -> None:
    empty = Problem(stage="yaml", code="empty-file", path="", message="the file is empty", file="routes.yaml", line=1, column=1)
    desk.file = ConfigError([empty])
    assert (await desk.reloader.request("start")).result == "yaml"
    desk.file = Loaded(graph("a"))
    await desk.reloader.request("file")
    desk.file = ConfigError([empty])
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.problems[0].file, outcome.problems[0].line) == ("shrink_guard", "routes.yaml", 1)


async def test_a_waiting_reload_takes_over_what_a_later_caller_allows(desk: Desk) -> None:
    desk.file = Loaded(graph("a", routes=20))
    await desk.reloader.request("start")
    desk.file = Loaded(graph("b"))
    first = desk.reloader.request("file")
    assert desk.reloader.request("api", allow_removal=True) is first
    assert (await first).result == "applied"


# ── history and rollback ──


async def test_a_change_that_has_no_words_is_applied_all_the_same(desk: Desk) -> None:
    await serve(desk, "a", "b")
    assert desk.told[-1].changes == ("a -> b",)
    desk.wordless = True
    await serve(desk, "c")
    assert desk.told[-1].changes == ()


async def serve(desk: Desk, *digests: str) -> None:
    for digest in digests:
        desk.file = Loaded(graph(digest))
        assert (await desk.reloader.request("file")).result == "applied"


async def test_a_rollback_serves_the_old_content_under_a_new_number(desk: Desk) -> None:
    await serve(desk, "a", "b")
    first = desk.reloader.history.find(1)
    assert first is not None
    outcome = await desk.reloader.roll_back(first)
    assert (outcome.result, outcome.trigger, outcome.rolled_back_to) == ("applied", "rollback", 1)
    assert (outcome.generation, outcome.digest, outcome.event) == (3, "a", "rolled_back")
    assert outcome.changes == ("b -> a",)
    assert desk.published[-1].number == 3
    assert desk.value("routerd_config_info", "a", "3", "file") == 1
    assert desk.reloader.drifts
    assert [e.package.number for e in desk.reloader.history._entries] == [1, 2, 3]
    assert desk.reloader.history.find(3).rollback_of == 1  # type: ignore[union-attr]


async def test_what_was_rolled_back_is_not_taken_up_again_by_the_watcher_but_by_who_asks(desk: Desk) -> None:
    await serve(desk, "a", "b")
    await desk.reloader.roll_back(desk.reloader.history.find(1))  # type: ignore[arg-type]
    outcome = await desk.reloader.request("file")
    assert (outcome.result, outcome.digest) == ("reverted", "a")
    assert (await desk.reloader.request("api")).digest == "b"
    assert not desk.reloader.drifts


async def test_after_a_rollback_a_changed_file_is_taken_up(desk: Desk) -> None:
    await serve(desk, "a", "b")
    await desk.reloader.roll_back(desk.reloader.history.find(1))  # type: ignore[arg-type]
    await serve(desk, "c")
    await serve(desk, "b")  # a new change back to it is a change, too


async def test_what_probation_rolled_back_is_out_for_everybody_until_the_file_changes(desk: Desk) -> None:
    await serve(desk, "a", "b")
    why = (problem("probation", "reverted"),)
    outcome = await desk.reloader.roll_back(desk.reloader.history.find(1), "probation", why)  # type: ignore[arg-type]
    assert (outcome.result, outcome.trigger, outcome.digest, outcome.problems) == ("reverted", "probation", "a", why)
    assert desk.value("routerd_config_reloads_total", "probation", "reverted") == 1
    assert desk.reloader.history.find(2).reverted  # type: ignore[union-attr]
    for trigger in ("file", "api", "signal"):
        assert (await desk.reloader.request(trigger)).result == "reverted"
    await serve(desk, "c")


async def test_a_rollback_that_no_worker_can_build_changes_nothing(desk: Desk) -> None:
    await serve(desk, "a", "b")
    desk.publishing = ConfigError([build_problem("no")])
    outcome = await desk.reloader.roll_back(desk.reloader.history.find(1))  # type: ignore[arg-type]
    assert (outcome.result, outcome.digest, outcome.event) == ("build", "b", "reload_rejected")
    assert not desk.reloader.drifts


async def test_kept_inputs_serve_and_the_files_drift_until_they_are_right(desk: Desk) -> None:
    desk.file = ConfigError([problem()])
    await desk.reloader.request("start")
    looks = len(desk.taken)
    outcome = await desk.reloader.start_from(Kept(main="kept", files={}))
    assert (outcome.result, outcome.source, outcome.digest) == ("applied", "last_good", "kept")
    assert len(desk.taken) == looks
    assert desk.value("routerd_config_info", "kept", "1", "last_good") == 1
    assert desk.reloader.drifts
    desk.file = Loaded(graph("kept"))
    assert (await desk.reloader.request("file")).result == "unchanged"
    assert desk.value("routerd_config_info", "kept", "1", "file") == 1
    assert desk.value("routerd_config_info", "kept", "1", "last_good") == -1
    assert not desk.reloader.drifts


# ── one word ──


async def test_every_outcome_has_one_word_in_log_metric_event_and_answer(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "routerd")
    seen: dict[str, Outcome] = {}

    async def ends(reload: asyncio.Future[Outcome]) -> None:
        before = {key: desk.value("routerd_config_reloads_total", *key) for key in PAIRS}
        caplog.clear()
        outcome = await reload
        word = outcome.result
        after = {key: desk.value("routerd_config_reloads_total", *key) for key in PAIRS}
        assert [key for key in PAIRS if after[key] != before[key]] == [(outcome.trigger, word)]
        assert f"reload ({outcome.trigger}): {word}" in caplog.text
        assert desk.told[-1].as_json()["result"] == word  # what the API answers and the event carries
        assert desk.told[-1].event in ("reload_applied", "reload_unchanged", "reload_rejected", "rolled_back")
        seen[word] = outcome

    def files(file: Loaded | Exception) -> asyncio.Future[Outcome]:
        desk.file = file
        return desk.reloader.request("file")

    await ends(files(Loaded(graph("a", routes=20))))
    await ends(files(Loaded(graph("a", routes=20))))
    for stage in ("read", "yaml", "interpolate", "schema", "semantic", "tests"):
        await ends(files(ConfigError([problem(stage=stage)])))
    await ends(files(Loaded(graph("b"))))
    desk.publishing = ConfigError([build_problem("no")])
    await ends(files(Loaded(graph("b", routes=20))))
    desk.publishing = None
    await ends(files(Loaded(graph("b", routes=20))))
    await ends(desk.reloader.roll_back(desk.reloader.history.find(1), "probation"))  # type: ignore[arg-type]
    assert set(seen) == set(RESULTS)


PAIRS = [(trigger, result) for trigger in TRIGGERS for result in RESULTS]


async def test_every_label_set_is_there_from_the_start(desk: Desk) -> None:
    assert {desk.value("routerd_config_reloads_total", *pair) for pair in PAIRS} == {0.0}
    histograms = desk.metrics.snapshot().histograms
    for phase in ("load", "prepare", "commit"):
        assert ("routerd_config_reload_duration_seconds", (phase,)) in histograms
    assert ("routerd_config_detect_to_serve_seconds", ()) in histograms


async def test_a_listener_that_fails_neither_ends_reloading_nor_fails_what_serves(desk: Desk) -> None:
    def broken(*_: object) -> None:
        raise OSError("nobody listens")

    desk.reloader.before.append(broken)
    desk.reloader.listeners.insert(0, broken)
    assert (await desk.reloader.request("file")).result == "applied"
    assert desk.told[-1].result == "applied"
    assert (await desk.reloader.request("api")).result == "unchanged"
