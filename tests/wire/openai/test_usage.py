"""Token counts as providers write them, and as nobody should."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.messages import Usage
from routerd.wire.openai.usage import read_usage


def usage(*counts: int) -> Usage:
    return Usage(input_tokens=counts[0], output_tokens=counts[1], cached_tokens=counts[2], reasoning_tokens=counts[3])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}, usage(20, 2, 0, 0)),
        (
            {
                "prompt_tokens": 27,
                "completion_tokens": 267,
                "total_tokens": 294,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 192},
            },
            usage(27, 267, 5, 192),
        ),
        # xAI: reasoning is outside
        (
            {
                "prompt_tokens": 165,
                "completion_tokens": 2,
                "total_tokens": 296,
                "completion_tokens_details": {"reasoning_tokens": 129},
            },
            usage(165, 131, 0, 129),
        ),
        ({"prompt_tokens": 12, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}, usage(12, 1, 4, 0)),  # DeepSeek
        ({"prompt_tokens": 41, "completion_tokens": 15, "cached_tokens": 7}, usage(41, 15, 7, 0)),  # Together
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_token_details": {"cached_tokens": 3}},
            usage(9, 1, 3, 0),
        ),  # Mistral
        ({"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 1}}, usage(5, 6, 1, 0)),
        ({"prompt_tokens": 5, "total_tokens": 5}, usage(5, 0, 0, 0)),  # embeddings
        ({"total_tokens": 8}, usage(8, 0, 0, 0)),
        ({"prompt_tokens": 5, "total_tokens": 9}, usage(5, 4, 0, 0)),
        ({"prompt_tokens": 3.0, "completion_tokens": 0}, usage(3, 0, 0, 0)),
        ({"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": None}, usage(3, 0, 0, 0)),
    ],
)
def test_each_providers_counts_are_read(value: dict[str, Any], expected: Usage) -> None:
    assert read_usage(value) == expected


@pytest.mark.parametrize(
    "value",
    [None, {}, [], "12", 7, {"prompt_tokens": None}, {"prompt_tokens": "12"}, {"prompt_tokens": -1}, {"prompt_tokens": True},
     {"prompt_tokens": 10**30}, {"prompt_tokens": float("nan")}, {"completion_tokens": float("inf")}],
)  # fmt: skip
def test_what_is_no_count_is_no_usage(value: Any) -> None:
    assert read_usage(value) is None


KEYS = ["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "completion_tokens_details", "reasoning_tokens"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(KEYS), st.none() | st.integers() | st.floats() | st.dictionaries(st.sampled_from(KEYS), st.integers())
    )
)
def test_counts_are_never_negative_nor_beyond_reason(value: dict[str, Any]) -> None:
    found = read_usage(value)
    if found is not None:
        for count in (found.input_tokens, found.output_tokens, found.cached_tokens, found.reasoning_tokens):
            assert 0 <= count <= 2 * 10**12
