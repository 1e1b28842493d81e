"""May this request proceed? Pure: who calls, which models they may use, what their budgets still allow."""

from routerd.policy.auth import ClientIndex, allowed
from routerd.policy.budgets import (
    NOTHING,
    Counters,
    Lease,
    Need,
    Settling,
    admit,
    estimate,
    reserve,
    spent,
    tokens_of,
    turned_away,
)
from routerd.policy.charge import CREDITS, Bill, Charge, charges, credit_charge, provider_charges
from routerd.policy.price import cost_nano_usd, dearest, parts_usd

__all__ = [
    "CREDITS",
    "NOTHING",
    "Bill",
    "Charge",
    "ClientIndex",
    "Counters",
    "Lease",
    "Need",
    "Settling",
    "admit",
    "allowed",
    "charges",
    "cost_nano_usd",
    "credit_charge",
    "dearest",
    "estimate",
    "parts_usd",
    "provider_charges",
    "reserve",
    "spent",
    "tokens_of",
    "turned_away",
]
