"""One look at a path: the links on its way, and device, inode, modification time, change time and size of what they lead to.

Links are followed by hand, because a link that moved is a change, and because their directories must be watched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MISSING", "Look", "Sign", "differs", "look_at", "places"]

LINKS_MOST = 40  # the kernel's own limit


@dataclass(frozen=True, slots=True)
class Sign:
    """What one look at one path saw. `sha256` is of the last look that read the content; empty when none did."""

    links: tuple[tuple[str, str], ...] = ()
    identity: tuple[int, int] = (0, 0)  # device, inode
    state: tuple[int, int, int] = (0, 0, 0)  # mtime_ns, ctime_ns, size
    sha256: str = ""
    present: bool = True
    within: str = ""  # the directory in which the last link ends: the path itself, if it is one


MISSING = Sign(present=False)
Look = Mapping[Path, Sign]


def look_at(path: Path) -> Sign:
    """Return the sign of `path` as it is now, without its content. Never raises OSError: what cannot be seen is missing."""
    try:
        links, place = _way(path)
        found = os.stat(path)
    except OSError:
        return MISSING
    is_directory = stat.S_ISDIR(found.st_mode)
    identity, state = _stamp(found)
    return Sign(links=links, identity=identity, state=state, within=place if is_directory else os.path.dirname(place))


def differs(look: Look) -> bool:
    """Return whether a path is not as `look` saw it: one `stat` each, and no content. Cheaper by far than another look."""
    for path, sign in look.items():
        try:
            now = _stamp(os.stat(path))
        except OSError:
            if sign.present:
                return True
            continue
        if not sign.present or now != (sign.identity, sign.state):
            return True
    return False


def places(look: Look) -> set[str] | None:
    """Return the directories in which a change of these paths would show; None when that cannot be known.

    They are those of the files and of the links on their way. For what is missing it is where it would be.
    """
    directories: set[str] = set()
    for path, sign in look.items():
        links, within = sign.links, sign.within
        if not sign.present:
            try:
                links, place = _way(path)
            except OSError:
                return None
            within = os.path.dirname(place)
        directories.add(within)
        directories.update(os.path.dirname(link) for link, _ in links)
    return directories


def _stamp(found: os.stat_result) -> tuple[tuple[int, int], tuple[int, int, int]]:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return (found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_ctime_ns, size)


def _way(path: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return every symbolic link on the way to `path` with its text, in the order they are followed, and where they lead.

    A way that ends leads to the first part that is not there. Raises OSError when it cannot be followed.
    """
    out: list[tuple[str, str]] = []
    todo = _parts(os.path.abspath(path))
    at = "/"
    while todo and len(out) < LINKS_MOST:
        part = todo.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        at = os.path.join(at, part)
        try:
            if not stat.S_ISLNK(os.lstat(at).st_mode):
                continue
            text = os.readlink(at)
        except FileNotFoundError:
            break
        out.append((at, text))
        at = "/" if text.startswith("/") else os.path.dirname(at)
        todo.extend(_parts(text))
    return tuple(out), at


def _parts(path: str) -> list[str]:
    """Return the parts of `path`, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
