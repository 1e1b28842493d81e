"""Plain values to the text of routes.yaml, with what could not be carried over on top of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from routerd.daemon.commands.init import SCHEMA_LINE

__all__ = ["Taken", "credential", "word", "written"]


class _Plain(yaml.SafeDumper):
    """Writes no anchors: a value that stands in two places is written twice."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


class Taken:
    """The providers of the new file; two uses of the same one share its name."""

    def __init__(self) -> None:
        self.providers: dict[str, dict[str, Any]] = {}

    def name(self, wanted: str, body: dict[str, Any]) -> str:
        """Return the name of the provider with this body; a new one has the wanted name, or one with a number."""
        for name, known in self.providers.items():
            if known == body:
                return name
        name, number = word(wanted), 2
        while name in self.providers:
            name, number = f"{word(wanted)}-{number}", number + 1
        self.providers[name] = body
        return name


def word(text: str) -> str:
    """Return a name that a provider may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "provider"


def credential(value: str, variable: str) -> dict[str, Any]:
    """Return the keys of a provider or client with this credential; out of the environment it is optional."""
    if variable:
        return {"optional": True, "key": f"${{{variable}:-}}"}
    return {"key": value.replace("${", "$${")} if value else {}


def written(document: Mapping[str, Any], source: str, left: Sequence[str]) -> str:
    """Return the file."""
    head = [SCHEMA_LINE, f"# From {source}. See what it does: routerd check, routerd explain --model NAME"]
    if left:
        head += ["#", "# Not carried over:", *(f"#   {' '.join(line.split())}" for line in left)]
    full = {key: value for key, value in document.items() if value or key in ("version", "models")}
    body = yaml.dump(full, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    return "\n".join([*head, body])
