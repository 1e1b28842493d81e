"""What stands against an endpoint, in words for the operator: for `explain`, the status and notices."""

from __future__ import annotations

from routerd.health.endpoint import COOL_WHY, OPEN_UNTIL, REASONS, EndpointState

__all__ = ["breaker_state", "reasons"]

CLOSED, HALF_OPEN, IS_OPEN_NOW = 0, 1, 2

_WHY = {
    "rate_limited": "rate limited",
    "auth": "it refused our credential",
    "credits": "its account is out of credit",
    "used_up": "its rate limit is used up",
}


def reasons(state: EndpointState, now_s: float) -> list[str]:
    """Return one text for each thing that stands against the endpoint, or soon may; none when nothing does."""
    standing = state.standing(now_s)
    if standing is None:
        return _failing(state, now_s)
    words = state.words
    found = []
    if state.is_drained:
        found.append("drained by hand: gets nothing new")
    if state.is_down:
        found.append("down: its probe fails")
    now_us = int(now_s * 1e6)
    if breaker_state(state, now_s) == IS_OPEN_NOW:
        found.append(f"its breaker is open for {(words[OPEN_UNTIL] - now_us) / 1e6:.1f} s")
    elif standing.open_share < 1.0:
        found.append(f"its breaker is half open: {100 * standing.open_share:.0f} % of the requests go there")
    until_s = state.cooling(now_s)
    if until_s:
        why = _WHY.get(REASONS[words[COOL_WHY] % len(REASONS)], "")
        found.append(f"cools down for {until_s - now_s:.1f} s" + (f", {why}" if why else ""))
    if standing.slow_share < 1.0:
        found.append(f"starts slowly: {100 * standing.slow_share:.0f} % of its share")
    return found + _failing(state, now_s)


def _failing(state: EndpointState, now_s: float) -> list[str]:
    """Tell of failures that are too few yet: with one request a minute a dead endpoint never opens its breaker."""
    breaker, (outcomes, failures) = state.breaker, state.outcomes(now_s)
    if not 0 < failures >= breaker.failure_ratio * outcomes or breaker_state(state, now_s) != CLOSED:
        return []
    told = f"{failures} of {outcomes} requests failed in the last {breaker.window_s:g} s"
    return [f"{told}; its breaker would open at {breaker.min_requests}"]


def breaker_state(state: EndpointState, now_s: float) -> int:
    """Return 0 for closed, 1 for half-open, 2 for open."""
    if not state.has_opened or not state.breaker.enabled:
        return CLOSED
    left_us = state.words[OPEN_UNTIL] - int(now_s * 1e6)
    if left_us > 0:
        return IS_OPEN_NOW
    return HALF_OPEN if -left_us < state.breaker.ramp_s * 1e6 else CLOSED
