"""Parsing: what is refused, where, and before anything grows."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable

import pytest

from routerd.config import load
from routerd.errors import ConfigError

HEAD = "version: 1\nproviders:\n  demo: {dialect: simulator}\n"
BODY = "models:\n  demo: {chain: [demo/echo]}\n"
Problems = Callable[..., list[str]]


def test_bytes_that_are_not_utf8_are_told_with_their_offset(problems_of: Problems) -> None:
    assert problems_of(b"version: 1\nx-a: caf\xe9\n") == ["2:9 bad-encoding the file is not UTF-8: byte 0xe9 at offset 19"]


def test_utf16_is_named(problems_of: Problems) -> None:
    assert problems_of("version: 1".encode("utf-16")) == ["1:1 bad-encoding the file is UTF-16"]


def test_a_byte_order_mark_at_the_start_is_ignored(load_text: Callable[..., object]) -> None:
    assert load_text(b"\xef\xbb\xbf" + (HEAD + BODY).encode())


def test_a_byte_order_mark_elsewhere_is_refused(problems_of: Problems) -> None:
    assert problems_of("version: 1\nx-a: \ufeffb\n") == ["2:6 bad-character the file has the control character U+FEFF"]


def test_a_nul_byte_is_refused(problems_of: Problems) -> None:
    assert problems_of(b"version: 1\nx-a: a\0b\n") == ["2:7 bad-character the file has a NUL byte"]


def test_lines_are_counted_the_same_with_every_line_end(problems_of: Problems) -> None:
    for end in ("\n", "\r\n", "\r"):
        text = (HEAD + BODY + "nonsense: 1\n").replace("\n", end)
        assert problems_of(text)[0].startswith("6:1 unknown-key"), end


def test_columns_count_characters_not_bytes(problems_of: Problems) -> None:
    assert problems_of(HEAD + 'models:\n  demo: {description: "日本語é", chain: [dmo/echo]}\n')[0].startswith(
        "5:39 unknown-provider"
    )


REFUSED = {
    "a file of 10 MB": (b"x" * 10_000_000, "file-too-large"),
    "flow nesting": (b"x-a: " + b"[" * 100_000, "too-deep"),
    "block nesting": (b"- " * 100_000, "too-deep"),
    "nested mappings": ("".join(f"{' ' * i}a:\n" for i in range(2000)).encode(), "too-deep"),
    "an alias bomb": (
        b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)),
        "alias-bomb",
    ),
    "a merge bomb": (
        b"a0: &a0 {k0: v, k1: v, k2: v}\n"
        + b"".join(b"a%d: &a%d {%s}\n" % (i, i, b", ".join(b"p%d: *a%d" % (n, i - 1) for n in range(9))) for i in range(1, 12)),
        "alias-bomb",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_too_much_is_refused_within_100_ms(what: str, problems_of: Problems) -> None:
    data, code = REFUSED[what]
    assert code in problems_of(data)[0]
    best = min(_timed(problems_of, data) for _ in range(3))
    assert best < 0.1


def _timed(problems_of: Problems, data: bytes) -> float:
    before = time.thread_time()
    problems_of(data)
    return time.thread_time() - before


def test_the_number_of_values_is_bounded(problems_of: Problems) -> None:
    assert "too-many-nodes" in problems_of(b"x-a: [" + b"1," * 500_001 + b"]")[0]


def test_63_levels_are_fine(load_text: Callable[..., object]) -> None:
    assert load_text(HEAD + BODY + "x-deep: " + "[" * 63 + "]" * 63)


def test_every_duplicate_key_is_told_with_both_places(problems_of: Problems) -> None:
    found = problems_of(HEAD + "models:\n  a: {chain: [demo/a], chain: [demo/b]}\n  a: {chain: [demo/c]}\n")
    assert [line.split(" ")[0] for line in found] == ["5:24", "6:3"]
    assert "routes.yaml:5:7" in found[0]
    assert "routes.yaml:5:3" in found[1]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("version: \u201c1\u201d\n", "in column 10 is a typographic quote (U+201C): write \" or '"),
        ("version: 1\nmod\u200bels: {}\n", "in column 4 is an invisible character (U+200B): delete it"),
        ("version: 1\nmodels:\n\u00a0 m: {}\n", "in column 1 is a space of another kind (U+00A0): write a usual one"),
    ],
)
def test_what_only_looks_right_is_named(tmp_path: pathlib.Path, text: str, hint: str) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [problem.hint for problem in caught.value.problems if problem.hint.endswith(hint)]


def test_a_variable_inside_brackets_gets_its_own_hint(problems_of: Problems) -> None:
    assert problems_of("version: 1\nx-a: {k: ${V}}\n") == ["2:10 unquoted-variable ${...} inside {} or [] needs quotes"]
    assert problems_of("version: 1\nx-a: [a, ${V}]\n") == ["2:10 unquoted-variable ${...} inside {} or [] needs quotes"]


def test_a_line_that_is_deeper_than_its_neighbour_is_told_both_indents(hints_of: Problems) -> None:
    """libyaml says "mapping values are not allowed in this context" of the line below the mistake."""
    text = "version: 1\nproviders:\n  gpu:\n   preset: vllm\n\n    base_url: http://a/v1\n"
    assert hints_of(text) == ["it is indented by 4, line 4 above it by 3: keys of one block begin in the same column"]
    assert hints_of("version: 1\nx-a: b: c\n") == ["a text with `: ` in it needs quotes; otherwise look at the indentation"]


def test_a_merged_value_keeps_its_own_position(problems_of: Problems) -> None:
    found = problems_of(HEAD + "x-m: &m\n  timeouts: {connect: 5}\nmodels:\n  a:\n    <<: *m\n    chain: [demo/a]\n")
    assert found[0].startswith("5:23 wrong-type")
