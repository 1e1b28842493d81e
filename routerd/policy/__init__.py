"""May this request proceed? Pure: who calls, which models they may use, what their budgets still allow."""

from routerd.policy.auth import ClientIndex, allowed

__all__ = ["ClientIndex", "allowed"]
