"""Log lines and access records: whole lines, bounded queues, no failure from a reader that left."""

from __future__ import annotations

import json
import logging
import os
import select
from pathlib import Path

import pytest

from routerd.daemon.output.log import BATCH, QUEUE_MAX, AccessLog, LineWriter, _Json, _pieces, _Text, is_discarded
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


class Reader:
    """A writer whose reader takes `room` more writes, each of at most `bite` bytes."""

    piece_bytes = select.PIPE_BUF

    def __init__(self, room: int = 1 << 30, bite: int = 1 << 30) -> None:
        self.room, self.bite, self.wrote = room, bite, b""

    def ready(self, timeout_s: float = 0.0) -> bool:
        del timeout_s
        return self.room > 0

    def write(self, data: bytes) -> int:
        self.room -= 1
        self.wrote += data[: self.bite]
        return len(data[: self.bite])


def test_too_many_records_are_dropped_and_counted() -> None:
    dropped = Cell()
    log = AccessLog("text", dropped, Reader())
    for i in range(QUEUE_MAX + 3):
        log.add(AccessRecord(float(i)))
    assert dropped.value == 3


@pytest.mark.parametrize("bite", [1 << 30, 7])
def test_records_come_out_in_order_and_a_reader_that_stands_still_gets_nothing_more(bite: int) -> None:
    reader = Reader(room=1, bite=bite)
    log = AccessLog("json", Cell(), reader)
    for i in range(BATCH + 1):
        log.add(AccessRecord(float(i), request_id=str(i)))
    assert log.flush() is False  # one write found room
    before = reader.wrote
    assert log.flush() is False
    log.finish(0.0)
    assert reader.wrote == before
    reader.room = 1 << 30
    log.finish(0.0)
    assert [json.loads(line)["request_id"] for line in reader.wrote.splitlines()] == [str(i) for i in range(BATCH + 1)]


def test_a_flush_of_nothing_writes_nothing() -> None:
    reader = Reader()
    assert AccessLog("text", Cell(), reader).flush() is False
    assert reader.wrote == b""


def test_parts_for_a_pipe_are_atomic_and_for_a_file_larger(tmp_path: Path) -> None:
    out, into = os.pipe()
    with open(tmp_path / "log", "wb") as file:
        assert LineWriter(into).piece_bytes <= select.PIPE_BUF < LineWriter(file.fileno()).piece_bytes
    os.close(out)
    os.close(into)


def test_a_full_pipe_is_not_ready_and_a_reader_that_left_takes_everything() -> None:
    out, into = os.pipe()
    writer = LineWriter(into)
    assert writer.ready()
    os.set_blocking(into, False)
    while writer.ready():
        assert writer.write(b"x" * select.PIPE_BUF) == select.PIPE_BUF
    os.read(out, 1 << 20)
    assert writer.ready()
    os.close(out)
    assert writer.write(b"nobody reads this\n") == 18
    os.close(into)


@pytest.mark.parametrize("most", [1, 5, 6, 11, 100])
def test_pieces_are_whole_lines_and_lose_nothing(most: int) -> None:
    data = b"aaaa\nbb\ncccccccccc\nd\n"
    parts = list(_pieces(data, most))
    assert b"".join(parts) == data
    assert all(part.endswith(b"\n") for part in parts)
    assert all(len(part) <= most or part.count(b"\n") == 1 for part in parts)


def test_the_null_device_and_a_closed_descriptor_are_read_by_nobody(tmp_path: Path) -> None:
    with open(os.devnull, "wb") as null, open(tmp_path / "log", "wb") as file:
        assert is_discarded(null.fileno())
        assert not is_discarded(file.fileno())
        closed = os.dup(file.fileno())
    os.close(closed)
    assert is_discarded(closed)
