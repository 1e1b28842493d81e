"""Which endpoints an operator has drained, and since when: a drain holds until it is taken back, over edits and restarts.

Known by the name, which is what the operator said; a name that is not configured now stays drained for when it comes back. With a
state directory the list is one small file there, replaced at every change; a disk that refuses is a warning and a field of the
status, never a failure. What serves is not decided here: `vitals` marks the endpoints.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Drains"]

log = logging.getLogger("routerd.health")

FILE = "drains.json"


class Drains:
    """The drained names. `directory` None: for the life of the daemon only; `wall` is Unix time."""

    def __init__(self, directory: Path | None, wall: Callable[[], float]) -> None:
        self._path = directory / FILE if directory is not None else None
        self._wall = wall
        self._since: dict[str, float] = {}
        self.error = ""  # why the last change is not on disk
        if self._path is not None:
            self._since = _read(self._path)

    def __contains__(self, name: str) -> bool:
        return name in self._since

    def __iter__(self) -> Iterator[str]:
        return iter(self._since)

    def since(self, name: str) -> float | None:
        """Return since when it is drained, Unix time; None when it is not."""
        return self._since.get(name)

    def change(self, name: str, drained: bool) -> None:
        """Drain a name, or take that back."""
        if drained == (name in self._since):
            return
        if drained:
            self._since[name] = round(self._wall(), 3)
        else:
            del self._since[name]
        self._write()

    def rename(self, names: Mapping[str, str]) -> None:
        """Follow endpoints to their new names: old -> new."""
        if not names:
            return
        moved = {new: self._since[old] for old, new in names.items()}
        self._since = {name: at for name, at in self._since.items() if name not in names} | moved
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(fresh, "w", encoding="utf-8") as file:
                json.dump({"drained": self._since}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
            self.error = ""
        except OSError as exc:
            self.error = exc.strerror or str(exc)
            log.warning("drains do not outlast the daemon: %s cannot be written: %s", self._path, self.error)


def _read(path: Path) -> dict[str, float]:
    """Return what is on disk; nothing when there is none, or none that makes sense."""
    try:
        found: Any = json.loads(path.read_bytes())["drained"]
        return {str(name): float(since) for name, since in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        log.warning("which endpoints were drained cannot be read from %s: %s", path, exc)
        return {}
