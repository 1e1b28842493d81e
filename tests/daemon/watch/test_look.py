"""What one look sees, when a glance finds it out of date, and where changes would show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from routerd.daemon.watch.look import MISSING, Look, differs, look_at, places


def looked(*paths: Path) -> Look:
    return {path: look_at(path) for path in paths}


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
    assert places(looked(tmp_path / "a" / "f")) == {str(tmp_path / "a"), str(tmp_path / "b")}


def test_a_directory_among_the_inputs_is_watched_itself(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    assert places(looked(tmp_path / "conf.d")) == {str(tmp_path / "conf.d")}


def test_what_is_missing_is_awaited_where_it_would_be(tmp_path: Path) -> None:
    os.symlink("gone/deep/f", tmp_path / "f")
    assert places(looked(tmp_path / "f")) == {str(tmp_path)}


def test_where_a_way_cannot_be_followed_nobody_knows_what_to_watch(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert places(looked(tmp_path / "f" / "below a file")) is None


def replaced(path: Path) -> None:
    path.with_name("fresh").write_text(path.read_text())
    os.replace(path.with_name("fresh"), path)


def rewritten(path: Path) -> None:
    path.write_text("2")


def removed(path: Path) -> None:
    path.unlink()


def made(path: Path) -> None:
    path.with_name("other").write_text("x")


@pytest.mark.parametrize("change", [replaced, rewritten, removed, made], ids=lambda one: one.__name__)
def test_a_glance_finds_what_was_replaced_written_removed_or_made(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    before = looked(path, tmp_path / "other")
    assert not differs(before)
    change(path)
    assert differs(before)
    assert not differs(looked(path, tmp_path / "other"))
