"""When have the inputs changed, and is the writer done?

    look       one look at every input: the links on its way, and what they lead to
    eyes       looks with the content, and rests until another look is worth it
    kernel     watchfiles: what lets the eyes rest
    settle     from a series of looks: is the change complete?
    throttle   how often changes that do not end are built
    watcher    the loop around them

Truth is a look; notifications only wake it sooner. A look comes each second with the content, each 50 ms while a change settles,
and at once when the kernel says that something moved, or when the modification time, change time, size, inode or device of an
input is another one. That is asked each 50 ms where the kernel does not tell of every change (a network file system, no inotify,
a change that came without a word), and else each second: a wake costs 0.1 to 0.2 ms of CPU on an idle machine, so 20 in a second
were charged to every request that came between them.

settle and throttle are pure: time comes in, nothing is waited for.
"""

from __future__ import annotations

from routerd.daemon.watch.watcher import Watcher

__all__ = ["Watcher"]
