"""What providers document and what their users quote of errors, each with its source: every one gets its kind.

documented.jsonl holds them as those sources have them, shortened where nothing hangs on the rest; none is a recording. Where the
source was not looked up, the line says so: then the words are a guess at what may come, and the kind is what it should be then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from routerd.errors import ErrorKind
from routerd.wire.faults.classify import classify

CASES = [json.loads(line) for line in Path(__file__).with_name("documented.jsonl").read_text().splitlines()]
NAMES = [f"{number}-{case['provider']}-{case['status']}" for number, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_documented_error_has_its_kind(case: dict[str, Any]) -> None:
    body = json.dumps(case["body"]) if "body" in case else case["text"]
    found = classify(case["status"], [], body.encode(), 1_754_667_600.0)
    assert found.kind is ErrorKind(case["kind"]), found.message
    assert found.message
    assert case["source"]
