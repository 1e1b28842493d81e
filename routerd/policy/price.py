"""What tokens cost. Whole nano-dollars (1e-9 USD), rounded up a request: sums are exact, and nothing that costs is free.

Output tokens hold reasoning tokens, input tokens hold cached ones (`messages.Usage`), whatever the provider's own way to count.
"""

from __future__ import annotations

from collections.abc import Iterable

from routerd.graph import Price
from routerd.messages import Usage

__all__ = ["cost_nano_usd", "dearest", "parts_usd"]

_MTOK = 1_000_000


def cost_nano_usd(usage: Usage, price: Price | None) -> int:
    """Return what the usage costs; 0 without a price."""
    if price is None:
        return 0
    return -(-(_input(usage, price) + usage.output_tokens * price.output_nano_usd) // _MTOK)


def parts_usd(usage: Usage, price: Price) -> tuple[float, float]:
    """Return what input and output cost in dollars, not rounded: for metrics, where nobody is charged."""
    return _input(usage, price) / _MTOK / 1e9, usage.output_tokens * price.output_nano_usd / _MTOK / 1e9


def _input(usage: Usage, price: Price) -> int:
    """Return the cost of the input in millionths of a nano-dollar."""
    cached = min(usage.cached_tokens, usage.input_tokens)
    return (usage.input_tokens - cached) * price.input_nano_usd + cached * price.cached_input_nano_usd


def dearest(prices: Iterable[Price | None]) -> Price | None:
    """Return the highest price of each sort of token: what a request may cost wherever it goes. None: no price at all."""
    known = [price for price in prices if price is not None]
    if not known:
        return None
    return Price(
        input_nano_usd=max(max(price.input_nano_usd, price.cached_input_nano_usd) for price in known),
        output_nano_usd=max(price.output_nano_usd for price in known),
    )
