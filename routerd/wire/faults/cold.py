"""Which errors of one provider mean that its model is still being loaded: the rules of `cold_start`, prepared once a generation.

Only the texts of an error are searched, not its whole body, and of these the first 4 KiB: others wrote what is looked at.
"""

from __future__ import annotations

import re

from routerd.errors import ERROR_TYPE_OF_KIND, Delivery, ErrorKind, UpstreamError
from routerd.graph import Provider
from routerd.wire.faults.errorbody import read_error

__all__ = ["ColdAnswers"]

MAX_CHARS = 4096


class ColdAnswers:
    """The rules of one provider."""

    __slots__ = ("_rules",)

    def __init__(self, rules: list[tuple[int | None, re.Pattern[str] | None]]) -> None:
        self._rules = rules

    @classmethod
    def of(cls, provider: Provider) -> ColdAnswers | None:
        """Return the rules of a provider; None where it has none."""
        if provider.cold_start is None:
            return None
        return cls([(rule.status, re.compile(rule.body) if rule.body else None) for rule in provider.cold_start.when])

    def mark(self, error: UpstreamError) -> None:
        """Make it an error of the kind COLD where a rule says so. An error inside a 200 has no status: there the text decides."""
        if error.delivery is Delivery.ANSWERED and self._means(error):
            error.kind = ErrorKind.COLD
            error.error_type = ERROR_TYPE_OF_KIND[ErrorKind.COLD]

    def _means(self, error: UpstreamError) -> bool:
        text: str | None = None
        for status, pattern in self._rules:
            if status != error.status and status is not None and not (error.status is None and pattern is not None):
                continue
            if pattern is None:
                if error.status is not None:
                    return True
                continue
            if text is None:
                text = _text(error)
            if pattern.search(text) is not None:
                return True
        return False


def _text(error: UpstreamError) -> str:
    texts = [error.message]
    if error.body:
        texts += read_error(error.body).texts
    return "\n".join(dict.fromkeys(texts))[:MAX_CHARS]
