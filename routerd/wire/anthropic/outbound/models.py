"""What a Claude model accepts, told from its name: which form of thinking, sampling parameters, native JSON schemas.

Cuts are by version, not by list: a new model is covered on its first day. Sources: Anthropic's pages "Troubleshooting thinking",
"Adaptive thinking", "Effort", "Structured outputs" and the migration guide; the 400s they describe are in public issues.
A name without a version (an Anthropic-compatible engine) is taken for a model of the 4.0 kind: the widest common form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Abilities", "abilities"]

_VERSION = re.compile(r"claude-(?:[a-z]+-)*(\d{1,2})(?:[-.@](\d{1,2})(?!\d))?")


@dataclass(frozen=True, slots=True)
class Abilities:
    """`thinking` is `none`, `budget` (enabled, with budget_tokens) or `adaptive` (adaptive, with output_config.effort)."""

    thinking: str
    sampling: bool  # temperature, top_p, top_k other than the default
    both_sampling: bool  # temperature and top_p together
    json_schema: bool  # output_config.format
    xhigh: bool  # output_config.effort "xhigh"


def abilities(model: str) -> Abilities:
    """Return what `model` accepts.

    thinking: none before 3.7, a budget up to 4.5, adaptive from 4.6 (from 4.7 a budget is a 400). Sampling parameters: a 400
    from 4.7; temperature beside top_p: a 400 from 4.1. JSON schemas: from 4.5. Effort xhigh: from 4.7.
    """
    version = _version(model.lower())
    if version is None:
        return Abilities("budget", True, True, False, False)
    thinking = "none" if version < (3, 7) else "budget" if version < (4, 6) else "adaptive"
    return Abilities(thinking, version < (4, 7), version < (4, 1), version >= (4, 5), version >= (4, 7))


def _version(model: str) -> tuple[int, int] | None:
    found = _VERSION.search(model)
    if found is not None:
        return int(found[1]), int(found[2] or 0)
    return (4, 7) if "claude-mythos" in model else None  # the preview carries no number
