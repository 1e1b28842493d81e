"""When a change is complete: the decision with made-up looks, then every kind of writer on a real file system."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from routerd.daemon.reload.watch import MISSING, Eyes, Settle, Sign, Watcher, directories, look_at, notifications

F = Path("/etc/routerd/routes.yaml")


def sign(inode: int = 1, mtime: int = 1, sha256: str = "a", links: tuple[tuple[str, str], ...] = ()) -> Sign:
    return Sign(links=links, identity=(1, inode), state=(mtime, mtime, 10), sha256=sha256)


def taken_up_at(looks: list[tuple[float, Sign]], *, written: bool = False) -> list[float]:
    """Return the moments at which the inputs would be loaded, each load taking up what was seen."""
    settle = Settle()
    settle.take({F: sign()})
    out = []
    for now_s, seen in looks:
        if settle.see({F: seen}, now_s, written=written):
            out.append(now_s)
            settle.take({F: seen})
    return out


def every_50_ms(*signs: Sign) -> list[tuple[float, Sign]]:
    return [(i / 20, seen) for i, seen in enumerate(signs)]


def test_nothing_happens_while_nothing_changes() -> None:
    assert taken_up_at(every_50_ms(sign(), sign(), sign())) == []


def test_a_replaced_file_is_taken_up_when_two_looks_agree() -> None:
    assert taken_up_at(every_50_ms(sign(), sign(2), sign(2), sign(2))) == [0.1]


def test_a_file_written_in_place_needs_twice_the_time_because_chunks_may_follow() -> None:
    assert taken_up_at(every_50_ms(sign(mtime=2), sign(mtime=2), sign(mtime=2), sign(mtime=2))) == [0.1]


def test_a_writer_that_goes_on_is_waited_for_but_at_most_one_second() -> None:
    assert taken_up_at(every_50_ms(*(sign(mtime=i) for i in range(2, 30)))) == [1.0]


def test_a_file_that_somebody_has_open_for_writing_is_waited_for_but_at_most_one_second() -> None:
    assert taken_up_at(every_50_ms(*(sign(mtime=2) for _ in range(30))), written=True) == [1.0]


def test_a_missing_file_may_come_back_within_one_second() -> None:
    assert taken_up_at(every_50_ms(MISSING, *[MISSING] * 10, sign(2), sign(2), sign(2))) == [0.6]
    assert taken_up_at(every_50_ms(*[MISSING] * 30)) == [1.0]


def test_a_change_that_is_taken_back_is_none() -> None:
    assert taken_up_at(every_50_ms(sign(2), sign(), sign(), sign(2), sign())) == []


def test_other_content_behind_the_same_stat_is_a_change() -> None:
    assert taken_up_at(every_50_ms(sign(), sign(sha256="b"), sign(sha256="b"), sign(sha256="b"))) == [0.15]


def test_another_link_text_is_a_change() -> None:
    moved = sign(links=(("/etc/routerd/..data", "..2"),), inode=2)
    assert taken_up_at(every_50_ms(sign(), moved, moved)) == [0.1]


def test_the_first_the_second_and_the_tenth_change_are_all_seen() -> None:
    looks = every_50_ms(*(sign(2 + i // 4) for i in range(40)))
    assert len(taken_up_at(looks)) == 10


def test_what_changes_during_the_load_is_seen_after_it() -> None:
    settle = Settle()
    before = {F: sign(2)}  # looked at, then read; meanwhile the writer replaced it again
    settle.take(before)
    assert not settle.see({F: sign(3)}, 0.0)
    assert settle.see({F: sign(3)}, 0.05)


def test_a_path_that_was_not_looked_at_before_the_load_is_loaded_once_more() -> None:
    settle = Settle()
    settle.take({F: sign()})
    both = {F: sign(), Path("/prompt.md"): sign(9)}
    assert not settle.see(both, 0.0)
    assert settle.see(both, 0.05)
    settle.take(both)
    assert not settle.see(both, 0.1)


# ── real files ──


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
    monkeypatch.setattr("routerd.daemon.reload.watch.look_at", lambda path: Sign(identity=(1, 1), state=(1, 1, 3)))
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
        def look(self, paths, *, content):  # type: ignore[no-untyped-def]
            if failures < 100:
                raise RuntimeError("the file system has gone mad")
            return super().look(paths, content=content)

    watcher = Watcher([path], load, clock=iter(range(10_000)).__next__, failed=failed)
    watcher._eyes = Blind()
    watcher._wake.wait = _at_once  # type: ignore[method-assign]
    monkeypatch.setattr("routerd.daemon.reload.watch.asyncio.sleep", _at_once)
    with pytest.raises(Stop):
        await watcher.run()
    assert failures == 100
    assert len(loads) == 1


async def _at_once(*_: object) -> bool:
    return True


def test_a_loop_of_links_is_missing_not_an_error(tmp_path: Path) -> None:
    os.symlink("b", tmp_path / "a")
    os.symlink("a", tmp_path / "b")
    assert look_at(tmp_path / "a") == MISSING


def test_links_are_named_in_the_order_they_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("x")
    os.symlink(tmp_path / "real", tmp_path / "dir")
    os.symlink("dir/../real/f", tmp_path / "file")
    links = [(os.path.basename(place), text) for place, text in look_at(tmp_path / "file").links]
    assert links == [("file", "dir/../real/f"), ("dir", str(tmp_path / "real"))]


def test_directories_are_those_of_the_links_and_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "f").write_text("x")
    os.symlink("../b/f", tmp_path / "a" / "f")
    assert directories([tmp_path / "a" / "f"]) == {tmp_path / "a", tmp_path / "b"}


async def test_notifications_wake_the_watcher_and_follow_moved_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
        (place / "f").write_text("x")
    paths = [places[0] / "f"]
    watched: list[set[Path]] = []
    wakes: list[int] = []

    async def awatch(*directories: Path, **_: object) -> AsyncIterator[set[str]]:
        watched.append(set(directories))
        yield {"a change"}
        paths[0] = places[1] / "f"
        yield {"another"}
        raise asyncio.CancelledError

    monkeypatch.setattr("watchfiles.awatch", awatch)
    with pytest.raises(asyncio.CancelledError):
        await notifications(lambda: paths, lambda: wakes.append(1))
    assert watched == [{places[0]}, {places[1]}]
    assert len(wakes) == 4


async def test_without_kernel_notifications_it_says_so_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def awatch(*directories: Path, **_: object) -> AsyncIterator[set[str]]:
        nonlocal tries
        tries += 1
        if tries == 3:
            raise asyncio.CancelledError
        raise OSError(errno.ENOSPC, "no space left for watches")

    monkeypatch.setattr("watchfiles.awatch", awatch)
    caplog.set_level(logging.INFO, "routerd")
    with pytest.raises(asyncio.CancelledError):
        await notifications(lambda: [tmp_path / "f"], lambda: None, retry_s=0.0)
    assert "polling each 50 ms does the work" in caplog.text


async def test_a_cancel_that_meets_a_notification_is_not_lost(tmp_path: Path) -> None:
    async def nothing(_: float = 0.0) -> None:
        return

    watcher = Watcher([tmp_path / "f"], nothing, clock=lambda: 0.0)
    watcher.step = nothing  # type: ignore[method-assign]
    running = asyncio.create_task(watcher.run())
    for _ in range(3):
        await asyncio.sleep(0)
    watcher.wake()
    running.cancel()
    await asyncio.wait([running], timeout=1.0)
    assert running.cancelled()


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


def test_a_file_that_goes_while_it_is_looked_at_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("a")
    monkeypatch.setattr("routerd.daemon.reload.watch._content_hash", lambda _: "ENOENT")
    assert Eyes().look([path], content=True) == {path: MISSING}
