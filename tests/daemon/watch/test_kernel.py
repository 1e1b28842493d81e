"""What inotify tells of real directories, and what is done where it has no room."""

from __future__ import annotations

import errno
import gc
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from routerd.daemon.watch import kernel as module
from routerd.daemon.watch.kernel import Came, Kernel
from routerd.daemon.watch.look import parents


def watching(directory: Path, *files: Path) -> Kernel:
    made = Kernel()
    made.watch([str(directory)], [str(file) for file in files], parents([str(directory)]))
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


def moved_with_what_is_above(path: Path) -> None:
    os.rename(path.parents[1], path.parents[1].with_name("old"))


CHANGES = [
    renamed, written, written_and_left_open, removed, linked, hidden, moved_with_its_directory, moved_with_what_is_above,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
def test_every_way_to_change_is_told(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "above" / "conf" / "routes.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("old")
    kernel = watching(path.parent, path)
    assert kernel.wait(0.0) is Came.NOTHING
    change(path)
    assert kernel.wait(1.0) is Came.TOLD
    kernel.forget()
    assert kernel.wait(0.0) is Came.NOTHING


def test_a_log_that_grows_beside_the_inputs_wakes_nobody(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("x")
    with open(tmp_path / "log", "w") as log:
        kernel = watching(tmp_path, path)
        log.write("a line")
        log.flush()
        assert kernel.wait(0.0) is Came.NOTHING


def test_what_is_watched_no_more_tells_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    kernel = watching(tmp_path / "a")
    kernel.watch([str(tmp_path / "b")], [], [])
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
    kernel.watch([str(place)], [], [])
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
    assert Kernel().watch(["/dev/shm"], [], [])  # tmpfs
    assert not Kernel().watch(["/proc"], [], [])
    monkeypatch.setattr(module, "LOCAL", frozenset())
    assert not Kernel().watch([str(tmp_path)], [], [])


def test_what_is_gone_or_not_ours_to_read_is_not_told(tmp_path: Path) -> None:
    assert not Kernel().watch([str(tmp_path / "gone")], [], [])
    assert Kernel().watch(["/dev/shm"], [str(tmp_path / "gone")], [])  # a file may go at any time: its directory tells


def test_without_room_for_notifications_it_says_so_and_tries_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "routerd")
    now_s, tries = 0.0, 0

    class Full:
        def inotify_init1(self, _: int) -> int:
            nonlocal tries
            tries += 1
            module.ctypes.set_errno(errno.EMFILE)
            return -1

    kernel = Kernel(clock=lambda: now_s)
    real, kernel._libc = kernel._libc, Full()  # type: ignore[assignment]  # a C library that has no more
    for _ in range(5):
        assert not kernel.watch([str(tmp_path)], [], [])
    assert (tries, caplog.text.count("no file notifications (Too many open files)")) == (1, 1)
    assert kernel.wait(0.0) is Came.NOTHING
    now_s, kernel._libc = module.RETRY_S, real
    kernel.watch([str(tmp_path)], [], [])
    (tmp_path / "f").write_text("x")
    assert kernel.wait(1.0) is Came.TOLD


def test_no_descriptor_outlives_it(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    watching(tmp_path)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
