"""Counters that processes share: in shared memory, or in Redis over hosts. What they mean is the business of `policy`."""

from routerd.state.calendar import period
from routerd.state.local import LocalCounters, Meter
from routerd.state.remote import RemoteCounters, StateLost, check_url

__all__ = ["LocalCounters", "Meter", "RemoteCounters", "StateLost", "check_url", "period"]
