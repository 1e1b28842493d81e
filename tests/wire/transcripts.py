"""Recorded answers of providers, for the tests of this directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1] / "transcripts"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded answer."""

    name: str  # provider/file
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    request: Any  # the body that the recorder's client sent

    @property
    def native(self) -> bool:
        """Whether the provider speaks a language of its own, not OpenAI's."""
        return self.name.partition("/")[0] in {"anthropic", "cohere", "gemini", "ollama"}


def load(pattern: str) -> list[Recorded]:
    """Return the recordings whose `provider/file` matches, sorted by name."""
    found = []
    for path in sorted(ROOT.glob(pattern)):
        exchange = json.loads(path.read_text())
        response = exchange["response"]
        headers = [(name.encode(), str(value).encode()) for name, value in response["headers"].items()]
        name = f"{path.parent.name}/{path.stem}"
        found.append(Recorded(name, response["status"], headers, response["body_text"].encode(), exchange["request"]["body"]))
    return found
