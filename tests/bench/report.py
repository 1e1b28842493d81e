"""What the benchmark found: rows, the one table, and the targets that are held against them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Row", "Target", "table", "target_table"]

COLUMNS = (
    "section",
    "case",
    "gateway",
    "req/s",
    "CPU us",
    "per",
    "+p50 ms",
    "+p99 ms",
    "+first p50",
    "+first p99",
    "+gap p99",
    "MB",
    "note",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One gateway in one case. Times are added ones, in ms: through the gateway minus direct, same load, same round.

    `cpu_us` is of the whole process tree, per `per`. `mb`: resident, of the largest serving process. `void`: why there are no
    figures.
    """

    section: str
    case: str
    gateway: str
    load: str = ""
    per: str = "request"
    per_s: float | None = None
    cpu_us: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    first_p50_ms: float | None = None
    first_p99_ms: float | None = None
    gap_p99_ms: float | None = None
    mb: float | None = None
    figures: tuple[tuple[str, float], ...] = ()  # what only this section has, by name
    void: str = ""

    def figure(self, name: str) -> float | None:
        """Return one of `figures`."""
        return dict(self.figures).get(name)

    @property
    def note(self) -> str:
        """What the other columns do not say."""
        if self.void:
            return f"VOID: {' '.join(self.void.split())[:160]}"
        return ", ".join(f"{name} {value:g}" for name, value in self.figures)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing that must hold. `value` None: it was not measured, and `why` says what is missing."""

    what: str
    value: float | None
    limit: float
    least: bool = False  # the limit is a lower one
    below: bool = False  # less than the limit, not equal
    why: str = ""

    @property
    def held(self) -> bool:
        """Whether it was measured and holds."""
        if self.value is None:
            return False
        if self.least:
            return self.value >= self.limit
        return self.value < self.limit if self.below else self.value <= self.limit

    @property
    def text(self) -> str:
        """The limit in words."""
        return f"{'>=' if self.least else '<' if self.below else '<='} {self.limit:.4g}"


def table(rows: Iterable[Row]) -> str:
    """Render all rows in columns."""
    lines: list[Sequence[str]] = [COLUMNS]
    for row in rows:
        times = (row.p50_ms, row.p99_ms, row.first_p50_ms, row.first_p99_ms, row.gap_p99_ms)
        lines.append(
            (
                row.section,
                row.case,
                row.gateway,
                _cell(row.per_s, 0),
                _cell(row.cpu_us, 1),
                row.per if row.cpu_us is not None else "",
                *(_cell(one, 2) for one in times),
                _cell(row.mb, 0),
                row.note,
            )
        )
    return _columns(lines)


def target_table(targets: Iterable[Target]) -> str:
    """Render what must hold, and whether it does."""
    lines: list[Sequence[str]] = [("must hold", "value", "target", "held")]
    for one in targets:
        value = "-" if one.value is None else f"{one.value:.4g}"
        held = "yes" if one.held else f"not measured: {one.why}" if one.value is None else "NO"
        lines.append((one.what, value, one.text, held))
    return _columns(lines)


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
