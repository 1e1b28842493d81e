"""Durations and sizes, and that the schema and the code agree on them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.config import schema_json
from routerd.config.compile.units import duration_s, size_bytes

DEFINITIONS = json.loads(schema_json())["definitions"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("250ms", 0.25),
        ("1m", 60),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1.5s", 1.5),
        ("0s", 0),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "30 s", "-1s", "1m1h", "1s1s", "1w", "30S", "1e3s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    assert duration_s(text) is None


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("8MiB", 8 << 20), ("64KB", 64000), ("1.5KiB", 1536), ("2GB", 2 * 10**9), ("1GiB", 1 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "8 MiB", "8mb", "-1B", "MiB", "8M"])
def test_what_is_no_size(text: str) -> None:
    assert size_bytes(text) is None


@given(st.text("0123456789.dhms KMGiBe-", max_size=12))
def test_the_schema_takes_exactly_what_the_code_takes(text: str) -> None:
    assert (re.fullmatch(DEFINITIONS["duration"]["pattern"], text) is not None) == (duration_s(text) is not None)
    assert (re.fullmatch(DEFINITIONS["size"]["pattern"], text) is not None) == (size_bytes(text) is not None)
