"""How many CPUs this process may use: those it may run on, and no more than the quota of its control groups pays for.

A container of two CPUs on a node of 64 may run on all 64; as many workers would only take turns, and be throttled together. The
quota is rounded down: a worker without a CPU of its own gets in the way of the others.
Facts: Linux, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`), Documentation/scheduler/sched-bwc.rst (`cpu.cfs_quota_us`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cpus"]

MEMBERSHIP, MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cpus(membership: Path = MEMBERSHIP, mounted: Path = MOUNTED) -> int:
    """Return how many, at least one."""
    quotas = [quota for group in _groups(membership, mounted) if (quota := _quota(group)) is not None]
    return max(1, int(min([float(len(os.sched_getaffinity(0))), *quotas])))


def _groups(membership: Path, mounted: Path) -> Iterator[Path]:
    """Give the directories whose quotas apply: the group of this process and those above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / controllers if controllers else mounted
        group = root / path.lstrip("/")
        yield root
        while group != root and ".." not in group.parts:  # a group outside of our namespace: its root is all we see
            yield group
            group = group.parent


def _quota(group: Path) -> float | None:
    """Return the CPUs that a group pays for; None where it has no limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return cpus if cpus > 0 else None
