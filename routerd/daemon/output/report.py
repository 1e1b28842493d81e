"""Problems of the configuration on their way out: to the log, the admin listener, a terminal. Never with a secret.

A problem shows its source line, and that line may hold a credential written in place. It is covered with stars of the same
length, so that the caret below still points at its column. References (`${NAME}`, `{env: NAME}`) are no secrets and stay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, Any

from routerd.daemon.output.terminal import paint_for
from routerd.errors import Problem

__all__ = ["is_unreadable", "problem_as_json", "report", "without_secrets"]

_NAME = r"(?:[\w-]*[_-])?(?:api_?key|key|key_sha256|secret|(?<!first_)token|password|passwd|authorization|cookie)"
_SECRET = re.compile(
    rf"""((?<![\w-])(?<!\$\{{){_NAME}["']?\s*:\s*)  # the key
    (?!["']?\$)                           # a reference is none
    ("[^"]*"?|'[^']*'?|\[[^\]]*\]?|[^\s,{{}}\[\]#][^,}}\]#]*)""",
    re.IGNORECASE | re.VERBOSE,
)
_CANNOT_READ = frozenset({"missing-file", "unreadable-file", "not-a-file", "file-changing"})
_USER = re.compile(r"(://)([^/\s@]+)(?=@)")


def without_secrets(problem: Problem) -> Problem:
    """Return `problem` with the credentials of its source line covered."""
    source = problem.source
    for pattern in (_SECRET, _USER):
        source = pattern.sub(lambda found: found[1] + "*" * len(found[2].rstrip()) + _trailing(found[2]), source)
    return problem if source == problem.source else replace(problem, source=source)


def _trailing(text: str) -> str:
    return text[len(text.rstrip()) :]


def problem_as_json(problem: Problem) -> dict[str, Any]:
    """Return `problem` with plain values, for the API and for `check --format json`."""
    safe = without_secrets(problem)
    return {name: getattr(safe, name) for name in Problem.__slots__}


def report(problems: Sequence[Problem], stream: IO[str]) -> str:
    """Return `problems` as an operator reads them, in colour if `stream` is a terminal that wants it."""
    from routerd.config import render

    return render([without_secrets(problem) for problem in problems], paint=paint_for(stream)).rstrip("\n")


def is_unreadable(problems: Sequence[Problem]) -> bool:
    """Return whether every error among `problems` is a file that is missing or cannot be read."""
    errors = [problem for problem in problems if problem.severity == "error"]
    return bool(errors) and all(problem.stage == "read" and problem.code in _CANNOT_READ for problem in errors)
