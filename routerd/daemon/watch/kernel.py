"""Notifications of the kernel for some directories, by watchfiles: what lets the eyes rest.

What is watched are directories, for a watch on a file ends with the first save that replaces it. What was said is not read: it
only means that a look is worth it. Nobody depends on it: `watch` tells whether the kernel says all, which it does not on file
systems that other machines write to.
watchfiles hands changes over in steps. A step is a sleep outside of the interpreter; 200 a second cost 0.4 % of a core, 100 cost
0.3 %, and a change waits for one or two of them, of 80 ms from a rename to serving. Its Rust backend is used as such
(watchfiles.helpmanual.io/api/rust_backend): `awatch` tells of no failure to watch before the first change.
"""

from __future__ import annotations

import ctypes
import enum
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

__all__ = ["Came", "Kernel"]

log = logging.getLogger("routerd.watch")

STEP_MS = 10
DEBOUNCE_MS = 10  # the first word is enough: it is the look that counts
RETRY_S = 30.0  # until notifications are asked for again for which there was no room

# linux/magic.h: file systems that only this machine writes to, so that it knows of every change.
LOCAL = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xF2F52010,  # f2fs
        0xCA451A4E,  # bcachefs
        0x2FC12FC1,  # zfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlayfs
    }
)


class Came(enum.Enum):
    """What ended a wait."""

    NOTHING = enum.auto()
    TOLD = enum.auto()  # the kernel said that something moved
    WOKEN = enum.auto()


class Kernel:
    """What watches now. For one thread at a time, but for `wake`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, notify: Callable[..., RustNotify] = RustNotify) -> None:
        self._clock = clock
        self._notify = notify
        self._watching: RustNotify | None = None
        self._woken = threading.Event()
        self._not_before_s = 0.0

    def watch(self, directories: Iterable[str]) -> bool:
        """Watch these and no others from now on; return whether every change of them will be told."""
        self._watching = None
        if self._clock() < self._not_before_s:
            return False
        places = sorted(directories)
        there = [place for place in places if os.path.isdir(place)]
        if not there:
            return False
        try:
            self._watching = self._notify(there, False, False, 0, False, True)
        except FileNotFoundError:  # it went meanwhile
            return False
        except (OSError, WatchfilesRustInternalError) as exc:  # no inotify instance or watch is left
            self._not_before_s = self._clock() + RETRY_S
            log.info("no file notifications (%s); polling does the work", exc)
            return False
        return there == places and all(os.access(place, os.R_OK) and _is_local(place) for place in places)

    def wait(self, timeout_s: float) -> Came:
        """Wait for the kernel's word, at most that long, and forget what it was."""
        if self._watching is None:
            came = Came.WOKEN if self._woken.wait(max(0.0, timeout_s)) else Came.NOTHING
        else:
            timeout_ms = max(1, round(timeout_s * 1000))
            said = self._watching.watch(DEBOUNCE_MS, min(STEP_MS, timeout_ms), timeout_ms, self._woken)
            came = Came.WOKEN if said == "stop" else Came.NOTHING if isinstance(said, str) else Came.TOLD
        if came is Came.WOKEN:
            self._woken.clear()
        return came

    def forget(self) -> None:
        """Take what the kernel said so far as known."""
        if self._watching is not None:
            self._watching.watch(1, 1, 1, None)

    def wake(self) -> None:
        """End the wait, or the next one if nobody waits. From any thread."""
        self._woken.set()


def _is_local(directory: str) -> bool:
    """Return whether only this machine writes to where `directory` is."""
    found = (ctypes.c_long * 64)()  # struct statfs begins with the type, and is shorter than that
    return ctypes.CDLL(None).statfs(os.fsencode(directory), found) == 0 and found[0] & 0xFFFFFFFF in LOCAL
