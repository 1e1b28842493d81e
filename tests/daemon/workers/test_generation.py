"""Packing, pieces, and the two phases: all workers swap or none does."""

from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from routerd.config import load
from routerd.daemon.workers import generation as module
from routerd.daemon.workers.channel import Committed, Piece, Prepare, Prepared
from routerd.daemon.workers.generation import ITEMS_A_PIECE, Assembly, Package, WorkerGone, pack, publish, unpack
from routerd.errors import ConfigError
from routerd.graph import Provider
from tests.config.test_schema import CHANGES, changed
from tests.daemon.fakes import graph, problem

PACKAGE = Package(number=7, digest="d", frames=(), models=(), open=True)


class Port:
    """A scripted worker. `prepared` and `committed`: an answer, an exception, or None for silence."""

    def __init__(self, index: int, trace: list[str], prepared: object = "ok", committed: object = "ok") -> None:
        self.index = index
        self.trace = trace
        self.answers = {"prepare": prepared, "commit": committed}

    async def _answer(self, phase: str) -> None:
        self.trace.append(f"{phase} {self.index}")
        answer = self.answers[phase]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer

    async def prepare(self, package: Package) -> Prepared:
        await self._answer("prepare")
        refused = self.answers["prepare"] == "refuse"
        return Prepared(package.number, (problem(stage="build"),) if refused else (), 0.25 * self.index)

    async def commit(self, number: int) -> Committed:
        await self._answer("commit")
        return Committed(number, 0.5)

    def abort(self, number: int) -> None:
        self.trace.append(f"abort {self.index}")

    def condemn(self, reason: str) -> None:
        self.trace.append(f"condemn {self.index}")


def test_a_graph_arrives_as_it_was_sent_in_small_pieces() -> None:
    original = graph(routes=2 * ITEMS_A_PIECE + 3, clients=True)
    package = pack(4, original)
    *pieces, last = [pickle.loads(frame[4:]) for frame in package.frames]
    assert last == Prepare(4, original.digest)
    assembly = Assembly(4)
    for piece in pieces:
        assert isinstance(piece, Piece)
        assert piece.form != "mapping" or len(piece.items) <= ITEMS_A_PIECE
        assembly.add(piece)
    arrived = assembly.graph()
    assert arrived == original
    assert list(arrived.routes) == list(original.routes)
    assert arrived.patterns[0] is arrived.routes["x-*"]
    assert arrived.providers["p"].auth.secret is not None
    assert arrived.providers["p"].auth.secret.reveal() == "sk-hidden"


@pytest.mark.parametrize("key", CHANGES)
def test_what_any_key_of_the_schema_says_arrives_as_it_was_sent(key: str, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("models: {more: {chain: [a/x]}}")
    (tmp_path / "key").write_text("from the file")
    (tmp_path / "prompt.md").write_text("a prompt")
    file = tmp_path / "routes.yaml"
    file.write_text(json.dumps(changed(CHANGES[key])))
    original = load(file, {"KEY": "from the environment"}).graph
    assert unpack(pack(1, original)) == original


def test_an_absent_clients_block_is_not_an_empty_one() -> None:
    assembly = Assembly(1)
    for frame in pack(1, graph(clients=False)).frames[:-1]:
        assembly.add(pickle.loads(frame[4:]))
    assert assembly.graph().clients is None


def test_a_package_names_what_is_offered_but_no_pattern() -> None:
    package = pack(1, graph(routes=2))
    assert package.models == ("m0", "m1")
    assert package.open
    assert not pack(1, graph(clients=True)).open


async def test_every_worker_builds_before_any_swaps_and_control_adopts_in_between() -> None:
    trace: list[str] = []
    ports = [Port(i, trace) for i in (0, 1)]
    times = await publish(ports, PACKAGE, timeout_s=60, adopt=lambda: trace.append("adopt"))
    assert trace == ["prepare 0", "prepare 1", "adopt", "commit 0", "commit 1"]
    assert times == (0.25, 0.5)


async def test_one_worker_that_cannot_build_means_nobody_swaps() -> None:
    trace: list[str] = []
    ports = [Port(0, trace), Port(1, trace, prepared="refuse")]
    with pytest.raises(ConfigError) as caught:
        await publish(ports, PACKAGE, timeout_s=60, adopt=lambda: trace.append("adopt"))
    assert caught.value.stage == "build"
    assert trace == ["prepare 0", "prepare 1", "abort 0", "abort 1"]


async def test_a_worker_that_is_silent_while_building_means_nobody_swaps() -> None:
    trace: list[str] = []
    ports = [Port(0, trace), Port(1, trace, prepared=None)]
    with pytest.raises(ConfigError, match="1 problem") as caught:
        await publish(ports, PACKAGE, timeout_s=0, adopt=lambda: trace.append("adopt"))
    assert caught.value.problems[0].code == "build-timeout"
    assert "adopt" not in trace
    assert trace[-2:] == ["abort 0", "abort 1"]


async def test_a_worker_that_dies_while_building_means_nobody_swaps() -> None:
    trace: list[str] = []
    with pytest.raises(WorkerGone):
        await publish(
            [Port(0, trace, prepared=WorkerGone("worker 0 died")), Port(1, trace)],
            PACKAGE,
            timeout_s=60,
            adopt=lambda: trace.append("adopt"),
        )
    assert trace[-2:] == ["abort 0", "abort 1"]


async def test_a_fault_of_control_between_the_phases_means_nobody_swaps() -> None:
    trace: list[str] = []

    def fault() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        await publish([Port(0, trace), Port(1, trace)], PACKAGE, timeout_s=60, adopt=fault)
    assert trace == ["prepare 0", "prepare 1", "abort 0", "abort 1"]


async def test_a_worker_that_dies_while_swapping_is_left_to_its_replacement() -> None:
    trace: list[str] = []
    ports = [Port(0, trace, committed=WorkerGone("worker 0 died")), Port(1, trace)]
    await publish(ports, PACKAGE, timeout_s=60, adopt=lambda: trace.append("adopt"))
    assert trace[-3:] == ["adopt", "commit 0", "commit 1"]


async def test_a_worker_that_does_not_swap_is_ended_for_it_would_serve_the_old_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_TIMEOUT_S", 0.0)
    trace: list[str] = []
    await publish([Port(0, trace, committed=None)], PACKAGE, timeout_s=60, adopt=lambda: None)
    assert trace[-1] == "condemn 0"


async def test_a_cancel_while_building_leaves_everything_as_it_was() -> None:
    trace: list[str] = []
    task = asyncio.ensure_future(
        publish([Port(0, trace, prepared=None)], PACKAGE, timeout_s=60, adopt=lambda: trace.append("adopt"))
    )
    while not trace:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert trace == ["prepare 0", "abort 0"]


def test_a_package_says_what_is_disabled_and_why() -> None:
    off = Provider(name="p", dialect="openai", endpoints=(), disabled="KEY is not set")
    package = pack(1, replace(graph(), providers={"p": off}, disabled_clients={"c": "no key"}))
    assert package.disabled == {"providers.p": "KEY is not set", "clients.c": "no key"}
