"""What must hold, and whether it did in this run: a table of rows that are compared, and what a missing row means."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.report import Row, Target

__all__ = ["targets"]

ALL, LEDGER = "routerd all", "routerd all ledger"
RESIDENT = frozenset({"peers", "unary", "streams", "translated"})
LEVEL_SHARE = 1.05  # what two measurements of the same thing may differ by


def targets(rows: Sequence[Row]) -> list[Target]:
    """Return every target with what the rows say of it."""
    look = _Look(rows)
    unary, chunk = "unary CPU a request", "stream CPU a chunk"
    return [
        look.ratio(f"{unary}, all but the ledger: x vllm-router", ("peers", "unary", ALL), "vllm-router", 1.0, below=True),
        look.ratio(f"{unary}, all and the ledger: x vllm-router", ("peers", "unary", LEDGER), "vllm-router", 1.0, below=True),
        look.ratio(f"{chunk}: x vllm-router", ("peers", "paced", "routerd"), "vllm-router", 1.0, below=True),
        look.ratio(f"{chunk}: x nginx", ("peers", "paced", "routerd"), "nginx", 1.4),
        *(
            look.ratio(f"{chunk}, from {name}: x passed on", ("translated", "paced", f"routerd from {name}"), "routerd", 4.0)
            for name in ("anthropic", "gemini", "ollama")
        ),
        look.times("litellm", 30.0),
        look.times("portkey", 20.0, "unary, fresh process"),  # as the target was set: five seconds from the start, JIT and all
        look.resident(60.0),
        look.gap(20.0),
        look.ratio("10,000 models CPU a request: x 10", ("models", "full load", "routerd 10000"), "routerd 10", LEVEL_SHARE),
        look.figure("2 workers do the work of", "scaling", 1.8, least=True),
        look.figure("a budget in shared memory, the dearest kind, us", "a budget", 3.0),
    ]


class _Look:
    """Finds rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def row(self, section: str, case: str, gateway: str) -> Row | None:
        """Return the first row of the gateway in a case that begins so, unless it is void."""
        for row in self._rows:
            if (row.section, row.gateway) == (section, gateway) and row.case.startswith(case) and not row.void:
                return row
        return None

    def ratio(self, what: str, mine: tuple[str, str, str], other: str, most: float, *, below: bool = False) -> Target:
        """Compare CPU with another gateway in the same case."""
        row, beside = self.row(*mine), self.row(mine[0], mine[1], other)
        if row is None or row.cpu_us is None or beside is None or not beside.cpu_us:
            missing = mine[2] if row is None else other
            return Target(what=what, value=None, limit=most, below=below, why=f"{mine[0]} has no figure of {missing}")
        return Target(what=what, value=row.cpu_us / beside.cpu_us, limit=most, below=below)

    def times(self, peer: str, least: float, case: str = "unary, slow peers") -> Target:
        """Return how many times a peer's CPU a request is ours."""
        row, beside = self.row("peers", case, ALL), self.row("peers", case, peer)
        what = f"{peer} CPU a request ({case}): x routerd's"
        if row is None or not row.cpu_us or beside is None or beside.cpu_us is None:
            return Target(what=what, value=None, limit=least, least=True, why=f"peers has no figure of {peer}")
        return Target(what=what, value=beside.cpu_us / row.cpu_us, limit=least, least=True)

    def resident(self, most_mb: float) -> Target:
        """Return the largest worker under the loads that peers get."""
        sizes = [row.mb for row in self._rows if row.section in RESIDENT and row.gateway.startswith("routerd") and row.mb]
        return Target(
            what="resident MB of a worker, 200 streams", value=max(sizes, default=None), limit=most_mb, why="no figure of routerd"
        )

    def gap(self, most_ms: float) -> Target:
        """Return the added delay between chunks of many streams."""
        row = self.row("many", "", "routerd")
        what = f"{row.load if row else '2,000 paced streams'}, one core: added delay between chunks, p99 ms"
        return Target(what=what, value=row.gap_p99_ms if row else None, limit=most_ms, why="many has no figure of routerd")

    def figure(self, what: str, case: str, limit: float, *, least: bool = False) -> Target:
        """Return the largest figure of a row that the section workers has."""
        row = self.row("workers", case, "routerd")
        value = max((figure for _, figure in row.figures), default=None) if row is not None else None
        return Target(what=what, value=value, limit=limit, least=least, why="workers has no such figure")
