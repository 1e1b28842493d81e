"""Counters that more than one process changes: shared memory on one host. What they mean is the business of `policy`."""

from routerd.state.calendar import period
from routerd.state.local import LocalCounters, Meter

__all__ = ["LocalCounters", "Meter", "period"]
