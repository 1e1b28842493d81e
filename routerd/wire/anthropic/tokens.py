"""Anthropic's token counts and stop reasons in OpenAI's words, and back.

`input_tokens` counts only what no cache held: the whole prompt is input + cache_creation + cache_read. The counts of a stream are
cumulative: message_start has the input side, message_delta the output side and sometimes the input again; never add them up.
"""

from __future__ import annotations

from typing import Any

import msgspec

from routerd.messages import Usage

__all__ = ["FINISH_OF_STOP", "STOP_OF_FINISH", "Counts", "counts_of"]

MAX_TOKENS = 10**12  # above any context ever served; larger numbers are noise and must not reach a budget

# Recorded: end_turn 512, tool_use 198, max_tokens 17, stop_sequence 11, pause_turn 2. Whatever else comes is `stop`.
FINISH_OF_STOP = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
STOP_OF_FINISH = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


class Counts(msgspec.Struct):
    """One usage object. A stream keeps one and takes every later object into it."""

    fresh: int = 0  # input that no cache held
    written: int = 0  # input written to the cache
    read: int = 0  # input read from the cache
    output: int = 0
    thinking: int = 0

    def take(self, value: dict[str, Any]) -> None:
        """Overwrite with what `value` tells; zeros and absent counts leave what an earlier event said."""
        self.fresh = _count(value.get("input_tokens")) or self.fresh
        self.written = _count(value.get("cache_creation_input_tokens")) or self.written
        self.read = _count(value.get("cache_read_input_tokens")) or self.read
        self.output = _count(value.get("output_tokens")) or self.output
        details = value.get("output_tokens_details")
        if isinstance(details, dict):
            self.thinking = _count(details.get("thinking_tokens")) or self.thinking

    def usage(self) -> Usage:
        """Return them as routing counts them."""
        return Usage(
            input_tokens=self.fresh + self.written + self.read,
            output_tokens=self.output,
            cached_tokens=self.read,
            reasoning_tokens=self.thinking,
        )

    def openai(self) -> dict[str, Any]:
        """Return OpenAI's usage object."""
        given = self.fresh + self.written + self.read
        return {
            "prompt_tokens": given,
            "completion_tokens": self.output,
            "total_tokens": given + self.output,
            "prompt_tokens_details": {"cached_tokens": self.read, "cache_write_tokens": self.written},
            "completion_tokens_details": {"reasoning_tokens": self.thinking},
        }


def counts_of(value: Any) -> Counts | None:
    """Return the counts of a usage object, or None where it is none."""
    if not isinstance(value, dict):
        return None
    counts = Counts()
    counts.take(value)
    return counts


def _count(value: Any) -> int:
    return value if type(value) is int and 0 < value <= MAX_TOKENS else 0
