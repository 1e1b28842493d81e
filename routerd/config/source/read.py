"""Files to bytes: each is read once, whole, and only if it did not change meanwhile (R5).

Hash, parse and line numbers come from the same bytes. Every path that was asked for is remembered, there or not: the watcher
needs those whose appearance would heal the configuration. Only regular files are read: a pipe or a device could block for ever.
A load can be repeated without its files: `Reader.kept` gives everything that was read under the name it was asked by, secrets
apart, and a Reader made of it answers from there; secrets always come from their files.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# A writer that changes the file during five reads in a row is still writing; the watcher comes again when it settles.
READ_TRIES = 5


@dataclass(frozen=True, slots=True)
class Input:
    """Something the configuration depends on. `sha256` is empty for a missing file; a directory's is over its matches."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The inputs of one load as they were: absolute paths to bytes, absolute patterns to what they matched. No secret files."""

    main: str
    files: Mapping[str, bytes] = field(repr=False)
    matches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class ReadFailure(Exception):
    """A file could not be read: a code and a message for a Problem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Reader:
    """Reads the inputs of one load and remembers them. With `kept`, files and directories are those of an earlier load."""

    def __init__(self, kept: Kept | None = None) -> None:
        self._kept = kept
        self._known: dict[Path, bytes | ReadFailure] = {}
        self._inputs: dict[Path, Input] = {}
        self._secret: set[Path] = set()
        self._matches: dict[str, tuple[str, ...]] = {}

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Everything asked for so far, in order."""
        return tuple(self._inputs.values())

    def kept(self, main: Path) -> Kept:
        """Return what was read, secrets apart, for a load that repeats this one."""
        files = {
            os.path.abspath(path): data
            for path, data in self._known.items()
            if isinstance(data, bytes) and path not in self._secret
        }
        matches = {pattern: tuple(map(os.path.abspath, found)) for pattern, found in self._matches.items()}
        return Kept(main=os.path.abspath(main), files=files, matches=matches)

    def read(self, path: Path, *, max_bytes: int, secret: bool = False) -> bytes:
        """Return the content of `path`; raise ReadFailure. A second call returns the bytes of the first."""
        known = self._known.get(path)
        if known is None:
            try:
                known = _read(path, max_bytes) if secret or self._kept is None else _from(self._kept, path)
            except ReadFailure as failure:
                known = failure
            self._known[path] = known
            digest = "" if isinstance(known, ReadFailure) else hashlib.sha256(known).hexdigest()
            self._inputs[path] = Input(path, digest)
        if secret:
            self._secret.add(path)
        if isinstance(known, ReadFailure):
            raise known
        if len(known) > max_bytes:
            raise _too_large(max_bytes)
        return known

    def matches(self, pattern: str) -> list[str]:
        """Return the paths that a glob pattern matches, sorted."""
        name = os.path.abspath(pattern)
        found = glob.glob(pattern) if self._kept is None else self._kept.matches.get(name, ())
        self._matches[name] = tuple(sorted(found))
        return list(self._matches[name])

    def listing(self, directory: Path, names: list[str]) -> None:
        """Remember that what `directory` holds decides which files are read."""
        known = self._inputs.get(directory)
        text = "\n".join(names) + ("\n" + known.sha256 if known else "")
        self._inputs[directory] = Input(directory, hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest())


def _from(kept: Kept, path: Path) -> bytes:
    found = kept.files.get(os.path.abspath(path))
    if found is None:
        raise ReadFailure("missing-file", "the file does not exist")
    return found


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        for _ in range(READ_TRIES):
            data = _read_settled(path, max_bytes)
            if data is not None:
                return data
    except FileNotFoundError:
        raise ReadFailure("missing-file", "the file does not exist") from None
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a usable path"
        raise ReadFailure("unreadable-file", f"the file cannot be read: {reason.lower()}") from exc
    raise ReadFailure("file-changing", "the file kept changing while it was read")


def _read_settled(path: Path, max_bytes: int) -> bytes | None:
    """Read the file; None when it changed or was replaced during that."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise ReadFailure("not-a-file", "not a regular file")
        if before.st_size > max_bytes:
            raise _too_large(max_bytes)
        pieces: list[bytes] = []
        left = max_bytes + 1
        while left > 0 and (piece := os.read(fd, min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if left <= 0:
        raise _too_large(max_bytes)
    if _version(before) != _version(after) or _version(after) != _version(os.stat(path)):
        return None
    return b"".join(pieces)


def _version(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _too_large(max_bytes: int) -> ReadFailure:
    return ReadFailure("file-too-large", f"the file is larger than {max_bytes // 1024} KiB")
