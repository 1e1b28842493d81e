"""Files are read once, whole, and only while nobody writes them."""

from __future__ import annotations

import hashlib
import os
import pathlib

import pytest

from routerd.config.source.read import READ_TRIES, Reader, ReadFailure


def failure(path: pathlib.Path, limit: int = 100) -> str:
    with pytest.raises(ReadFailure) as caught:
        Reader().read(path, max_bytes=limit)
    return caught.value.code


def test_content_and_hash_come_from_one_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    reader = Reader()
    assert reader.read(path, max_bytes=100) == b"one"
    path.write_bytes(b"two")
    assert reader.read(path, max_bytes=100) == b"one"
    assert [(one.path, one.sha256) for one in reader.inputs] == [(path, hashlib.sha256(b"one").hexdigest())]


def test_what_is_not_there_is_an_input_too(tmp_path: pathlib.Path) -> None:
    reader = Reader()
    with pytest.raises(ReadFailure):
        reader.read(tmp_path / "none", max_bytes=1)
    assert [(one.path.name, one.sha256) for one in reader.inputs] == [("none", "")]


def test_the_limit_is_exact(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    assert Reader().read(path, max_bytes=100) == b"x" * 100
    assert failure(path, 99) == "file-too-large"


def test_pipes_directories_and_devices_are_refused_without_waiting(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert failure(tmp_path / "pipe") == "not-a-file"
    assert failure(tmp_path) == "not-a-file"
    assert failure(pathlib.Path("/dev/zero")) == "not-a-file"


def test_links_are_followed_and_circles_are_not(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to("loop")
    assert Reader().read(tmp_path / "link", max_bytes=1) == b"x"
    assert failure(tmp_path / "loop") == "unreadable-file"
    assert failure(tmp_path / "a\0b") == "unreadable-file"
    assert failure(tmp_path / "real" / "x") == "unreadable-file"


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"half")
    reads = iter([b"whole now", b"whole now, really"])
    real = os.read

    def read(fd: int, size: int) -> bytes:
        data = real(fd, size)
        if data and (later := next(reads, None)) is not None:
            path.write_bytes(later)
        return data

    monkeypatch.setattr(os, "read", read)
    assert Reader().read(path, max_bytes=100) == b"whole now, really"


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    (tmp_path / "b").write_bytes(b"new")
    real = os.read
    moved: list[int] = []

    def read(fd: int, size: int) -> bytes:
        if not moved:
            moved.append(1)
            (tmp_path / "b").rename(path)
        return real(fd, size)

    monkeypatch.setattr(os, "read", read)
    assert Reader().read(path, max_bytes=100) == b"new"


def test_a_file_that_never_settles_is_a_failure_not_a_loop(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    real = os.read
    reads: list[int] = []

    def read(fd: int, size: int) -> bytes:
        data = real(fd, size)
        if data:
            reads.append(1)
            path.write_bytes(b"y")
        return data

    monkeypatch.setattr(os, "read", read)
    assert failure(path) == "file-changing"
    assert len(reads) == READ_TRIES
