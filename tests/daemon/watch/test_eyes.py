"""How often somebody looks: seldom while the kernel tells of every change, each 50 ms where it does not. Time is made up."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from routerd.daemon.watch.eyes import POLL_S, SOON_S, Eyes
from routerd.daemon.watch.kernel import Came
from routerd.daemon.watch.look import MISSING, Look

IDLE_S = 20


class Scripted:
    """A kernel whose waits take no time. `at` says what happens when, and what a wait that meets it returns."""

    def __init__(self, *, tells: bool = True) -> None:
        self.now_s = 100.0
        self.tells = tells
        self.waits: list[float] = []
        self.sleeps: list[float] = []
        self.watched: list[set[str]] = []
        self.at: list[tuple[float, Callable[[], None], Came]] = []

    def watch(self, directories: Iterable[str]) -> bool:
        self.watched.append(set(directories))
        return self.tells

    def wait(self, timeout_s: float) -> Came:
        if timeout_s:
            self.waits.append(timeout_s)
        ends_at_s = self.now_s + timeout_s
        if self.at and self.at[0][0] <= ends_at_s:
            at_s, happens, came = self.at.pop(0)
            happens()
            self.now_s = max(self.now_s, at_s) if came is not Came.NOTHING else ends_at_s
            return came
        self.now_s = ends_at_s
        return Came.NOTHING

    def forget(self) -> None: ...

    def wake(self) -> None: ...

    def sleep(self, length_s: float) -> None:
        self.sleeps.append(length_s)
        self.now_s += length_s


class Room:
    """Eyes on one file."""

    def __init__(self, directory: Path, *, tells: bool = True) -> None:
        self.path = directory / "routes.yaml"
        self.path.write_text("one")
        self.kernel = Scripted(tells=tells)
        self.eyes = Eyes(self.kernel, clock=lambda: self.kernel.now_s, sleep=self.kernel.sleep)
        self.looks: list[Look] = []

    def await_change(self) -> float:
        """Return how long it took until another look was worth it."""
        began_s = self.kernel.now_s
        seen = self.eyes.look([self.path], content=True)
        self.eyes.await_change([self.path], seen, self.looks.append)
        return self.kernel.now_s - began_s

    def after(self, length_s: float, happens: Callable[[], object], came: Came = Came.TOLD) -> None:
        self.kernel.at.append((self.kernel.now_s + length_s, lambda: (happens(), None)[1], came))


def nothing() -> None: ...


def test_one_wake_a_second_is_all_while_nothing_happens(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.after(IDLE_S, nothing, Came.WOKEN)
    assert room.await_change() == pytest.approx(IDLE_S)
    assert len(room.kernel.waits) == IDLE_S
    assert len(room.looks) == IDLE_S
    assert len(room.kernel.watched) == 1
    assert room.kernel.sleeps == []


def test_an_idle_second_reads_each_input_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path)
    reads: list[Path] = []
    monkeypatch.setattr("routerd.daemon.watch.eyes._content_hash", lambda path: reads.append(path) or "same")
    room.after(IDLE_S, nothing, Came.WOKEN)
    room.await_change()
    assert IDLE_S - 1 <= len(reads) <= IDLE_S + 2


def test_where_the_kernel_does_not_tell_the_files_are_asked_each_50_ms(tmp_path: Path) -> None:
    room = Room(tmp_path, tells=False)
    room.after(0.42, lambda: room.path.write_text("other"), Came.NOTHING)
    assert room.await_change() == pytest.approx(0.45)
    assert max(room.kernel.waits) == POLL_S


def test_what_the_kernel_tells_is_looked_at_when_its_writer_had_time_for_one_more_step(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.after(0.3, lambda: room.path.write_text("other"))
    assert room.await_change() == pytest.approx(0.3 + SOON_S)
    room.after(0.3, lambda: os.replace(room.path, tmp_path / "away"))
    assert room.await_change() == pytest.approx(0.3 + SOON_S)


def test_others_who_write_beside_the_inputs_wake_no_more_than_the_poll_would(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for _ in range(1000):
        room.after(0.0, nothing)
    room.after(0.0, nothing, Came.WOKEN)
    took_s = room.await_change()
    assert len(room.kernel.waits) / took_s <= 1.4 / POLL_S
    assert room.kernel.sleeps[:5] == [SOON_S, 2 * SOON_S, 4 * SOON_S, 8 * SOON_S, POLL_S]


def test_a_change_without_a_word_is_seen_within_a_second_and_the_kernel_is_not_believed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "routerd")
    room = Room(tmp_path)
    room.after(0.1, lambda: room.path.write_text("other"), Came.NOTHING)
    assert room.await_change() <= 1.1
    for text in ("and one", "and two"):
        room.kernel.waits.clear()
        room.after(0.42, lambda text=text: room.path.write_text(text), Came.NOTHING)  # type: ignore[misc]  # has a default
        assert room.await_change() == pytest.approx(0.45)
    assert caplog.text.count("a change came without a notification") == 1


def test_a_word_that_comes_while_the_files_are_asked_is_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "routerd")
    room = Room(tmp_path)
    room.after(0.1, lambda: room.path.write_text("other"), Came.NOTHING)
    room.after(0.1, nothing)
    room.await_change()
    assert caplog.text == ""


def test_a_change_before_it_is_watched_is_not_waited_for(tmp_path: Path) -> None:
    room = Room(tmp_path)
    seen = room.eyes.look([room.path])
    room.path.write_text("other")
    room.eyes.await_change([room.path], seen, room.looks.append)
    assert (room.kernel.waits, len(room.looks)) == ([], 1)


def test_only_the_content_tells_and_it_is_seen_with_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path)
    texts = iter(["a", "a", "b"])
    monkeypatch.setattr("routerd.daemon.watch.eyes._content_hash", lambda _: next(texts))
    assert 1.0 <= room.await_change() <= 2.0


def test_directories_are_watched_anew_when_something_moved_there(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.after(0.5, nothing)
    room.after(1.5, nothing, Came.WOKEN)
    room.await_change()
    assert room.kernel.watched == [{str(tmp_path)}] * 2


def test_a_file_that_goes_while_it_is_looked_at_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("a")
    monkeypatch.setattr("routerd.daemon.watch.eyes._content_hash", lambda _: "ENOENT")
    assert Eyes().look([path], content=True) == {path: MISSING}
