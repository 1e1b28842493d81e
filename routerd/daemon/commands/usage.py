"""`routerd usage`: who used how many tokens, and what it cost. From the daemon that runs, or straight from its ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from routerd.daemon.commands.syntax import CANNOT_REACH, FAILED, FINE, add_admin, add_format, admin_of, command, complain

__all__ = ["add_usage", "usage"]

DEFAULT_SINCE = "30d"


def add_usage(commands: Any) -> None:
    """Declare `usage`."""
    declared = command(
        commands, "usage", "say who used how many tokens, and what it cost", "routerd usage --by model --since 7d", failed=""
    )
    declared.add_argument("--by", choices=("client", "route", "provider", "model", "day"), default="client")
    declared.add_argument(
        "--since", default=DEFAULT_SINCE, metavar="WHEN", help="7d (this day and 6 before), 6h, 2026-11-01, ever; default: 30d"
    )
    declared.add_argument("--until", default="", metavar="WHEN", help="before that; default: now")
    declared.add_argument("--ledger", metavar="WHERE", help="read this one (postgres://... or an SQLite file), not the daemon's")
    declared.add_argument("--state-dir", metavar="DIR", help="read the ledger in this directory, not the daemon's")
    add_format(declared, "csv")
    add_admin(declared)


def usage(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Print what was used."""
    from routerd.ledger import as_csv, as_text, period_of

    since = "" if flags["since"] == "ever" else flags["since"]
    period_of(since, flags["until"], int(time.time() * 1000))  # nonsense is told before anybody is asked
    direct = flags["ledger"] or flags["state_dir"]
    code, answer = _from_store(flags, since) if direct else _from_daemon(flags, environ, since)
    if answer is None:
        return code
    forms = {"json": lambda told: json.dumps(told, indent=2, ensure_ascii=False) + "\n", "csv": as_csv, "text": as_text}
    print(forms[flags["format"]](answer), end="")
    return FINE


def _from_daemon(flags: Mapping[str, Any], environ: Mapping[str, str], since: str) -> tuple[int, Any]:
    from routerd.daemon.commands.live import ask

    admin = admin_of(flags, environ)
    query = urlencode({"by": flags["by"], "since": since, "until": flags["until"]})
    code, answer = ask(admin, "GET", f"/-/usage?{query}")
    if answer is None or code == 200:
        return code, answer
    return complain(f"{admin}: {answer.get('error', code)}", CANNOT_REACH if code in (404, 503) else FAILED), None


def _from_store(flags: Mapping[str, Any], since: str) -> tuple[int, Any]:
    from routerd.daemon.settings import ledger_of
    from routerd.ledger import LedgerLost, open_store, period_of, usage_answer

    where = ledger_of(flags["state_dir"] or "", flags["ledger"] or "")
    if not where:
        raise ValueError("--ledger: `off` is no ledger to read")
    store = open_store(where, create=False)
    period = period_of(since, flags["until"], int(time.time() * 1000))
    try:
        return FINE, usage_answer(flags["by"], period, store.usage(flags["by"], period))
    except LedgerLost as exc:
        return complain(f"the ledger {store.where} cannot be read: {exc}", CANNOT_REACH), None
    finally:
        store.close()
