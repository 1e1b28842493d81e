"""Token counts of an OpenAI-style `usage` object, as one record.

A stream may carry several of these (Groq sends the same one twice, Perplexity a growing one on each chunk): they are never added
up, the caller keeps the last. Cached and reasoning tokens are parts of input and output. Who counts reasoning outside of
`completion_tokens` (xAI, in 32 of 32 recordings) is found by arithmetic: prompt + completion + reasoning = total.
Foreign values: whatever is not a plausible count reads as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.messages import Usage

__all__ = ["read_usage"]

MAX_TOKENS = 10**12  # above any context ever served; larger numbers are noise and must not reach a budget

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
# Mistral writes both prompt_tokens_details and prompt_token_details.
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens", "cache_read_input_tokens")


def read_usage(value: Any) -> Usage | None:
    """Return the counts of a decoded `usage`, or None where it holds none."""
    if not isinstance(value, dict):
        return None
    if len(value) == 3:  # the usual three, on the path of every request
        given, used = value.get("prompt_tokens"), value.get("completion_tokens")
        if type(given) is int and type(used) is int and value.get("total_tokens") == given + used and min(given, used) >= 0:
            return Usage(input_tokens=given, output_tokens=used) if max(given, used) <= MAX_TOKENS else None
    given_input = _first(value, _INPUT)
    given_output = _first(value, _OUTPUT)
    total = _count(value.get("total_tokens"))
    if given_input is None and given_output is None and total is None:
        return None
    output_tokens = given_output or 0
    input_tokens = given_input if given_input is not None else max(0, (total or 0) - output_tokens)
    if given_output is None and total is not None:
        output_tokens = max(0, total - input_tokens)
    cached_tokens = _detail(value, _INPUT_DETAILS, "cached_tokens")
    if cached_tokens is None:
        cached_tokens = _first(value, _CACHED) or 0
    reasoning_tokens = _detail(value, _OUTPUT_DETAILS, "reasoning_tokens")
    if reasoning_tokens is None:
        reasoning_tokens = _count(value.get("reasoning_tokens")) or 0
    if reasoning_tokens and total == input_tokens + output_tokens + reasoning_tokens:
        output_tokens += reasoning_tokens
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        reasoning_tokens=reasoning_tokens,
    )


def _count(value: Any) -> int | None:
    if type(value) is int:
        return value if 0 <= value <= MAX_TOKENS else None
    if isinstance(value, float) and 0 <= value <= MAX_TOKENS and value.is_integer():
        return int(value)
    return None


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        count = _count(value.get(key))
        if count is not None:
            return count
    return None


def _detail(value: Mapping[str, Any], groups: tuple[str, ...], key: str) -> int | None:
    for group in groups:
        details = value.get(group)
        if isinstance(details, dict):
            count = _count(details.get(key))
            if count is not None:
                return count
    return None
