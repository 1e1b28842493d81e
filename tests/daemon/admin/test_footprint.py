"""What the processes of the daemon use, read from /proc: real processes, real numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from routerd import __version__
from routerd.daemon.admin.footprint import Footprint
from routerd.observe import FAMILIES

BUSY = "while sum(range(100_000)) and __import__('time').process_time() < {}: pass\nprint(flush=True); input()"


@pytest.fixture
def busy() -> Iterator[list[subprocess.Popen[str]]]:
    """Give two processes that have each used CPU and now wait."""
    argv = [[sys.executable, "-c", BUSY.format(seconds)] for seconds in (0.3, 0.1)]
    running = [subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for one in argv]
    for one in running:
        assert one.stdout is not None
        one.stdout.readline()
    yield running
    for one in running:
        one.kill()
        one.communicate()


def test_every_process_has_every_series_of_its_own(busy: list[subprocess.Popen[str]]) -> None:
    values = Footprint().look(enumerate(one.pid for one in busy)).values
    assert values.pop(("routerd_build_info", (__version__, platform.python_version()))) == 1
    families = [name for name in FAMILIES if name.startswith("process_")]
    assert set(values) == {(name, (process,)) for name in families for process in ("control", "worker-0", "worker-1")}
    memory = "process_resident_memory_bytes"
    assert values[(memory, ("control",))] > values[(memory, ("worker-0",))] > 2**20
    assert values[("process_open_fds", ("worker-0",))] == 3
    with open(os.devnull):
        more = Footprint().look(()).values
    assert more[("process_open_fds", ("control",))] == values[("process_open_fds", ("control",))] + 1


def test_the_cpu_seconds_of_a_worker_that_is_started_again_go_on(busy: list[subprocess.Popen[str]]) -> None:
    footprint, key = Footprint(), ("process_cpu_seconds_total", ("worker-0",))
    first, second = (one.pid for one in busy)
    at_first = footprint.look([(0, first)]).values[key]
    assert at_first >= 0.25  # the kernel counts in hundredths
    between = footprint.look([(0, None)]).values
    assert between[key] == at_first
    assert ("process_open_fds", ("worker-0",)) not in between
    assert footprint.look([(0, second)]).values[key] >= at_first + 0.05
