"""Every kind of writer on a real file system, looked at with a clock of its own; and that the loop around it cannot die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from routerd.daemon.watch.eyes import Eyes
from routerd.daemon.watch.look import Sign
from routerd.daemon.watch.watcher import Watcher
from tests.support.daemon import until


def in_place(path: Path, text: str) -> None:
    with open(path, "r+") as file:
        file.write(text)
        file.truncate()


def truncated_first(path: Path, text: str) -> None:
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    fresh = path.with_name(".fresh")
    fresh.write_text(text)
    os.replace(fresh, path)


def like_vim(path: Path, text: str) -> None:
    os.replace(path, path.with_name(path.name + "~"))
    path.write_text(text)


def deleted_and_created(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def same_size_and_mtime(path: Path, text: str) -> None:
    found = path.stat()
    in_place(path, text)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


WRITERS = [in_place, truncated_first, renamed, like_vim, deleted_and_created, same_size_and_mtime]


class Clocked:
    """A watcher over real files with a clock of its own; every load reads the file and keeps the text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_s = 0.0
        self.texts: list[str] = []
        self.present: list[bool] = []
        self.watcher = Watcher([path], self.load, clock=lambda: self.now_s, looked=self.present.append)

    async def load(self, _seen_at_s: float) -> None:
        before = self.watcher.before_load()
        try:
            self.texts.append(self.path.read_text())
        except OSError:
            self.texts.append("unreadable")
        self.watcher.taken(before, [self.path])

    async def look_for(self, length_s: float) -> list[str]:
        """Look each 50 ms of made-up time; return what was loaded."""
        already = len(self.texts)
        for _ in range(round(length_s / 0.05)):
            self.now_s += 0.05
            await self.watcher.step()
        return self.texts[already:]


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__)
async def test_every_way_to_write_is_seen_each_time(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("text 00")
    watched = Clocked(path)
    await watched.load(0.0)
    for i in range(1, 11):
        write(path, f"text {i:02}")
        assert await watched.look_for(1.5) == [f"text {i:02}"]


async def test_same_stat_and_other_content_is_seen_by_the_content_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("one")
    monkeypatch.setattr("routerd.daemon.watch.eyes.look_at", lambda path: Sign(identity=(1, 1), state=(1, 1, 3)))
    watched = Clocked(path)
    await watched.load(0.0)
    for text in ("two", "six", "ten"):
        path.write_text(text)
        assert await watched.look_for(1.2) == [text]


def swap_config_map(directory: Path, name: str, text: str) -> None:
    """Do what a kubelet does: a new directory, then `..data` renamed onto it, then the old one removed."""
    data = directory / "..data"
    old = os.readlink(data) if data.is_symlink() else None
    fresh = directory / f"..{name}"
    fresh.mkdir()
    (fresh / "routes.yaml").write_text(text)
    os.symlink(fresh.name, directory / "..data_tmp")
    os.replace(directory / "..data_tmp", data)
    if old is not None:
        (directory / old / "routes.yaml").unlink()
        (directory / old).rmdir()


async def test_a_config_map_swap_is_seen_each_time(tmp_path: Path) -> None:
    swap_config_map(tmp_path, "v0", "text 0")
    os.symlink("..data/routes.yaml", tmp_path / "routes.yaml")
    watched = Clocked(tmp_path / "routes.yaml")
    await watched.load(0.0)
    for i in range(1, 11):
        swap_config_map(tmp_path, f"v{i}", f"text {i}")
        assert await watched.look_for(0.5) == [f"text {i}"]


async def test_a_swap_of_a_link_above_the_directory_is_seen(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"rev{i}" / "conf").mkdir(parents=True)
        (tmp_path / f"rev{i}" / "conf" / "routes.yaml").write_text(f"text {i}")
    os.symlink("rev0", tmp_path / "current")
    watched = Clocked(tmp_path / "current" / "conf" / "routes.yaml")
    await watched.load(0.0)
    for i in range(1, 4):
        os.symlink(f"rev{i}", tmp_path / "next")
        os.replace(tmp_path / "next", tmp_path / "current")
        assert await watched.look_for(0.5) == [f"text {i}"]


@pytest.mark.parametrize("pause_s", [0.01, 0.04, 0.09, 0.4])
async def test_a_writer_in_chunks_is_never_read_half_way(tmp_path: Path, pause_s: float) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("old")
    watched = Clocked(path)
    await watched.load(0.0)
    loaded = []
    with open(path, "w") as file:
        for chunk in ("a: 1\n", "b: 2\n"):
            file.write(chunk)
            file.flush()
            loaded += await watched.look_for(max(pause_s, 0.05))
    loaded += await watched.look_for(1.5)
    assert loaded == ["a: 1\nb: 2\n"]


async def test_a_writer_in_chunks_that_closes_in_between_is_waited_for_90_ms(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("old")
    watched = Clocked(path)
    await watched.load(0.0)
    path.write_text("a: 1\n")
    loaded = await watched.look_for(0.1)
    with open(path, "a") as file:
        file.write("b: 2\n")
    loaded += await watched.look_for(1.0)
    assert loaded == ["a: 1\nb: 2\n"]


async def test_a_file_that_is_gone_is_told_and_loaded_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("old")
    watched = Clocked(path)
    await watched.load(0.0)
    path.unlink()
    assert await watched.look_for(10.0) == ["unreadable"]
    assert watched.present[-1] is False
    path.write_text("new")
    assert await watched.look_for(0.5) == ["new"]
    assert watched.present[-1] is True


async def test_a_file_that_becomes_readable_again_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("old")
    watched = Clocked(path)
    path.chmod(0)
    await watched.load(0.0)
    path.chmod(0o600)
    assert await watched.look_for(0.5) == ["old"]


async def test_the_watcher_outlives_a_hundred_failing_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("old")
    failures = 0
    loads: list[float] = []

    def failed() -> None:
        nonlocal failures
        failures += 1

    async def load(seen_at_s: float) -> None:
        loads.append(seen_at_s)
        watcher.taken(watcher.before_load(), [path])
        raise Stop

    class Stop(BaseException):
        pass

    class Blind(Eyes):
        def look(self, paths, *, content=None):  # type: ignore[no-untyped-def]
            if failures < 100:
                raise RuntimeError("the file system has gone mad")
            return super().look(paths, content=content)

    watcher = Watcher([path], load, clock=iter(range(10_000)).__next__, failed=failed, eyes=Blind())
    monkeypatch.setattr("routerd.daemon.watch.watcher.asyncio.sleep", _at_once)
    with pytest.raises(Stop):
        await watcher.run()
    assert failures == 100
    assert len(loads) == 1


async def _at_once(_: float) -> None:
    return


@contextlib.asynccontextmanager
async def watched(path: Path) -> AsyncIterator[list[str]]:
    """Watch `path` in real time; give the texts that were loaded."""
    texts: list[str] = []

    async def load(_: float) -> None:
        watcher.taken(watcher.before_load(), [path])
        texts.append(path.read_text())

    watcher = Watcher([path], load, clock=time.monotonic)
    running = asyncio.create_task(watcher.run())
    await until(lambda: texts)
    yield texts
    running.cancel()
    await asyncio.wait([running], timeout=1.0)
    assert running.cancelled()


async def test_the_loop_sees_each_change_while_it_rests_and_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("text 0")
    async with watched(path) as texts:
        for text in ("text 1", "text 2"):
            renamed(path, text)
            await until(lambda text=text: texts[-1] == text)  # type: ignore[misc]  # has a default
    assert texts == ["text 0", "text 1", "text 2"]


async def test_a_file_that_goes_and_comes_back_is_told_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    now_s = 0.0

    async def load(_: float) -> None:
        watcher.taken(watcher.before_load(), [path])

    watcher = Watcher([path], load, clock=lambda: now_s)
    await load(0.0)
    caplog.set_level(logging.INFO, "routerd")
    path.unlink()
    for _ in range(8):
        await watcher.step()
        now_s += 0.1
    path.write_text("x")
    await watcher.step()
    assert caplog.text == ""
    path.unlink()
    for _ in range(40):
        now_s += 0.1
        await watcher.step()
    path.write_text("x")
    for _ in range(5):
        now_s += 0.1
        await watcher.step()
    assert (caplog.text.count("is missing"), caplog.text.count("is back")) == (1, 1)
