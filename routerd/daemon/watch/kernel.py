"""Notifications of the kernel for some directories and files: inotify(7), by the C library.

What is watched are directories, for a watch on a file ends with the first save that replaces it; and the files only for writes in
place, so that others who write in those directories (a log) wake nobody. Directories above are watched for their own move.
What was said is not read: it only means that a look is worth it. Nobody depends on it: `watch` tells whether the kernel says all,
which it does not on file systems that other machines write to.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import logging
import os
import select
import time
import weakref
from collections.abc import Callable, Iterable, Mapping

__all__ = ["Came", "Kernel"]

log = logging.getLogger("routerd.watch")

RETRY_S = 30.0  # until inotify is asked for again that had no room

# linux/inotify.h
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_MASK_ADD = 0x20000000  # two paths may lead to one inode
ITSELF = IN_DELETE_SELF | IN_MOVE_SELF
ENTRIES = IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | ITSELF

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
    """One inotify instance, made at the first `watch`. For one thread at a time, but for `wake`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)
        weakref.finalize(self, os.close, self._wake_fd)
        self._fd = -1
        self._watches: set[int] = set()
        self._not_before_s = 0.0
        self._without: str = ""

    def watch(self, directories: Iterable[str], files: Iterable[str], above: Iterable[str]) -> bool:
        """Watch these and no others from now on; return whether every change of them will be told."""
        if self._clock() < self._not_before_s:
            return False
        wanted = {**dict.fromkeys(above, ITSELF), **dict.fromkeys(files, IN_MODIFY), **dict.fromkeys(directories, ENTRIES)}
        try:
            self._open()
            told = self._add(wanted, required=frozenset(directories))
        except OSError as exc:  # no inotify instance or watch is left
            self._not_before_s = self._clock() + RETRY_S
            log.info("no file notifications (%s); polling does the work", exc.strerror)
            return False
        return told and all(self._is_local(directory) for directory in directories)

    def wait(self, timeout_s: float) -> Came:
        """Wait for the kernel's word, at most that long, and forget what it was."""
        ready = [fd for fd, _ in self._poll.poll(max(0.0, timeout_s) * 1000)]
        if self._fd in ready:
            self.forget()
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
            return Came.WOKEN
        return Came.TOLD if ready else Came.NOTHING

    def forget(self) -> None:
        """Take what the kernel said so far as known."""
        try:
            while self._fd >= 0 and os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """End the wait, or the next one if nobody waits. From any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def _open(self) -> None:
        if self._fd >= 0:
            return
        fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise self._error()
        self._fd = fd
        self._poll.register(fd, select.POLLIN)
        weakref.finalize(self, os.close, fd)

    def _add(self, wanted: Mapping[str, int], required: frozenset[str]) -> bool:
        """Watch what is wanted and nothing else; return whether all that is required could be."""
        watches, all_there = set(), True
        for path, mask in wanted.items():
            watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask | IN_MASK_ADD)
            if watch >= 0:
                watches.add(watch)
                continue
            error = self._error()
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise error
            all_there = all_there and path not in required  # gone, or not ours to read
        for watch in self._watches - watches:
            self._libc.inotify_rm_watch(self._fd, watch)
        self._watches = watches
        return all_there

    def _is_local(self, directory: str) -> bool:
        """Return whether only this machine writes to where `directory` is."""
        found = (ctypes.c_long * 64)()  # struct statfs begins with the type, and is shorter than that
        return self._libc.statfs(os.fsencode(directory), found) == 0 and found[0] & 0xFFFFFFFF in LOCAL

    def _error(self) -> OSError:
        code = ctypes.get_errno()
        return OSError(code, os.strerror(code))
