"""How a reload ended, in one word out of a closed set: the same in metrics, log, events and API answers.

    applied       a new generation serves (after a rollback: that of then, under a new number)
    unchanged     the files say what serves already
    read ... build  the stage that found the problems; what served before still serves
    shrink_guard  too much would be gone; what served before still serves
    reverted      a generation was rolled back by probation, or the files hold what was rolled back
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from routerd.daemon.output.report import is_unreadable, problem_as_json
from routerd.daemon.workers.generation import NO_WORKER
from routerd.errors import STAGES, Problem

__all__ = ["RESULTS", "REVERTED", "SHRINK_GUARD", "TRIGGERS", "Outcome"]

SHRINK_GUARD, REVERTED = "shrink_guard", "reverted"
TRIGGERS = ("start", "file", "signal", "api", "rollback", "probation")
RESULTS = ("applied", "unchanged", *STAGES, SHRINK_GUARD, REVERTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one reload ended. `generation`, `digest` and `source` are of what serves now; `rolled_back_to` is 0 or a number."""

    trigger: str
    result: str
    generation: int
    digest: str
    at_unix_s: float
    duration_s: float = 0.0
    problems: tuple[Problem, ...] = ()
    changes: tuple[str, ...] = ()
    source: str = "file"
    rolled_back_to: int = 0

    @property
    def untried(self) -> bool:
        """Whether nothing is wrong with the files, but no worker was up to take them."""
        return any(problem.code == NO_WORKER for problem in self.problems)

    @property
    def unreadable(self) -> bool:
        """Whether it failed for files that are missing or may not be read, and for nothing else."""
        return is_unreadable(self.problems)

    @property
    def ok(self) -> bool:
        """Whether what was asked for serves now."""
        return self.result in ("applied", "unchanged")

    @property
    def event(self) -> str:
        """The name of the event that tells of it."""
        if self.rolled_back_to and self.result in ("applied", REVERTED):
            return "rolled_back"
        return f"reload_{self.result}" if self.ok else "reload_rejected"

    def as_json(self) -> dict[str, Any]:
        """Return it with plain values."""
        told = {
            "result": self.result,
            "trigger": self.trigger,
            "generation": self.generation,
            "digest": self.digest,
            "source": self.source,
            "at_unix_s": round(self.at_unix_s, 3),
            "duration_s": round(self.duration_s, 6),
            "problems": [problem_as_json(problem) for problem in self.problems],
            "changes": list(self.changes),
        }
        return told | ({"rolled_back_to": self.rolled_back_to} if self.rolled_back_to else {})
