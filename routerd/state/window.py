"""A sliding window in the words of one slot. Every function runs under the slot's lock; times are whole microseconds.

A window of length W is counted in buckets of width w = W/32, rounded up. What was added in bucket b counts until bucket b + 33
begins. So it counts for at least W (never is more than the limit in any window of length W) and at most w longer: a ring of 33.
HEAD is the newest bucket, TOTAL what is used. What HEAD's bucket holds is TOTAL less the sum of the ring until another bucket
begins, and is put in the ring then: so a take is one store, and a killed process leaves it made or not. A clock that lags behind
HEAD (another process was a moment faster) adds to HEAD. A process killed while it changes more leaves DIRTY: 1, then the sum of
the ring is the truth; 2 (the width was being changed), then TOTAL is, and all of it counts as used now. In all cases nothing that
was taken is forgotten; one killed between the two stores of giving back leaves it counted a window longer.
"""

from __future__ import annotations

import math

from routerd.state.table import BUCKETS, DATA, DIRTY, HEAD, TOTAL, WIDTH

SUM_IS_TRUE, TOTAL_IS_TRUE = 1, 2


def width_us(window_s: float) -> int:
    """Return the bucket width of a window."""
    return max(1, -(-round(window_s * 1e6) // (BUCKETS - 1)))


def advance(words: memoryview[int], base: int, width: int, now_us: int) -> int:
    """Bring the slot to `now_us` and to this width; return what is used."""
    if words[base + DIRTY] and words[base + WIDTH] > 0:
        _repair(words, base, now_us)
    if words[base + WIDTH] != width:
        _resize(words, base, width, now_us)
    bucket = now_us // width
    if bucket > words[base + HEAD]:
        _expire(words, base, bucket)
    return words[base + TOTAL]


def add(words: memoryview[int], base: int, amount: int) -> int:
    """Add to the newest bucket; return a stamp, with which `subtract` finds the bucket again."""
    words[base + TOTAL] += amount
    return (words[base + HEAD] + 1) * words[base + WIDTH] - 1


def subtract(words: memoryview[int], base: int, stamp_us: int, amount: int) -> None:
    """Give back to the bucket of `stamp_us`; what has left the window, or was never there, is not given back."""
    bucket, head = stamp_us // words[base + WIDTH], words[base + HEAD]
    if head - BUCKETS < bucket <= head:
        cell = base + DATA + bucket % BUCKETS
        have = words[cell] if bucket < head else _close(words, base)
        if amount > have:
            amount = have
        words[cell] -= amount
        words[base + TOTAL] -= amount


def wait_s(words: memoryview[int], base: int, excess: int, now_us: int) -> float:
    """Return how long until at least `excess` of what is used has left the window; inf if that is more than all of it."""
    head, width = words[base + HEAD], words[base + WIDTH]
    _close(words, base)
    for bucket in range(head - BUCKETS + 1, head + 1):
        excess -= words[base + DATA + bucket % BUCKETS]
        if excess <= 0:
            return max(1, (bucket + BUCKETS) * width - now_us + 1) / 1e6  # one more, for the rounding of floats
    return math.inf


def is_idle(words: memoryview[int], base: int, now_us: int) -> bool:
    """Tell whether forgetting the slot would change nothing."""
    if words[base + DIRTY]:
        return False
    return not words[base + TOTAL] or (words[base + HEAD] + BUCKETS) * words[base + WIDTH] <= now_us


def _expire(words: memoryview[int], base: int, bucket: int) -> None:
    """Make `bucket` the head: clear the cells that it and its predecessors since the old head take over."""
    _close(words, base)
    ring = base + DATA
    gone = 0
    for number in range(max(words[base + HEAD] + 1, bucket - BUCKETS + 1), bucket + 1):
        cell = ring + number % BUCKETS
        value = words[cell]
        if value:
            if not gone:
                words[base + DIRTY] = SUM_IS_TRUE
            gone += value
            words[cell] = 0
    words[base + HEAD] = bucket
    if gone:
        words[base + TOTAL] -= gone
        words[base + DIRTY] = 0


def _close(words: memoryview[int], base: int) -> int:
    """Put in the ring what the newest bucket holds, and return it: then the sum of the ring is TOTAL."""
    ring = base + DATA
    cell = ring + words[base + HEAD] % BUCKETS
    held = words[cell] + words[base + TOTAL] - sum(words[ring : ring + BUCKETS].tolist())
    words[cell] = held
    return held


def _resize(words: memoryview[int], base: int, width: int, now_us: int) -> None:
    """Take up a new window length. Each old bucket goes where its last moment lies: never out of the window too early."""
    old, ring = words[base + WIDTH], base + DATA
    if old < 0:
        _from_calendar(words, base, width, now_us)
        return
    head = words[base + HEAD]
    if old:
        _close(words, base)
    used = [((b + 1) * old - 1, words[ring + b % BUCKETS]) for b in range(head - BUCKETS + 1, head + 1)]
    words[base + DIRTY] = TOTAL_IS_TRUE
    words[base + WIDTH] = width
    clear(words, base)
    head, total = now_us // width, 0
    for end_us, value in used:
        bucket = min(end_us, now_us) // width
        if value and bucket > head - BUCKETS:
            words[ring + bucket % BUCKETS] += value
            total += value
    words[base + HEAD] = head
    words[base + TOTAL] = total
    words[base + DIRTY] = 0


def _from_calendar(words: memoryview[int], base: int, width: int, now_us: int) -> None:
    """Begin to slide: what a calendar window counts now leaves when the whole length has passed."""
    words[base + DIRTY] = TOTAL_IS_TRUE
    clear(words, base)
    words[base + WIDTH] = width
    _repair(words, base, now_us)


def _repair(words: memoryview[int], base: int, now_us: int) -> None:
    """Make whole what a killed process left."""
    if words[base + DIRTY] == TOTAL_IS_TRUE:
        clear(words, base)
        words[base + HEAD] = now_us // words[base + WIDTH]
    else:
        words[base + TOTAL] = sum(words[base + DATA : base + DATA + BUCKETS].tolist())
    words[base + DIRTY] = 0


def clear(words: memoryview[int], base: int) -> None:
    """Empty the ring."""
    for cell in range(base + DATA, base + DATA + BUCKETS):
        words[cell] = 0
