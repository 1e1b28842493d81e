"""Plain scalars follow YAML 1.2 and JSON's limits."""

# ruff: noqa: E501  (a document is one line of the test, not a paragraph)

from __future__ import annotations

import pytest

from routerd.config.source.scalars import BadNumber, resolve


@pytest.mark.parametrize(
    "word",
    [
        "no",
        "yes",
        "on",
        "off",
        "n",
        "y",
        "No",
        "YES",
        "2024-01-01",
        "12:30",
        "1_000",
        "0b1",
        "1.2.3",
        "-",
        "+",
        ".",
        "e3",
        "0x",
        "0o8",
        "tRUE",
    ],
)
def test_words_of_yaml_11_are_text(word: str) -> None:
    assert resolve(word) == word


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("1e3", 1000.0), ("0o17", 15), ("0xff", 255), ("-7", -7),
     ("+7", 7), ("010", 10), (".5", 0.5), ("5.", 5.0), ("-1.5E-3", -0.0015), ("9223372036854775807", 2**63 - 1)],
)  # fmt: skip
def test_core_scalars_have_their_value_and_type(word: str, value: object) -> None:
    found = resolve(word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", [".inf", "-.Inf", ".nan", "1e999", "9223372036854775808", "9" * 5000, "0x" + "f" * 70])
def test_numbers_that_json_cannot_hold_are_refused(word: str) -> None:
    with pytest.raises(BadNumber):
        resolve(word)
