"""How the daemon ends."""

from __future__ import annotations

import asyncio

import pytest

from routerd.daemon import drain as module
from routerd.daemon import tasks as tasks_module
from routerd.daemon.drain import Ending, drain
from routerd.daemon.tasks import Tasks


class Crew:
    def __init__(self) -> None:
        self.trace: list[str] = []
        self.finish = asyncio.Event()

    async def drain(self, timeout_s: float) -> None:
        self.trace.append(f"drain {timeout_s:g}")
        await self.finish.wait()


async def test_listeners_close_before_the_workers_drain() -> None:
    crew = Crew()
    crew.finish.set()
    done = await drain(Ending(), 30.0, close_listeners=lambda: crew.trace.append("close"), drain_workers=crew.drain)
    assert done
    assert crew.trace == ["close", "drain 30"]


async def test_a_second_signal_ends_the_wait() -> None:
    crew, ending = Crew(), Ending()
    ending.signalled()
    assert ending.asked.is_set()
    assert not ending.now.is_set()
    waiting = asyncio.ensure_future(drain(ending, 30.0, close_listeners=lambda: None, drain_workers=crew.drain))
    while not crew.trace:
        await asyncio.sleep(0)
    ending.signalled()
    assert await waiting is False


async def test_what_is_not_finished_by_the_timeout_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    assert await drain(Ending(), 0.0, close_listeners=lambda: None, drain_workers=Crew().drain) is False


async def test_a_task_that_loses_one_cancel_to_a_library_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "AGAIN_S", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.Event().wait()

    tasks = Tasks()
    task = tasks.start(stubborn(), "stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.cancel()
    assert task.cancelled()
    assert swallowed == 1


async def test_a_task_that_fails_is_logged_at_once_and_the_others_are_cancelled_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise RuntimeError("a bug")

    failed = tasks.start(fail(), "broken")
    other = tasks.start(asyncio.Event().wait(), "other")
    await asyncio.wait([failed])
    await asyncio.sleep(0)
    assert "task broken failed" in caplog.text
    assert "a bug" in caplog.text
    await tasks.cancel()
    assert other.cancelled()
