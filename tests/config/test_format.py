"""Rules of the layout: what moves, what never does, and that the meaning is the same for anything that is YAML."""

from __future__ import annotations

import pathlib
import random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.config.format import Refused, _comments, _meaning, formatted
from routerd.errors import ConfigError

HERE = pathlib.Path(__file__).parent
REPO = HERE.parents[1]
FILES = [REPO / "routes.yaml", *sorted(HERE.glob("data/*.good.yaml")), *sorted(REPO.glob("routerd/presets/*.yaml"))]


MOVES: dict[str, tuple[str, str]] = {
    "two spaces a level": ("a:\n    b:\n            c: 1\n", "a:\n  b:\n    c: 1\n"),
    "a list is in from its key": ("a:\n- b\n- c: 1\n  d: 2\n", "a:\n  - b\n  - c: 1\n    d: 2\n"),
    "one space after a dash": ("a:\n  -   b: 1\n      c: 2\n  -   -  d\n", "a:\n  - b: 1\n    c: 2\n  - - d\n"),
    "needless quotes go": ("a: \"b\"\n'c': 'd-e/f.g'\n", "a: b\nc: d-e/f.g\n"),
    "needed quotes stay": (
        "a: \"yes\"\nb: '12'\nc: \"${X}\"\nd: \"x: y\"\ne: ''\nf: \"*\"\ng: \"No\"\n",
        "a: \"yes\"\nb: '12'\nc: \"${X}\"\nd: \"x: y\"\ne: ''\nf: \"*\"\ng: \"No\"\n",
    ),
    "braces have no space inside": ("a: { b: 1 ,c: [ 2,3 ] }\n", "a: {b: 1, c: [2, 3]}\n"),
    "columns stay aligned": ("a:   {b: 1,   c: 2}   # x\naa:  {b: 10,  c: 2}  # y\n",) * 2,
    "a space before a colon goes": ("a : 1\n&x b : 2\n*x : 3\n"[:6] + "b : 2\n", "a: 1\nb: 2\n"),
    "trailing blanks go": ("a: 1  \nb:\t\n  c: 2 \n", "a: 1\nb:\n  c: 2\n"),
    "runs of empty lines are one": ("\n\na: 1\n\n\n\nb: 2\n\n\n", "a: 1\n\nb: 2\n"),
    "a comment goes with what it stands above": (
        "a:\n    # one\n    b: 1\n    # two\n# three\nc: 2\n# end\n", "a:\n  # one\n  b: 1\n  # two\n# three\nc: 2\n# end\n",
    ),
    "a comment in a list": ("a:\n- b\n# c\n- d\n# e\n", "a:\n  - b\n  # c\n  - d\n# e\n"),
    "a text moves as a whole": (
        "a:\n    b: |\n        x\n          y  \n\n        z\n", "a:\n  b: |\n    x\n      y  \n\n    z\n",
    ),
    "a text with its own indentation": ("a:\n    b: |2\n          x\n", "a:\n  b: |2\n        x\n"),
    "a value that goes on": (
        "a:\n    b: {c: 1,\n        d: 2}\n    e: x\n      y\n", "a:\n  b: {c: 1,\n      d: 2}\n  e: x\n    y\n",
    ),
    "a value on a line of its own": ("a:\n        b\nc:\n    {d: 1}\n", "a:\n        b\nc:\n    {d: 1}\n"),
    "anchors": ("x-a: &a\n    b: 1\nc:\n    <<: *a\n    d: *a\n", "x-a: &a\n  b: 1\nc:\n  <<: *a\n  d: *a\n"),
    "line ends of Windows": ("a:\r\n    b: 1\r\n", "a:\n  b: 1\n"),
    "a missing line end": ("a: 1", "a: 1\n"),
    "nothing but a comment": ("# a\n", "# a\n"),
}  # fmt: skip


@pytest.mark.parametrize("rule", MOVES)
def test_the_layout(rule: str) -> None:
    before, after = MOVES[rule]
    assert formatted("f", before) == after
    assert formatted("f", after) == after


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_our_own_files_keep_their_meaning(path: pathlib.Path) -> None:
    text = path.read_text()
    once = formatted(path.name, text)
    assert formatted(path.name, once) == once
    assert _meaning(path.name, once) == _meaning(path.name, text)
    assert _comments(once) == _comments(text)


def test_the_shipped_file_has_the_layout() -> None:
    text = (REPO / "routes.yaml").read_text()
    assert formatted("routes.yaml", text) == text


WORD = st.text("abyesno01-_.:/#'\"{}[], *&!|>%@`$~\n\té日", max_size=12)
VALUE = st.recursive(
    st.one_of(WORD, st.integers(-5, 99), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORD.filter(bool), inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(
    value=st.dictionaries(WORD.filter(bool), VALUE, min_size=1, max_size=5),
    indent=st.integers(2, 9),
    width=st.sampled_from([20, 80, 1000]),
    flow=st.sampled_from([False, None]),
    style=st.sampled_from([None, '"', "|"]),
    seed=st.integers(0, 99),
)
def test_whatever_is_written_keeps_its_meaning(
    value: object, indent: int, width: int, flow: bool | None, style: str | None, seed: int
) -> None:
    text = yaml.safe_dump(
        value, indent=indent, width=width, default_flow_style=flow, default_style=style, allow_unicode=True, sort_keys=False
    )
    if style is None and "\n\n" not in text and "'" not in text and '"' not in text:
        rng = random.Random(seed)
        more = ("", "", "      # note\n", "# note\n", "\n\n")
        text = "".join(f"{line}\n{rng.choice(more)}" for line in text.splitlines())
    try:
        meaning = _meaning("f", text)
    except ConfigError:  # a number as a key, a tab: no configuration
        return
    try:
        once = formatted("f", text)
    except Refused:
        assert "? " in text  # a key in several lines: only that may be in doubt
        return
    assert formatted("f", once) == once
    assert _meaning("f", once) == meaning
    assert _comments(once) == _comments(text)


def test_what_is_no_yaml_is_not_touched() -> None:
    with pytest.raises(ConfigError):
        formatted("f", "a: [1\n")
