"""May this request proceed? Pure: who calls, which models they may use, what their budgets still allow."""

from routerd.policy.auth import ClientIndex, allowed
from routerd.policy.budgets import Charge, Counters, Lease, charges, estimate_tokens, provider_charges, reserve

__all__ = [
    "Charge",
    "ClientIndex",
    "Counters",
    "Lease",
    "allowed",
    "charges",
    "estimate_tokens",
    "provider_charges",
    "reserve",
]
