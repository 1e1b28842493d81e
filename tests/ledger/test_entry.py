"""Entries on their way: whatever a client put into a text arrives as something that every database takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from routerd.ledger.entry import MOST, decode, encode
from tests.ledger.build import entry


@given(st.text(), st.integers(0, MOST))
def test_texts_are_storable_and_numbers_exact(text: str, number: int) -> None:
    (values,) = decode(encode([entry(client=text, cost_nano_usd=number)]))
    assert "\0" not in str(values[2])
    str(values[2]).encode()
    assert values[17] == number
    if text.isascii() and "\0" not in text:
        assert values[2] == text
