"""What processes share: counters and endpoints in shared memory, counters in Redis. `policy` and `health` know what it means."""

from routerd.state.board import Board
from routerd.state.calendar import period
from routerd.state.local import LocalCounters
from routerd.state.ready import Meter
from routerd.state.remote import RemoteCounters, StateLost, check_url

__all__ = ["Board", "LocalCounters", "Meter", "RemoteCounters", "StateLost", "check_url", "period"]
