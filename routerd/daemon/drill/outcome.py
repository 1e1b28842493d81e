"""What the clients of one phase have seen, and whether it is what was expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from routerd.config.compile.units import duration_s
from routerd.daemon.drill.scenario import Phase, part

__all__ = ["Seen", "judge", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as its client saw it. `ok`: a whole answer. `took_s` is in the time of the scenario."""

    ok: bool
    status: int
    attempts: tuple[str, ...]  # as in x-routerd-attempts, without the times
    took_s: float

    @property
    def failed_over(self) -> bool:
        """Whether another endpoint than the first answered."""
        return self.ok and len({one.partition(":")[0] for one in self.attempts}) > 1

    @property
    def endpoint(self) -> str:
        """Who answered."""
        return self.attempts[-1].partition(":")[0] if self.ok and self.attempts else ""


def summary(phase: Phase, seen: Sequence[Seen]) -> dict[str, Any]:
    """Return the facts of a phase as plain values."""
    times = sorted(one.took_s for one in seen)
    errors = Counter(str(one.status) if one.status != 200 else "cut" for one in seen if not one.ok)
    told: dict[str, Any] = {
        "phase": phase.name,
        "requests": len(seen),
        "ok": sum(one.ok for one in seen),
        "failed_over": sum(one.failed_over for one in seen),
        "errors": len(seen) - sum(one.ok for one in seen),
        "errors_by": dict(errors.most_common()),
        "p50_s": _quantile(times, 0.5),
        "p99_s": _quantile(times, 0.99),
        "answered_by": dict(Counter(one.endpoint for one in seen if one.endpoint).most_common()),
    }
    return told | {"failed": judge(phase, told)}


def _quantile(times: Sequence[float], q: float) -> float:
    """Return the nearest-rank quantile."""
    return round(times[min(len(times) - 1, int(q * len(times)))], 4) if times else 0.0


def judge(phase: Phase, told: dict[str, Any]) -> list[str]:
    """Return what is not as expected, a sentence each."""
    failed = []
    for key, wanted in phase.expect.items():
        bound, _, what = key.partition("_")
        if key == "answered_by":
            others = sorted(set(told["answered_by"]) - {str(name) for name in wanted})
            failed += [f"answered by {name}, which is not in answered_by" for name in others]
        elif what in ("p50", "p99"):
            most_s = duration_s(str(wanted)) or 0.0
            if told[f"{what}_s"] > most_s:
                failed.append(f"{what} is {told[f'{what}_s']:.3f} s, {key} is {wanted}")
        else:
            number, relative = part(wanted) or (0.0, False)
            limit = number * told["requests"] if relative else number
            if (told[what] < limit) if bound == "min" else (told[what] > limit):
                failed.append(f"{what} is {told[what]} of {told['requests']}, {key} is {wanted}")
    return failed
