"""Rules of the key that keeps a conversation at its endpoint."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.plan import affinity_key
from routerd.plan.affinity import PREFIX_BYTES

SYSTEM = {"role": "system", "content": 'You are {"role": "user"} [brackets] and \\" quotes'}
FIRST = {"role": "user", "content": [{"type": "text", "text": "hello } ] {"}]}


def raw(**fields: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(fields).encode(), type=dict[str, msgspec.Raw])


def turns(count: int, first: dict[str, Any] = FIRST) -> list[dict[str, Any]]:
    more = [{"role": "assistant" if i % 2 == 0 else "user", "content": f"turn {i}"} for i in range(count)]
    return [SYSTEM, first, *more]


def test_every_turn_of_a_conversation_has_the_key_of_its_first() -> None:
    found = {affinity_key(None, raw(messages=turns(count))) for count in (0, 1, 2, 40)}
    assert len(found) == 1
    assert found.isdisjoint({0, affinity_key(None, raw(messages=turns(0, {"role": "user", "content": "else"})))})


def test_the_session_wins_over_the_user_and_both_over_the_conversation() -> None:
    one, two = raw(messages=turns(0), user="u"), raw(messages=turns(0, {"role": "user", "content": "else"}), user="u")
    assert affinity_key(None, one) == affinity_key(None, two)
    assert affinity_key("s", one) == affinity_key("s", raw(prompt="x"))
    assert len({affinity_key("s", one), affinity_key(None, one), affinity_key(None, raw(messages=turns(0)))}) == 3


@pytest.mark.parametrize("user", [None, ""])
def test_an_empty_user_is_none(user: str | None) -> None:
    assert affinity_key(None, raw(messages=turns(0), user=user)) == affinity_key(None, raw(messages=turns(3)))


def test_a_huge_conversation_is_looked_at_to_its_64th_kibibyte() -> None:
    huge = {"role": "user", "content": "x" * PREFIX_BYTES}
    assert affinity_key(None, raw(messages=turns(0, huge))) == affinity_key(None, raw(messages=turns(9, huge)))


def test_prompts_and_inputs_have_keys_and_an_empty_body_has_none() -> None:
    assert affinity_key(None, raw(prompt="a")) != affinity_key(None, raw(prompt="b")) != 0
    assert affinity_key(None, raw(input=["a"])) != 0
    assert affinity_key(None, {}) == 0


@given(st.binary(max_size=300))
def test_any_bytes_have_a_key(text: bytes) -> None:
    assert affinity_key(None, {"messages": msgspec.Raw(text)}) == affinity_key(None, {"messages": msgspec.Raw(text)})


@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=20), max_size=3))
def test_any_text_of_a_turn_ends_where_it_ends(system: str, first: str, later: list[str]) -> None:
    begun = [{"role": "system", "content": system}, {"role": "user", "content": first}]
    more = [{"role": "assistant", "content": text} for text in later]
    assert affinity_key(None, raw(messages=begun)) == affinity_key(None, raw(messages=[*begun, *more]))


def test_a_hostile_body_is_not_looked_at_for_long() -> None:
    assert affinity_key(None, {"messages": msgspec.Raw(b"[" * 10_000_000)})
