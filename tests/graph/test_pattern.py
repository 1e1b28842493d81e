"""Rules of patterns: as a filter a star spans anything; as a name it captures up to a slash; filling is done once."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from routerd.graph import Pattern
from routerd.graph.pattern import fill

names = st.text(alphabet="ab/", max_size=12)
patterns = st.lists(st.text(alphabet="ab/", max_size=2), min_size=1, max_size=5).map("*".join)


@given(patterns, names)
def test_covers_is_matching_with_stars_that_span_anything(text: str, name: str) -> None:
    regex = re.compile(".+".join(map(re.escape, text.split("*"))), re.DOTALL)
    assert Pattern.parse(text).covers(name) == (regex.fullmatch(name) is not None)


@given(patterns, names)
@example("a*", "a")
@example("a**", "ab/c")
@example("*/*", "a/")
@example("*-*", "a-b/c-d")
@settings(max_examples=1500)
def test_matching_is_that_of_greedy_groups_of_which_only_a_last_one_spans_slashes(text: str, name: str) -> None:
    *pieces, last = map(re.escape, text.split("*"))
    groups = ["([^/]+)"] * len(pieces)
    if groups and not last:
        groups[-1] = "(.+)"
    regex = "".join(piece + group for piece, group in zip(pieces, groups, strict=True)) + last
    found = re.fullmatch(regex, name, re.DOTALL)
    assert Pattern.parse(text).match(name) == (found.groups() if found else None)


def test_many_stars_and_a_long_name_take_no_time() -> None:
    hostile = Pattern.parse("*a*a*a*a*a*a*b")
    began = time.process_time()
    for name in ("a" * 256, "a" * 200 + "/b"):
        assert hostile.match(name) is None
        assert not hostile.covers("a" * 256)
    assert time.process_time() - began < 0.1  # microseconds; by a regular expression hours


@given(patterns, names)
def test_what_matches_is_covered(text: str, name: str) -> None:
    if Pattern.parse(text).match(name) is not None:
        assert Pattern.parse(text).covers(name)


def test_a_suffix_filter_covers_ids_with_slashes() -> None:
    assert Pattern.parse("*:free").covers("deepseek/deepseek-r1:free")
    assert not Pattern.parse("*:free").covers(":free")


@pytest.mark.parametrize(
    ("text", "name", "captured"),
    [
        ("*/*", "together/meta-llama/Llama-3.3", ("together", "meta-llama/Llama-3.3")),
        ("gpt-*", "gpt-4/x", ("4/x",)),
        ("*-mini", "gpt-4-mini", ("gpt-4",)),
        ("*-mini", "a/b-mini", None),
        ("*-*", "a-b-c", ("a-b", "c")),
        ("@deepinfra/*", "@deepinfra/", None),
        ("plain", "plain", ()),
        ("a.c", "abc", None),
    ],
)
def test_a_star_captures_up_to_a_slash_unless_it_is_last(text: str, name: str, captured: tuple[str, ...] | None) -> None:
    assert Pattern.parse(text).match(name) == captured


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3))
def test_a_captured_text_is_never_filled_again(captured: list[str]) -> None:
    template = "/".join(f"{{{i}}}" for i in range(1, len(captured) + 1))
    assert fill(template, tuple(captured)) == "/".join(captured)


def test_filling_leaves_unknown_numbers_alone() -> None:
    assert fill("{1}-{3}", ("{2}", "b")) == "{2}-{3}"
