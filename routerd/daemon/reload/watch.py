"""When have the inputs changed, and is the writer done? `Settle` decides; `Eyes` looks; `Watcher` is the loop around them.

Truth is a look at every input each 50 ms: the links on its way, and mtime, ctime, size, inode and device of what they lead to;
each second also its content. Kernel notifications on the directories only wake the next look sooner; nothing depends on them.
A change is taken up when looks agree for the settle time, at most 1 s after it was first seen. How long depends on the writer:

1. something is missing (delete and create, a volume being swapped): up to the 1 s
2. a writer still has the file open: up to the 1 s (where the file system can tell)
3. written in place, same inode: twice the settle time, because chunks may come with pauses
4. replaced by another file or link: the settle time

How often changes that do not end are built is for `reload.throttle` to say. The look that counts as taken up is the one from
before the file was read, so a change during the read is seen afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import signal
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from routerd.daemon.reload.throttle import Throttle

__all__ = ["Eyes", "Settle", "Sign", "Watcher", "look_at", "notifications"]

log = logging.getLogger("routerd.watch")

POLL_S = 0.05
HASH_EVERY_S = 1.0
AT_MOST_S = 1.0
EARLY_S = 0.002  # a timer that fires a little early must not cost a whole look


@dataclass(frozen=True, slots=True)
class Sign:
    """What one look at one path saw. `sha256` is of the last look that read the content; empty when none did."""

    links: tuple[tuple[str, str], ...] = ()
    identity: tuple[int, int] = (0, 0)  # device, inode
    state: tuple[int, int, int] = (0, 0, 0)  # mtime_ns, ctime_ns, size
    sha256: str = ""
    present: bool = True


MISSING = Sign(present=False)
Look = Mapping[Path, Sign]


class Settle:
    """Decides from a series of looks when a change is complete. Knows no clock and no file."""

    def __init__(self, settle_s: float = POLL_S, at_most_s: float = AT_MOST_S) -> None:
        self.settle_s = settle_s
        self.at_most_s = at_most_s
        self._taken: Look = {}
        self._last: Look = {}
        self._since_s: float | None = None  # when the change was first seen
        self._same_since_s = 0.0  # since when the looks agree

    @property
    def changed_at_s(self) -> float | None:
        """When the change that waits was first seen; None when nothing waits."""
        return self._since_s

    def quiet_s(self, now_s: float) -> float:
        """Return for how long the looks at the change that waits agree."""
        return now_s - self._same_since_s

    def take(self, look: Look) -> None:
        """What is loaded now was there at `look`: compare with it from now on."""
        self._taken = dict(look)
        self._since_s = None

    def see(self, look: Look, now_s: float, *, written: bool = False) -> bool:
        """Return whether the inputs should be loaded now. `written`: a writer has one of them open."""
        if look == self._taken:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = self._same_since_s = now_s
            self._last = look
            return False
        if look != self._last:
            self._last = look
            self._same_since_s = now_s
        return now_s - self._since_s >= self.at_most_s - EARLY_S or (
            not written and now_s - self._same_since_s >= self._patience_s(look) - EARLY_S
        )

    def _patience_s(self, look: Look) -> float:
        patience_s = self.settle_s
        for path, sign in look.items():
            before = self._taken.get(path)
            if before is None or before == sign:
                continue
            if not sign.present:
                return self.at_most_s
            if before.present and before.identity == sign.identity:
                patience_s = 2 * self.settle_s
        return patience_s


def look_at(path: Path) -> Sign:
    """Return the sign of `path` as it is now, without its content. Never raises OSError: what cannot be seen is missing."""
    try:
        links = _links(path)
        found = os.stat(path)
    except OSError:
        return MISSING
    return Sign(
        links=links,
        identity=(found.st_dev, found.st_ino),
        state=(found.st_mtime_ns, found.st_ctime_ns, 0 if stat.S_ISDIR(found.st_mode) else found.st_size),
    )


def _links(path: Path) -> tuple[tuple[str, str], ...]:
    """Return every symbolic link on the way to `path` with its text, in the order they are followed."""
    out: list[tuple[str, str]] = []
    todo = list(reversed(Path(os.path.abspath(path)).parts))
    at = todo.pop()
    while todo and len(out) < 40:  # the kernel's own limit
        part = todo.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        at = os.path.join(at, part)
        if not stat.S_ISLNK(os.lstat(at).st_mode):
            continue
        text = os.readlink(at)
        out.append((at, text))
        target = Path(text).parts
        if target and target[0] == "/":
            at, target = "/", target[1:]
        else:
            at = os.path.dirname(at)
        todo.extend(reversed(target))
    return tuple(out)


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


class Eyes:
    """Looks at a set of paths, and remembers the content hashes between the looks that read."""

    def __init__(self) -> None:
        self._hashes: dict[Path, str] = {}

    def look(self, paths: Iterable[Path], *, content: bool) -> dict[Path, Sign]:
        """Return the signs of `paths`; with `content` every file is read."""
        out: dict[Path, Sign] = {}
        for path in paths:
            sign = look_at(path)
            if sign.present:
                if content or path not in self._hashes:
                    self._hashes[path] = _content_hash(path)
                gone = self._hashes[path] == "ENOENT"  # between the two looks
                sign = MISSING if gone else replace(sign, sha256=self._hashes[path])
            out[path] = sign
        return out

    def being_written(self, paths: Iterable[Path]) -> bool:
        """Return whether a writer has any of `paths` open."""
        return any(_is_being_written(path) for path in paths if path.is_file())


class Watcher:
    """Looks for ever and calls `changed` when a change is complete. It cannot die: a look that fails is counted and repeated.

    `changed(seen_at_s)` loads the inputs and returns when it is done; it tells the outcome through `taken`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        changed: Callable[[float], Awaitable[None]],
        *,
        clock: Callable[[], float],
        looked: Callable[[bool], None] = lambda _present: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.paths = tuple(paths)
        self._main = self.paths[0]
        self.settle = Settle()
        self.throttle = Throttle()
        self._eyes = Eyes()
        self._changed = changed
        self._clock = clock
        self._looked = looked
        self._failed = failed
        self._wake = asyncio.Event()
        self._hash_at_s = 0.0
        self._errors_logged = False
        self._gone_since_s: float | None = None
        self._gone_logged = False

    def before_load(self) -> dict[Path, Sign]:
        """Look at everything, content included; to be called right before the inputs are read. Blocks; runs in a thread."""
        return self._eyes.look(self.paths, content=True)

    def taken(self, before: Mapping[Path, Sign], paths: Iterable[Path]) -> None:
        """The inputs were loaded, or found wrong, as they were at `before`; from now on watch `paths` (none: the same).

        A path that `before` does not know yet was first named by this load: it counts as unseen, and the next look that
        settles loads once more. That costs one no-op and can never lose a change.
        """
        self.paths = tuple(dict.fromkeys(paths)) or self.paths
        self.settle.take({path: sign for path, sign in before.items() if path in set(self.paths)})

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.step()
                self._errors_logged = False
            except Exception as exc:  # the watcher must outlive whatever a file system does
                self._failed()
                if not self._errors_logged:
                    log.error("looking at the configuration failed; it goes on: %s: %s", type(exc).__name__, exc)
                self._errors_logged = True
            try:
                async with asyncio.timeout(POLL_S):  # wait_for may swallow a cancel that meets the event (Python 3.11)
                    await self._wake.wait()
                await asyncio.sleep(0.005)  # a notification comes at the first of several steps of a writer
            except TimeoutError:
                pass
            self._wake.clear()

    async def step(self) -> None:
        """Look once, and load when a change is complete."""
        now_s = self._clock()
        content = now_s >= self._hash_at_s
        if content:
            self._hash_at_s = now_s + HASH_EVERY_S
        look = await asyncio.to_thread(self._eyes.look, self.paths, content=content)
        present = look[self._main].present if self._main in look else False
        self._looked(present)
        self._note_presence(present, now_s)
        if not self.settle.see(look, now_s):
            return
        seen_at_s = now_s if self.settle.changed_at_s is None else self.settle.changed_at_s
        if self.throttle.wait_s(now_s, self.settle.quiet_s(now_s)) > EARLY_S:
            return
        if await asyncio.to_thread(self._eyes.being_written, self.paths) and not self.settle.see(look, now_s, written=True):
            return
        await self._changed(seen_at_s)
        self.throttle.built(seen_at_s, self._clock())

    def _note_presence(self, present: bool, now_s: float) -> None:
        """Say once that the file has gone, and once that it is back; an editor's delete and create is neither."""
        if present:
            if self._gone_logged:
                log.warning("%s is back", self._main)
            self._gone_since_s, self._gone_logged = None, False
        elif self._gone_since_s is None:
            self._gone_since_s = now_s
        elif not self._gone_logged and now_s - self._gone_since_s >= AT_MOST_S - EARLY_S:
            self._gone_logged = True
            log.error("%s is missing; what serves keeps serving", self._main)


