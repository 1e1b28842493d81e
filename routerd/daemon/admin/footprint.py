"""What the daemon's own processes use: memory, CPU and open files, of control and of each worker, for a scrape.

The names are those of every Prometheus client (`process_*`), so that existing dashboards and rules find them, with a label more,
for a daemon is several processes. What is read is /proc, by prometheus_client's own collector. A worker that is started again
goes on from the CPU seconds at which its predecessor was last seen: a counter never goes back.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterable

from routerd import __version__
from routerd.observe import Snapshot, process_values

__all__ = ["Footprint"]

CPU = "process_cpu_seconds_total"


class Footprint:
    """The processes as they were seen at the last scrapes. To look takes a moment for each thousand open files: from a thread."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._seen: dict[str, tuple[int, float]] = {}  # name -> process id, its CPU seconds then
        self._before: dict[str, float] = {}  # name -> CPU seconds of those that ended

    def look(self, workers: Iterable[tuple[int, int | None]]) -> Snapshot:
        """Return the series of control and of `workers` (index, process id). One that has just ended has its CPU seconds only."""
        series = Snapshot({("routerd_build_info", (__version__, platform.python_version())): 1.0})
        named: list[tuple[str, int | None]] = [("control", os.getpid())]
        named += [(f"worker-{index}", pid) for index, pid in workers]
        with self._one_at_a_time:
            for name, pid in named:
                values = process_values(pid) if pid else {}
                values[CPU] = self._cpu_s(name, pid, values.get(CPU))
                series.values.update({(family, (name,)): value for family, value in values.items()})
        return series

    def _cpu_s(self, name: str, pid: int | None, now_s: float | None) -> float:
        seen_pid, seen_s = self._seen.get(name, (pid, 0.0))
        if now_s is None or pid is None:
            return self._before.get(name, 0.0) + seen_s
        if seen_pid != pid:
            self._before[name] = self._before.get(name, 0.0) + seen_s
        self._seen[name] = (pid, now_s)
        return self._before.get(name, 0.0) + now_s
