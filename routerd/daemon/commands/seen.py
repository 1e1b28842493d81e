"""What a running daemon knows of its endpoints, for `routerd explain`: its status, read as the view of health that a plan asks.

It is asked for a moment only, and never needed: without a daemon the plan is that of endpoints of which nothing is known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routerd.daemon.commands.live import Unanswered, ask_quietly
from routerd.daemon.settings import Address
from routerd.messages import RANKS, Standing

__all__ = ["Seen", "seen_by"]

PATIENCE_S = 1.0


class Seen:
    """A `plan.HealthView` of the endpoints in a status."""

    def __init__(self, endpoints: Sequence[Mapping[str, Any]]) -> None:
        self._told = {one["endpoint"]: one for one in endpoints}

    def standing(self, endpoint_name: str, _now_s: float, /) -> Standing | None:
        """Return its rank, when it is not free."""
        told = self._told.get(endpoint_name)
        return Standing(RANKS.index(told["rank"])) if told and told["rank"] != RANKS[0] else None

    def reasons(self, endpoint_name: str, _now_s: float, /) -> Sequence[str]:
        """Return the daemon's own words."""
        told = self._told.get(endpoint_name)
        return tuple(told["reasons"]) if told else ()

    def inflight(self, endpoint_name: str, /) -> int:
        """Return the requests that ran there."""
        told = self._told.get(endpoint_name)
        return int(told["inflight"]) if told else 0

    def load(self, endpoint_name: str, _now_s: float, /) -> int | None:
        """Return what the engine itself counted."""
        told = self._told.get(endpoint_name)
        return told.get("load") if told else None

    def latency(self, endpoint_name: str, _now_s: float, /) -> float:
        """Return the time to its first token in seconds."""
        told = self._told.get(endpoint_name)
        return float(told.get("latency_s", 0.0)) if told else 0.0


def seen_by(admin: Address, config: Path, wanted: str) -> tuple[Seen | None, str]:
    """Return what the daemon at `admin` knows, and whose view that is in words. Unanswered only where `wanted` is `live`.

    With `auto` a daemon that serves another file is not believed: an endpoint of the same name need not be the same.
    """
    if wanted == "none":
        return None, "not looked at: nothing is known of the endpoints"
    try:
        _, told = ask_quietly(admin, "GET", "/-/status", PATIENCE_S)
    except Unanswered:
        if wanted == "live":
            raise
        return None, f"not known: no daemon answers at {admin}"
    serves = str(told.get("config_path", "another file"))  # a daemon of another version may not say
    if wanted == "auto" and serves != os.path.abspath(config):
        return None, f"not known: the daemon at {admin} serves {serves} (--health live takes its view all the same)"
    return Seen(told["endpoints"]), f"as the daemon at {admin} knows it now"
