"""The parts of the benchmark: pinned processes, CPU and memory from /proc, and the load that is put on them.

CPU is read from /proc for a gateway's whole process tree, so a figure holds even where the load side is the bottleneck. Load and
mock upstream are C programs beside this file, compiled when first needed; the load checks every answer, one that failed raises
Void.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.ports import free_port

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, GATEWAY_CORE = CORES[0], CORES[-1]
ANY = ",".join(map(str, CORES))  # for what is counted, not timed
ROUTERD = (sys.executable, "-c", "import sys; from routerd.daemon.entry import main; sys.exit(main())")


class Void(Exception):
    """The run does not count: something failed under load."""


def tool(name: str, package: str) -> str:
    """Return the path of a program; Void says which Debian package has it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Void(f"{name} is not installed and this needs it: apt-get install {package}")
    return found


def compiled(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Build `name`.c into `directory`, unless it is there."""
    out = directory / name
    if not out.exists():
        subprocess.run([tool("cc", "gcc libc6-dev"), "-O2", "-o", str(out), str(HERE / f"{name}.c")], check=True)
    return out


class Pinned:
    """A process on one core or some, in a session of its own. Its output goes to a file in `directory`."""

    def __init__(
        self, name: str, argv: Sequence[str], core: int | str, directory: pathlib.Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as out:
            self._popen = subprocess.Popen(
                ["taskset", "-c", str(core), *argv],
                env={**os.environ, "PYTHONPATH": str(REPO), **(env or {})},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process that was started; `taskset` becomes it."""
        return self._popen.pid

    def wait_port(self, port: int, timeout_s: float = 90.0) -> None:
        """Wait until something listens on the port."""
        ends_at_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_at_s and self._popen.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Void(f"nothing listens on {port}:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End the process and its children."""
        self._popen.terminate()
        try:
            self._popen.wait(3)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._popen.pid, 9)
        except ProcessLookupError:
            pass
        self._popen.wait(5)


def tree(root: int) -> set[int]:
    """Return the process and all its descendants."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found, grown = {root}, True
    while grown:
        fresh = {pid for pid, parent in parents.items() if parent in found} - found
        found |= fresh
        grown = bool(fresh)
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return user and system time of these processes."""
    return sum(int(f[11]) + int(f[12]) for pid in pids if (f := _stat(pid))) / TICKS_PER_S


def rss_mb(pids: Iterable[int]) -> list[float]:
    """Return the resident memory of each process, largest first."""
    sizes = []
    for pid in pids:
        try:
            found = re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
        except OSError:
            continue
        sizes.append(int(found[1]) / 1024 if found else 0.0)
    return sorted(sizes, reverse=True)


def sockets(pid: int) -> int:
    """Return how many sockets a process holds."""
    count = 0
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += os.readlink(entry).startswith("socket:")
        except OSError:
            continue
    return count


def _stat(pid: int) -> list[str]:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is put on a gateway. `rate` 0: fixed concurrency, each connection asks again when it is answered; else an open loop.

    `chunks` > 0: streams of so many, one chunk each `interval_us` after `first_us`. `spread_s`: connections open over so long.
    """

    connections: int = 32
    seconds: float = 2.0
    rate: float = 0.0
    chunks: int = 0
    first_us: int = 0
    interval_us: int = 0
    spread_s: float = 0.0

    @property
    def text(self) -> str:
        """Say it in a few words."""
        if self.chunks and self.interval_us:
            return f"{self.connections} streams, {1e6 / self.interval_us:g} chunks/s each"
        loop = f"open loop, {self.rate:g}/s" if self.rate else "fixed concurrency"
        return f"{self.connections} connections, {loop}" + (f", {self.chunks} chunks at once" if self.chunks else "")


@dataclass(frozen=True)
class Spread:
    """One kind of time that was measured, in milliseconds."""

    count: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the load saw; `first` is the first token, `delay` and `gap` are of chunks (client.c)."""

    seconds: float
    latency: Spread
    first: Spread
    delay: Spread
    gap: Spread

    @property
    def per_s(self) -> float:
        """Whole answers a second."""
        return self.latency.count / self.seconds


def put_load(directory: pathlib.Path, port: int, files: Sequence[pathlib.Path], load: Load, core: int | str = LOAD_CORE) -> Seen:
    """Load the port by client.c with the requests in `files`, in turn; Void if one answer failed."""
    argv = ["taskset", "-c", str(core), str(compiled("client", directory)), "-c", str(load.connections), "-s", str(load.seconds)]
    argv += ["-r", str(load.rate), "-e", str(load.chunks), "-t", str(load.spread_s * 1000), str(port), *map(str, files)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Void(f"the load ended with {done.returncode}: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    spreads = {name: _spread(told[name]) for name in ("latency", "first", "delay", "gap")}
    if told["failed"] or not spreads["latency"].count:
        raise Void(
            f"{told['failed']} of {told['failed'] + spreads['latency'].count} requests failed; the first: {told['failure']}"
        )
    return Seen(seconds=told["seconds"], **spreads)


def _spread(told: Mapping[str, int]) -> Spread:
    return Spread(told["count"], told["p50"] / 1000, told["p99"] / 1000, told["max"] / 1000)


def request(model: str, *, prompt_bytes: int = 60, stream: bool = False, headers: Mapping[str, str] | None = None) -> bytes:
    """Return one chat completion, head and body."""
    prompt = "Hello there, how are you today? Answer in one line, please. "
    prompt = (prompt * (prompt_bytes // len(prompt) + 1))[:prompt_bytes]
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": prompt}]
    body = {"model": model, **({"stream": True} if stream else {}), "messages": messages, "max_tokens": 64}
    data = json.dumps(body, separators=(",", ":")).encode()
    fields = {"Host": "bench", "Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + data


class Mock:
    """The upstream of upstream.c; `become` sets how its next streams go."""

    def __init__(self, directory: pathlib.Path, core: int | str = LOAD_CORE) -> None:
        self.port = free_port()
        self.process = Pinned("upstream", [str(compiled("upstream", directory)), str(self.port), "0", "32", "0"], core, directory)
        try:
            self.process.wait_port(self.port)
        except BaseException:
            self.process.stop()
            raise

    def become(self, first_us: int, chunks: int, interval_us: int) -> None:
        """Let streams have so many chunks, the first after `first_us`, then one each `interval_us`."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"GET /mode?%d,%d,%d HTTP/1.1\r\nHost: x\r\n\r\n" % (first_us, chunks, interval_us))
            if not sock.recv(1000).startswith(b"HTTP/1.1 200"):
                raise Void("the mock upstream did not take a mode")

    def stop(self) -> None:
        """End it."""
        self.process.stop()


def hold(port: int, count: int) -> list[socket.socket]:
    """Open so many connections and return them."""
    return [socket.create_connection(("127.0.0.1", port), 5) for _ in range(count)]
