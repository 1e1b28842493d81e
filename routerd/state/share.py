"""What one host may let pass while the counters that hosts share are away: its part of what was left when it saw them last.

So hosts together stay within the limit, as far as each knows: what others took after that look is not known, nor how long the
server stays away. A part is rounded down: a limit smaller than the number of hosts lets nothing pass. A bucket only smooths a
window that is shared, too: each host gets its part of the whole bucket, and at least one.
"""

from __future__ import annotations

from dataclasses import dataclass

from routerd.state.ready import Meter

__all__ = ["Share", "share_of"]


@dataclass(frozen=True, slots=True)
class Share:
    """A meter with the part of a host as its limit."""

    key: bytes
    limit: int
    window_s: float
    calendar: str
    drain_s: float
    enforced: bool
    settled: bool


def share_of(meter: Meter, seen: int, hosts: int) -> Share:
    """Return the part of one of so many hosts. `seen`: what was used when the server was seen last, if that still counts."""
    if meter.drain_s:
        limit = max(1, meter.limit // hosts)
    else:
        limit = max(0, meter.limit - seen) // hosts
    return Share(meter.key, limit, meter.window_s, meter.calendar, meter.drain_s, meter.enforced, meter.settled)
