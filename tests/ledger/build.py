"""Entries and batches for tests."""

from __future__ import annotations

from typing import Any

from routerd.ledger import Batch, Entry
from routerd.ledger.entry import encode

NOON_MS = 1_795_262_400_000  # 2026-11-21T12:00:00Z
DAY_MS = 86_400_000


def entry(**changed: Any) -> Entry:
    """Return an entry: 10 tokens in, 5 out, 3,000 nano-dollars."""
    usual = Entry(
        at_ms=NOON_MS,
        request_id="req_1",
        client="ann",
        route="m",
        provider="up",
        model="x",
        operation="chat",
        outcome="ok",
        status=200,
        error_type="",
        stream=0,
        attempts=1,
        input_tokens=10,
        output_tokens=5,
        cached_tokens=2,
        reasoning_tokens=1,
        estimated=0,
        cost_nano_usd=3000,
        duration_ms=20,
    )
    return usual._replace(**changed)


def batch(*entries: Entry, run: str = "run", first: int = 0) -> Batch:
    """Return a batch of these."""
    return Batch(run, first, len(entries), encode(entries))
