"""README.md beside this file says where each cell of the fault grid is proven: no cell is left out, and the tests exist."""

from __future__ import annotations

import pathlib
import re

from tests.e2e import test_faults

HERE = pathlib.Path(__file__).resolve().parent
TEXT = (HERE / "README.md").read_text()


def test_the_tests_it_names_exist() -> None:
    named = re.findall(r"((?:\.\./\w+/)?test_\w+\.py)(?:::(\w+))?", TEXT)
    assert len(named) > 40
    for file, name in named:
        path = HERE / file
        assert path.is_file(), file
        assert not name or re.search(rf"def {name}\(", path.read_text()), f"{file}::{name}"


def test_it_names_every_cell_of_the_grid_once() -> None:
    assert sorted(re.findall(r"\[([\w-]+)\]", TEXT)) == sorted(test_faults.GRID)


def test_every_row_has_a_test() -> None:
    rows = [line.split("|")[2] for line in TEXT.splitlines() if line.startswith("| ") and "proven by" not in line]
    assert len(rows) == 14 + 6 + 7
    assert [row for row in rows if not re.search(r"test_\w+\.py::test_|\[", row)] == []


def test_every_cell_is_asked_both_ways_where_it_can_be() -> None:
    """What only one kind of request can meet says so; all else is asked unary and streamed, with a next target and without."""
    one_way = {name for name, fault in test_faults.GRID.items() if not (fault.unary and fault.stream)}
    assert one_way == {
        "events-for-json", "json-for-events", "json-without-answer", "error-in-200", "cut-body", "error-event-first",
        "ends-without-content", "empty-events", "malformed-before-content", "comments-for-ever", "cut-before-content",
    }  # fmt: skip
    assert len(test_faults.ROWS) == 2 * len(test_faults.GRID) - len(one_way)
