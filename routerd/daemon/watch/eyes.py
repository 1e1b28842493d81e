"""Looks at the inputs with their content, and rests until another look is worth it. Blocks: for a thread.

A rest ends when the kernel says that something moved and something did, when `stat` tells another story, or with the second.
Where the kernel tells of every change it is slept through; else `stat` is asked each `POLL_S`. A change that came without a word
shows that the kernel cannot be believed here (a file system was mounted over, a host wrote below a container); from then on
`stat` is asked. What only the content tells (the same size and times) is seen by the look of the second.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from routerd.daemon.tasks import to_mark
from routerd.daemon.watch.kernel import Came, Kernel
from routerd.daemon.watch.look import MISSING, Look, Sign, differs, look_at, places

__all__ = ["POLL_S", "Eyes"]

log = logging.getLogger("routerd.watch")

POLL_S = 0.05
LOOK_EVERY_S = 1.0
READ_EVERY_S = 0.9  # with each of those looks, which may come a little early,
READ_SHARE = 0.002  # but for so much of a core: a megabyte takes 1 ms
SOON_S = 0.005  # a notification comes at the first of several steps of a writer


class Notifier(Protocol):
    """What tells of changes: `kernel.Kernel`."""

    def watch(self, directories: Iterable[str]) -> bool: ...
    def wait(self, timeout_s: float) -> Came: ...
    def forget(self) -> None: ...
    def wake(self) -> None: ...


class Eyes:
    """Looks at a set of paths, and remembers the content hashes between the looks that read."""

    def __init__(
        self,
        kernel: Notifier | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._kernel = kernel or Kernel()
        self._clock = clock
        self._sleep = sleep
        self._hashes: dict[Path, str] = {}
        self._read_at_s = 0.0
        self._watched: Look = {}
        self._believes = True
        self.wake = self._kernel.wake

    def look(self, paths: Iterable[Path], *, content: bool | None = None) -> dict[Path, Sign]:
        """Return the signs of `paths`; with `content` every file is read. None: if it is time for that."""
        now_s, began_s = self._clock(), time.thread_time()
        if content is None:
            content = now_s >= self._read_at_s
        out: dict[Path, Sign] = {}
        for path in paths:
            sign = look_at(path)
            if sign.present:
                if content or path not in self._hashes:
                    self._hashes[path] = _content_hash(path)
                gone = self._hashes[path] == "ENOENT"  # between the two looks
                sign = MISSING if gone else replace(sign, sha256=self._hashes[path])
            out[path] = sign
        if content:
            self._read_at_s = now_s + max(READ_EVERY_S, (time.thread_time() - began_s) / READ_SHARE)
        return out

    def await_change(self, paths: Iterable[Path], seen: Look, looked: Callable[[Look], None]) -> dict[Path, Sign]:
        """Return a look as soon as it is another one than `seen`, or somebody calls `wake`. `looked` is told of every look."""
        while True:
            woken = self._rest(seen, to_mark(LOOK_EVERY_S, self._clock()))
            now = self.look(paths)
            looked(now)
            if woken or now != seen:
                return now

    def _rest(self, look: Look, length_s: float) -> bool:
        """Rest until `look` is out of date, as far as kernel and `stat` tell, or for that time; return whether it was woken."""
        ends_at_s = self._clock() + length_s
        told = self._is_told(look)
        pause_s = SOON_S
        if differs(look):  # since it was taken, before it was watched
            return False
        while (left_s := ends_at_s - self._clock()) > 0:
            came = self._kernel.wait(left_s if told else min(POLL_S, left_s))
            if came is Came.WOKEN:
                return True
            if came is Came.TOLD:  # whoever writes beside the inputs, and often, wakes no more than the poll would
                self._sleep(pause_s)
                self._kernel.forget()
                pause_s = min(2 * pause_s, POLL_S)
                self._watched = {}
            if differs(look):
                if told and came is Came.NOTHING:
                    self._doubt()
                break
        return False

    def _is_told(self, look: Look) -> bool:
        """Have the kernel watch what `look` saw, unless it does already; return whether it will tell of every change."""
        if not self._believes:
            return False
        if look and look == self._watched:
            return True
        self._watched = {}
        if (directories := places(look)) is None:
            return False
        told = self._kernel.watch(directories)
        if told:
            self._watched = look
        return told

    def _doubt(self) -> None:
        """A change was seen that nobody told of."""
        if self._kernel.wait(0.0) is Came.NOTHING:
            self._believes = False
            log.info("a change came without a notification; from now on files are asked each %d ms", POLL_S * 1000)

    def being_written(self, paths: Iterable[Path]) -> bool:
        """Return whether a writer has any of `paths` open."""
        return any(_is_being_written(path) for path in paths if path.is_file())


def _content_hash(path: Path) -> str:
    """Return the digest of the content, or a word for why it cannot be read."""
    try:
        if path.is_dir():
            return ""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, "unreadable")


def _is_being_written(path: Path) -> bool:
    """Return whether some process has `path` open for writing. The kernel grants a read lease only if none has.

    Not every file system and owner may ask; then the answer is no, and the settle time alone decides.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # A writer that opens it right now has the kernel signal us; SIGIO, the default, would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as exc:
        return exc.errno == errno.EAGAIN
    finally:
        os.close(fd)
    return False
