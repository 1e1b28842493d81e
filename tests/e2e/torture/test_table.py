"""README.md beside this file maps every rule of hot reload to its tests; the tests it names exist."""

from __future__ import annotations

import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parents[1]
NAMED = re.compile(r"\b((?:torture|daemon|e2e|config|server|upstream)/[\w/]+\.py)(?:::(\w+))?")


def test_every_rule_has_a_test_that_exists() -> None:
    text = (HERE / "README.md").read_text()
    lines = re.findall(r"^\| (R\d+) \|.*$", text, re.MULTILINE)
    assert lines == [f"R{number}" for number in range(1, 29)]
    missing = []
    for file, name in NAMED.findall(text):
        path = TESTS / ("e2e/" + file if file.startswith("torture/") else file)
        if not path.is_file() or (name and not re.search(rf"def {name}\(", path.read_text())):
            missing.append(f"{file}::{name}")
    assert missing == []
