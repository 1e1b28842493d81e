"""Entries on their way: whatever a client put into a text arrives as something that every database takes."""

from __future__ import annotations

import pytest
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


@given(st.sampled_from(["", "\\u0000", "\\", "ok", "é"]), st.sampled_from([0, 1 << 8, MOST]))
def test_an_entry_without_a_nul_arrives_as_it_is(text: str, number: int) -> None:
    sent = entry(client=text, cost_nano_usd=number)
    assert decode(encode([sent, sent])) == [tuple(sent)] * 2


def test_only_a_batch_with_a_nul_is_gone_through_value_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[object] = []
    monkeypatch.setattr("routerd.ledger.entry._clean", looked_at.append)
    decode(encode([entry(cost_nano_usd=0)]))
    assert looked_at == []
    decode(encode([entry(client="a\0b")]))
    assert "a\0b" in looked_at