def directories(paths: Iterable[Path]) -> set[Path]:
    """Return the directories in which a change of `paths` would show: those of the files and of the links on their way."""
    out: set[Path] = set()
    for path in paths:
        places = [Path(link).parent for link, _ in look_at(path).links]
        places.append(path if path.is_dir() else path.resolve().parent)
        out.update(place for place in places if place.is_dir())
    return out


async def notifications(paths: Callable[[], Sequence[Path]], wake: Callable[[], None], *, retry_s: float = 30.0) -> None:
    """Wake the watcher on kernel notifications for the directories of `paths`; do without where there are none.

    Directories, not files: a watch on a file ends with the first save that replaces it.
    """
    try:
        from watchfiles import awatch
    except ImportError:
        return
    while True:
        places = directories(paths())
        try:
            if places:
                changes = awatch(*places, step=5, debounce=20, recursive=False, ignore_permission_denied=True, watch_filter=None)
                async with contextlib.aclosing(changes):
                    async for _ in changes:
                        wake()
                        if directories(paths()) != places:
                            break
                    else:
                        return  # stopped from outside
                continue
        except (OSError, RuntimeError) as exc:  # no inotify instance or watch is left, or a directory went away
            log.info("no file notifications (%s); polling each %d ms does the work", exc, POLL_S * 1000)
        await asyncio.sleep(retry_s)
