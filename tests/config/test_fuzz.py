"""Whatever the bytes: a Loaded or a ConfigError, soon, and nothing else."""

# ruff: noqa: E501  (a document is one line of the test, not a paragraph)

from __future__ import annotations

import json
import pathlib
import random
import tempfile
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from routerd.config import load, render
from routerd.errors import ConfigError

DATA = pathlib.Path(__file__).parent / "data"
SEEDS = [
    DATA / "reference.good.yaml",
    DATA / "anchors.good.yaml",
    DATA.parents[2] / "routes.yaml",
    DATA / "chain-entry-wrong.bad.yaml",
]
LONGEST_S = 2.0  # on a busy machine; what is usual is 10 ms
SLOW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(data: bytes, root: str) -> None:
    """Load `data`; everything but the two outcomes is a failure of the caller."""
    path = pathlib.Path(root) / "routes.yaml"
    path.write_bytes(data)
    before = time.perf_counter()
    error: ConfigError | None = None
    try:
        loaded = load(path, {"HOME": "/home"})
        assert loaded.graph.digest
        assert loaded.origins["version"].line > 0
    except ConfigError as exc:
        error = exc
    if error is not None:
        assert any(problem.severity == "error" for problem in error.problems)
        assert error.stage
        assert path in error.inputs
        assert render(error.problems).encode()
    assert time.perf_counter() - before < LONGEST_S


@pytest.fixture(scope="module")
def root() -> Any:
    with tempfile.TemporaryDirectory() as directory:
        yield directory


@given(st.binary(max_size=300))
@example(b"\xff\xfe")
@example(b"? ")
@example(b"? a\n? b\n")
@example(b"&a [*a]")
@example(b"<<: 5")
@example(b"<<: [&a {b: c}, *a]")
@example(b"--- !!map\n")
@example(b"version: 1\n? |\n block\n: x\n")
@SLOW
def test_any_bytes(root: str, data: bytes) -> None:
    check(data, root)


@given(st.text(st.sampled_from(" \n\t:-?,[]{}#&*!|>'\"%@`~$<=.0123abxyv\r\u2028é"), max_size=60))
@SLOW
def test_any_text_of_yaml_characters(root: str, text: str) -> None:
    check(text.encode(), root)
    check(("version: 1\nallow_empty: true\n" + text).encode(), root)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["a", "demo", "30s", "1MiB", "a/x", "*", "${HOME}", "${NONE}", "http://a/v1", "simulator", "{1}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(
        ["providers", "models", "chain", "params", "defaults", "api_key", "env", "file", "any_of", "provider", "model", "base_url", "key",
         "budgets", "requests", "per", "timeouts", "connect", "dialect", "endpoints", "name", "url", "aliases", "system_prompt", "text"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
SECTION = st.sampled_from(
    ["providers", "models", "aliases", "budgets", "clients", "defaults", "cors", "reload", "limits", "include", "x-a"]
)


@given(
    st.dictionaries(
        SECTION, st.dictionaries(st.sampled_from(["a", "demo", "*", "a/*", "b"]), VALUES, max_size=3) | VALUES, max_size=4
    )
)
@SLOW
def test_any_document_of_known_words(root: str, doc: dict[str, Any]) -> None:
    check(json.dumps({"version": 1, **doc}).encode(), root)


@pytest.mark.parametrize("seed", range(60))
def test_mutated_files(root: str, seed: int) -> None:
    rng = random.Random(seed)
    text = bytearray(rng.choice(SEEDS).read_bytes())
    for _ in range(rng.randint(1, 6)):
        text = text or bytearray(b"x")
        at = rng.randrange(len(text))
        kind = rng.randrange(5)
        if kind == 0:
            del text[at : at + rng.randint(1, 30)]
        elif kind == 1:
            text[at:at] = rng.choice(
                [b"\t", b":", b"- ", b"{", b"]", b"\n", b"*x", b"&x ", b"${", b"'", b"\0", b"\xff", b"x" * 300]
            )
        elif kind == 2:
            text[at] = rng.randrange(256)
        elif kind == 3:
            text[at:at] = text[at : at + rng.randint(1, 200)]
        else:
            del text[at:]
    check(bytes(text), root)


def test_every_beginning_of_a_file(root: str) -> None:
    data = (DATA / "anchors.good.yaml").read_bytes()
    for end in range(len(data)):
        check(data[:end], root)
