"""Retry, fail over or give up: the table. Data, not code paths.

For each kind of fault: the word of `failover.on` that switches it, whether another try at the same target can help, how long the
endpoint goes behind the others when the upstream named no time, and whether the client may see the upstream's own status.
Delivery matters in one place only: a request that reached nobody is repeated on a fresh connection without counting as an attempt
(`attempt.exchange`). A completion has no side effect but its price, so a request that may have been processed fails over too.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from routerd.errors import ErrorKind
from routerd.graph import Failover

__all__ = ["RULES", "Rule", "Verdict", "judge"]


class Verdict(enum.Enum):
    """What the loop does next."""

    GIVE_UP = "give_up"  # the client gets this answer
    FAIL_OVER = "fail_over"  # on to the next target, this one is done with
    RETRY = "retry"  # on to the next target; when none is left, this one may be tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row. `on` None: always fails over. `cooldown_s`: without a wish of the upstream's. `breaks`: the breaker counts it."""

    on: str | None
    retry: bool
    cooldown_s: float = 0.0
    gives_up: bool = False
    breaks: bool = False


RULES: Mapping[ErrorKind, Rule] = {
    ErrorKind.CONNECT: Rule(on="connect", retry=True, breaks=True),
    ErrorKind.TLS: Rule(on="connect", retry=False, breaks=True),
    ErrorKind.TIMEOUT: Rule(on="timeout", retry=True, breaks=True),
    # Rate limits, credentials and credit have cooldowns of their own; a cold model and a missing one say nothing of the endpoint.
    # A wrong credential does not heal by itself: ask seldom. 60 s keeps a rotated key's outage short.
    ErrorKind.AUTH: Rule(on="auth", retry=False, cooldown_s=60.0),
    # An empty account is refilled by a person.
    ErrorKind.CREDITS: Rule(on="credits", retry=False, cooldown_s=600.0),
    # OpenAI's and Anthropic's SDKs wait 0.5 s before their first retry; one second spares the next few requests.
    ErrorKind.RATE_LIMITED: Rule(on="rate_limited", retry=True, cooldown_s=1.0),
    ErrorKind.SERVER_ERROR: Rule(on="server_error", retry=True, breaks=True),
    ErrorKind.COLD: Rule(on="cold", retry=True),
    ErrorKind.PROTOCOL: Rule(on="protocol", retry=True, breaks=True),
    ErrorKind.STREAM_ERROR: Rule(on="protocol", retry=True, breaks=True),
    ErrorKind.STREAM_CUT: Rule(on="protocol", retry=True, breaks=True),
    ErrorKind.MODEL_MISSING: Rule(on=None, retry=False),
    # The client's own faults: the same everywhere, nobody else is asked, no breaker counts them.
    ErrorKind.CONTEXT_LENGTH: Rule(on=None, retry=False, gives_up=True),
    ErrorKind.BAD_REQUEST: Rule(on=None, retry=False, gives_up=True),
}


def judge(kind: ErrorKind, failover: Failover) -> Verdict:
    """Return what to do about a fault before commit."""
    rule = RULES[kind]
    if rule.gives_up:
        return Verdict.GIVE_UP
    if rule.on is not None and rule.on not in failover.on:
        return Verdict.GIVE_UP
    return Verdict.RETRY if rule.retry else Verdict.FAIL_OVER
