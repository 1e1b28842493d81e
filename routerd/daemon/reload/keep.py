"""The inputs of the last good load, on disk: what `serve --on-invalid last-good` starts from when the files are wrong.

One JSON file holds them all, so that one rename replaces them all: a crash leaves the old ones or the new ones. What is kept is
bytes as they were read, under the paths by which they were found: loaded again they give the same graph, and messages name the
same lines. `${NAME}` and secret files are not resolved in it; a credential written into routes.yaml itself is in it, so it is
for the owner only: directory 0700, file 0600. Writing happens in a thread, after the swap, newest wins; a disk that refuses is a
warning and a field of the status, never a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routerd.config import Kept

__all__ = ["Keeper", "LastGood", "Unusable", "read", "write"]

log = logging.getLogger("routerd.keep")

DIRECTORY = "last-good"
FILE = "inputs.json"
FORMAT = 1


class Unusable(Exception):
    """There is nothing to start from, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """What is kept, and of which generation."""

    digest: str
    at_unix_s: float
    kept: Kept


def write(state_dir: Path, good: LastGood) -> Path:
    """Keep `good`, durably and all or nothing; return where. OSError says why not. Blocks until the disk has it."""
    directory = state_dir / DIRECTORY
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(directory, 0o700)
    path = directory / FILE
    fresh = directory / f".{FILE}.new"
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(_encode(good))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
    return path


def read(state_dir: Path, main: Path) -> LastGood:
    """Return what is kept for the configuration at `main`; Unusable says why there is nothing."""
    path = state_dir / DIRECTORY / FILE
    try:
        good = _decode(path.read_bytes())
    except FileNotFoundError:
        raise Unusable(f"no configuration was kept in {path.parent} yet") from None
    except OSError as exc:
        raise Unusable(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise Unusable(f"{path} is damaged") from exc
    if good.kept.main != os.path.abspath(main):
        raise Unusable(f"{path} is of another configuration: {good.kept.main}")
    return good


def _encode(good: LastGood) -> bytes:
    kept = good.kept
    body = {
        "digest": good.digest,
        "at_unix_s": round(good.at_unix_s, 3),
        "main": kept.main,
        "files": {name: data.decode("utf-8", "surrogateescape") for name, data in kept.files.items()},
        "matches": {pattern: list(found) for pattern, found in kept.matches.items()},
    }
    text = json.dumps(body, indent=1)
    return json.dumps({"format": FORMAT, "sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}).encode()


def _decode(data: bytes) -> LastGood:
    envelope = json.loads(data)
    text = envelope["body"]
    if envelope["format"] != FORMAT or hashlib.sha256(text.encode()).hexdigest() != envelope["sha256"]:
        raise ValueError("checksum")
    body: dict[str, Any] = json.loads(text)
    kept = Kept(
        main=body["main"],
        files={name: text.encode("utf-8", "surrogateescape") for name, text in body["files"].items()},
        matches={pattern: tuple(found) for pattern, found in body["matches"].items()},
    )
    return LastGood(digest=body["digest"], at_unix_s=float(body["at_unix_s"]), kept=kept)


class Keeper:
    """Keeps the newest good load on disk, one write at a time. Without a state directory it keeps nothing."""

    def __init__(self, state_dir: Path | None, wall: Callable[[], float]) -> None:
        self._state_dir = state_dir
        self._wall = wall
        self._next: LastGood | None = None
        self._kick = asyncio.Event()
        self._kept: LastGood | None = None
        self._error = ""

    def keep(self, digest: str, kept: Kept | None) -> None:
        """Have this load kept soon."""
        if self._state_dir is not None and kept is not None:
            self._next = LastGood(digest=digest, at_unix_s=self._wall(), kept=kept)
            self._kick.set()

    def found(self, good: LastGood) -> None:
        """This was kept by an earlier life of the daemon."""
        self._kept = good

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        good, self._next = self._next, None
        if good is None or self._state_dir is None:
            return
        try:
            await asyncio.to_thread(write, self._state_dir, good)
        except OSError as exc:
            why = exc.strerror or str(exc)
            if not self._error:
                log.warning("the last good configuration cannot be kept in %s: %s; it serves all the same", self._state_dir, why)
            self._error = why
        else:
            self._kept, self._error = good, ""

    def as_json(self) -> dict[str, Any] | None:
        """Return what is kept, and what is wrong, with plain values; None without a state directory."""
        if self._state_dir is None:
            return None
        return {
            "path": str(self._state_dir / DIRECTORY / FILE),
            "digest": self._kept.digest if self._kept else "",
            "at_unix_s": self._kept.at_unix_s if self._kept else 0.0,
            "error": self._error,
        }
