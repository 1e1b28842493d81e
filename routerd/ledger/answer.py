"""What is answered to `how much was used`: plain values for programs, a table for people, CSV for a spreadsheet.

Costs are exact in nano-dollars; `cost_usd` is the same as a number to read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from routerd.ledger.period import Period
from routerd.ledger.store import BY, SUMS

__all__ = ["COLUMNS", "as_csv", "as_text", "usage_answer"]

COLUMNS = ("requests", "ok", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "estimated", "cost_usd")
_HEADS = ("requests", "ok", "input", "output", "cached", "reasoning", "estimated", "cost USD")


def usage_answer(by: str, period: Period, rows: Sequence[tuple[Any, ...]], pending: int = 0) -> dict[str, Any]:
    """Return the answer as plain values. `pending`: entries that are not in the rows yet."""
    keys = BY[by].split(", ")
    total = [sum(row[len(keys) + i] for row in rows) for i in range(len(SUMS))]
    return {
        "by": by,
        "since": _moment(period.since_ms) if period.since_ms else None,
        "until": _moment(period.until_ms) if period.until_ms is not None else None,
        "rows": [{**dict(zip(keys, row, strict=False)), **_sums(row[len(keys) :])} for row in rows],
        "total": _sums(total),
        "pending": pending,
    }


def as_text(answer: Mapping[str, Any]) -> str:
    """Return the answer as a table."""
    keys = BY[answer["by"]].split(", ")
    lines: list[tuple[str, ...]] = [(*keys, *_HEADS)]
    for row in (*answer["rows"], {**dict.fromkeys(keys, ""), keys[0]: "total", **answer["total"]}):
        lines.append((*[str(row[key]) or "-" for key in keys], *[_shown(name, row[name]) for name in COLUMNS]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ""
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[: len(keys)] = [cell.ljust(width) for cell, width in zip(line[: len(keys)], widths, strict=False)]
        text += "  ".join(cells).rstrip() + "\n"
    for one in answer.get("credits", ()) if answer["by"] == "client" else ():
        text += _credit(one)
    since, until = answer["since"] or "the beginning", answer["until"] or "now"
    text += f"from {since} to {until} (UTC)"
    if answer["pending"]:
        text += f"; {answer['pending']} requests are not written yet and not in here"
    return text + "\n"


def _credit(one: Mapping[str, Any]) -> str:
    left, granted = (f"{one[name]:,.6f}" if one["kind"] == "usd" else f"{one[name]:,}" for name in ("left", "granted"))
    since = f" since {one['since']}" if one["since"] else ""
    return f"credit of {one['client']}: {left} of {granted} {one['kind']} left{since}\n"


def as_csv(answer: Mapping[str, Any]) -> str:
    """Return the rows as CSV with a head."""
    keys = BY[answer["by"]].split(", ")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*keys, *COLUMNS))
    for row in answer["rows"]:
        writer.writerow([*[row[key] for key in keys], *[_plain(name, row) for name in COLUMNS]])
    return out.getvalue()


def _sums(values: Sequence[int]) -> dict[str, Any]:
    sums: dict[str, Any] = dict(zip(SUMS, values, strict=True))
    sums["cost_usd"] = sums["cost_nano_usd"] / 1e9
    return sums


def _shown(name: str, value: Any) -> str:
    return f"{value:,.6f}" if name == "cost_usd" else f"{value:,}"


def _plain(name: str, row: Mapping[str, Any]) -> str:
    if name == "cost_usd":
        whole, rest = divmod(row["cost_nano_usd"], 1_000_000_000)
        return f"{whole}.{rest:09d}"
    return str(row[name])


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
