"""A bucket that drains evenly (token bucket, the other way up), in the words of one slot: how far use is ahead of the even rate.

TOTAL is the level in millionths, the first word of data the moment (us) it was true at, HEAD when it will have drained. The level
is only written when something is put in, so that a rounding down of what drained is lost once a take at most: a millionth of it.
The moment is stored before the level: a process killed in between leaves a level that drained too little, never one too low.
A changed rate or size applies at once to the level as it is.
"""

from __future__ import annotations

from routerd.state.table import DATA, HEAD, TOTAL

PACED = -2
PARTS = 1_000_000


def level(words: memoryview[int], base: int, size: int, drain_s: float, now_us: int) -> int:
    """Return the level now, in millionths. A full bucket of `size` drains in `drain_s`."""
    stored = words[base + TOTAL]
    if not stored:
        return 0
    elapsed_us = max(0, now_us - words[base + DATA])
    return max(0, stored - elapsed_us * size * PARTS // max(1, round(drain_s * 1e6)))


def wait_s(excess: int, size: int, drain_s: float) -> float:
    """Return how long until so many millionths have drained; a microsecond more, for the rounding of floats."""
    return excess * drain_s / (size * PARTS) + 2e-6


def put(words: memoryview[int], base: int, parts: int, now_us: int, drained_us: int) -> None:
    """Set the level as of now; by `drained_us` nothing of it is left."""
    words[base + HEAD] = max(words[base + HEAD], drained_us)
    words[base + DATA] = max(words[base + DATA], now_us)
    words[base + TOTAL] = parts


def subtract(words: memoryview[int], base: int, amount: int) -> None:
    """Take out again what was put in too much."""
    words[base + TOTAL] = max(0, words[base + TOTAL] - amount * PARTS)


def is_idle(words: memoryview[int], base: int, now_us: int) -> bool:
    """Tell whether forgetting the slot would change nothing."""
    return not words[base + TOTAL] or words[base + HEAD] <= now_us
