"""Log lines and access records: whole lines, bounded queues, no failure from a reader that left."""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from pathlib import Path

import pytest

from routerd.daemon.log import BATCH, QUEUE_MAX, AccessLog, _Json, _pieces, _Text, is_discarded, write_lines
from routerd.observe import AccessRecord, Cell


def record(exc: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("inner")
    except ValueError:
        import sys

        info = sys.exc_info() if exc else None
        made = logging.LogRecord("routerd.x", logging.WARNING, __file__, 1, "it is %s", ("so",), info)
    made.created = 1700000000.25
    return made


def test_a_text_line_says_when_how_bad_who_and_what() -> None:
    assert _Text("control").format(record()) == "2023-11-14T22:13:20.250Z warning control: it is so"


def test_a_json_line_is_one_line_even_with_a_traceback() -> None:
    line = _Json("worker-0").format(record(exc=True))
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["process"], entry["message"], entry["level"]) == ("worker-0", "it is so", "warning")
    assert "ValueError: inner" in entry["exception"]


def test_too_many_records_are_dropped_and_counted() -> None:
    dropped = Cell()
    log = AccessLog("text", dropped, lambda data: None)
    for i in range(QUEUE_MAX + 3):
        log.add(AccessRecord(float(i)))
    assert dropped.value == 3


def test_records_come_out_in_order_in_batches_and_a_busy_writer_gets_nothing_more() -> None:
    may_write = threading.Semaphore(0)
    wrote: list[bytes] = []

    def write(data: bytes) -> None:
        assert may_write.acquire(timeout=10)
        wrote.append(data)

    log = AccessLog("json", Cell(), write)
    for i in range(BATCH + 1):
        log.add(AccessRecord(float(i), request_id=str(i)))
    assert log.flush() is True
    assert log.flush() is False  # the first batch is not written yet
    may_write.release(2)
    log.finish(10.0)
    lines = b"".join(wrote).decode().splitlines()
    assert len(wrote) == 2
    assert [json.loads(line)["request_id"] for line in lines] == [str(i) for i in range(BATCH + 1)]


def test_a_flush_of_nothing_starts_no_thread() -> None:
    log = AccessLog("text", Cell(), lambda data: None)
    assert log.flush() is False
    assert log._thread is None


@pytest.mark.parametrize("most", [1, 5, 6, 11, 100])
def test_pieces_are_whole_lines_and_lose_nothing(most: int) -> None:
    data = b"aaaa\nbb\ncccccccccc\nd\n"
    parts = list(_pieces(data, most))
    assert b"".join(parts) == data
    assert all(part.endswith(b"\n") for part in parts)
    assert all(len(part) <= most or part.count(b"\n") == 1 for part in parts)


def test_writes_to_a_pipe_are_small_enough_to_be_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    out, into = os.pipe()
    sizes: list[int] = []
    real = os.write

    def counted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(fd, data)

    write = write_lines(into)
    monkeypatch.setattr(os, "write", counted)
    write(b"x" * 99 + b"\n" + (b"y" * 999 + b"\n") * 9)
    assert max(sizes) <= select.PIPE_BUF
    assert len(os.read(out, 65536)) == 100 + 9000
    os.close(out)
    write(b"nobody reads this\n")
    os.close(into)


def test_the_null_device_and_a_closed_descriptor_are_read_by_nobody(tmp_path: Path) -> None:
    with open(os.devnull, "wb") as null, open(tmp_path / "log", "wb") as file:
        assert is_discarded(null.fileno())
        assert not is_discarded(file.fileno())
        closed = os.dup(file.fileno())
    os.close(closed)
    assert is_discarded(closed)
