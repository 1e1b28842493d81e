"""Credits of clients: before a generation that grants them serves, what was used already is read from the ledger and counted.

Workers take credits from the counters that they share, like any budget; only the begin is special, as nothing forgets it. A grant
(client, kind, first day) is read when a generation brings it. As long as it serves, the counters know it better than the ledger,
where entries come later. One that comes back is read again: what its client used meanwhile was charged to nothing. Without a
ledger nobody could tell what was used, and with counters shared by hosts not where: both are refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from routerd.daemon.workers.crew import Crew
from routerd.errors import ConfigError, Problem
from routerd.graph import Credits
from routerd.ledger import LedgerLost, Writer
from routerd.policy import credit_charge
from routerd.state import LocalCounters

__all__ = ["CreditOffice"]

FLUSH_S = 1.0
COLLECT_S = 0.5


class CreditOffice:
    """Grants credits, and says what is left of them."""

    def __init__(self, ledger: Writer | None, counters: LocalCounters, crew: Crew, *, shared: bool) -> None:
        self._ledger = ledger
        self._counters = counters
        self._crew = crew
        self._shared = shared
        self._credits: Mapping[str, Credits] = {}

    async def grant(self, credits: Mapping[str, Credits]) -> None:
        """Have the counters know what these clients used. Raises ConfigError when nobody can tell."""
        served = {credit_charge(name, one).key for name, one in self._credits.items()}
        fresh = {name: one for name, one in credits.items() if credit_charge(name, one).key not in served}
        if fresh:
            ledger = self._usable(next(iter(fresh)))
            if self._crew.current is not None:
                await self._crew.collect(COLLECT_S)
                await ledger.flush(FLUSH_S)
        for name, one in fresh.items():
            charge = credit_charge(name, one)
            now_s = time.monotonic()
            missing = await self._used(name, one) - self._counters.used(charge, now_s)
            if missing > 0:
                self._counters.count(charge, missing, now_s)

    def serve(self, credits: Mapping[str, Credits]) -> None:
        """These are the credits of the generation that serves."""
        self._credits = credits

    async def balances(self) -> list[dict[str, Any]]:
        """Return what each client with credits was granted, used and has left, by the ledger."""
        told = []
        for name, one in self._credits.items():
            used = await self._used(name, one)
            unit = 1e9 if one.kind == "usd" else 1
            amounts = {"granted": one.limit, "used": used, "left": max(0, one.limit - used)}
            shown = {what: amount / unit if one.kind == "usd" else amount for what, amount in amounts.items()}
            told.append({"client": name, "kind": one.kind, **shown, "since": one.since or None})
        return told

    async def _used(self, name: str, credits: Credits) -> int:
        ledger = self._usable(name)
        try:
            spent = await ledger.ask(lambda: ledger.store.spent(name, credits.since))
        except LedgerLost as exc:
            raise _problem(name, f"what {name} used cannot be read: {exc}", "start the ledger's database first") from exc
        return spent.nano_usd if credits.kind == "usd" else spent.tokens

    def _usable(self, name: str) -> Writer:
        if self._ledger is None:
            raise _problem(name, "credits are counted by the ledger, and there is none", "start with --state-dir or --ledger")
        if self._shared:
            raise _problem(name, "credits are counted on one host, not by --state", "use a budget of scope `client`")
        return self._ledger


def _problem(name: str, message: str, hint: str) -> ConfigError:
    problem = Problem(stage="build", code="no-credits", path=f"clients.{name}.credits", message=message, file="", hint=hint)
    return ConfigError((problem,))
