"""What the kernel tells of real directories, and what is done where it has no room for that."""

from __future__ import annotations

import errno
import gc
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from routerd.daemon.watch import kernel as module
from routerd.daemon.watch.kernel import Came, Kernel


def watching(directory: Path) -> Kernel:
    made = Kernel()
    made.watch([str(directory)])
    return made


def renamed(path: Path) -> None:
    path.with_name(".fresh").write_text("new")
    os.replace(path.with_name(".fresh"), path)


def written(path: Path) -> None:
    path.write_text("new")


def written_and_left_open(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"new", 0)
    threading.Timer(2.0, os.close, [fd]).start()


def removed(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    os.symlink("elsewhere", path.with_name("..data"))


def hidden(path: Path) -> None:
    path.chmod(0)


def moved_with_its_directory(path: Path) -> None:
    os.rename(path.parent, path.parent.with_name("old"))


CHANGES = [renamed, written, written_and_left_open, removed, linked, hidden, moved_with_its_directory]


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
def test_every_way_to_change_is_told(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "conf" / "routes.yaml"
    path.parent.mkdir()
    path.write_text("old")
    kernel = watching(path.parent)
    assert kernel.wait(0.0) is Came.NOTHING
    change(path)
    assert kernel.wait(1.0) is Came.TOLD
    kernel.forget()
    assert kernel.wait(0.0) is Came.NOTHING


def test_what_is_watched_no_more_tells_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    kernel = watching(tmp_path / "a")
    kernel.watch([str(tmp_path / "b")])
    kernel.forget()  # that the first watch has ended
    (tmp_path / "a" / "f").write_text("x")
    assert kernel.wait(0.0) is Came.NOTHING
    (tmp_path / "b" / "f").write_text("x")
    assert kernel.wait(1.0) is Came.TOLD


def test_a_directory_that_took_the_place_of_another_is_watched_by_its_name(tmp_path: Path) -> None:
    place = tmp_path / "conf"
    place.mkdir()
    kernel = watching(place)
    os.rename(place, tmp_path / "old")
    place.mkdir()
    kernel.watch([str(place)])
    kernel.forget()
    (place / "f").write_text("x")
    assert kernel.wait(1.0) is Came.TOLD


def test_anybody_may_end_a_wait_and_it_is_not_forgotten(tmp_path: Path) -> None:
    kernel = watching(tmp_path)
    kernel.wake()
    assert kernel.wait(1.0) is Came.WOKEN
    assert kernel.wait(0.0) is Came.NOTHING
    threading.Timer(0.05, kernel.wake).start()
    assert kernel.wait(5.0) is Came.WOKEN


def test_only_file_systems_that_nobody_else_writes_to_tell_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Kernel().watch(["/dev/shm"])  # tmpfs
    assert not Kernel().watch(["/proc"])
    monkeypatch.setattr(module, "LOCAL", frozenset())
    assert not Kernel().watch([str(tmp_path)])


def test_what_is_gone_or_not_ours_to_read_is_not_told(tmp_path: Path) -> None:
    assert not Kernel().watch([str(tmp_path / "gone")])
    assert not Kernel().watch(["/dev/shm", str(tmp_path / "gone")])
    assert Kernel().watch(["/dev/shm"])


FULL = [OSError(errno.ENOSPC, "OS file watch limit reached."), WatchfilesRustInternalError("Error creating recommended watcher")]


@pytest.mark.parametrize("full", FULL, ids=["no watch left", "no instance left"])
def test_without_room_for_notifications_it_says_so_and_tries_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, full: Exception
) -> None:
    caplog.set_level(logging.INFO, "routerd")
    now_s, tries, has_room = 0.0, 0, False

    def notify(*options: object) -> RustNotify:
        nonlocal tries
        tries += 1
        if not has_room:
            raise full
        return RustNotify(*options)  # type: ignore[arg-type]  # as they came

    kernel = Kernel(clock=lambda: now_s, notify=notify)
    for _ in range(5):
        assert not kernel.watch([str(tmp_path)])
    assert (tries, caplog.text.count("no file notifications")) == (1, 1)
    assert str(full.args[-1]) in caplog.text
    assert kernel.wait(0.0) is Came.NOTHING
    now_s, has_room = module.RETRY_S, True
    kernel.watch([str(tmp_path)])
    (tmp_path / "f").write_text("x")
    assert kernel.wait(1.0) is Came.TOLD


def test_no_descriptor_outlives_it(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    watching(tmp_path)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
