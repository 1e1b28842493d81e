"""The parts of the benchmark: pinned processes, CPU and memory from /proc, load by wrk, many streams by raw sockets.

CPU is read from /proc for the gateway's whole process tree, so a figure holds even where the load side is the bottleneck.
"""

from __future__ import annotations

import asyncio
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

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, GATEWAY_CORE = CORES[0], CORES[-1]
ANY = ",".join(map(str, CORES))  # for what is counted, not timed
STREAM_BODY = b'{"model":"mock-model","stream":true,"messages":[{"role":"user","content":"Hello there"}]}'


class Void(Exception):
    """The run does not count: something failed under load."""


def tool(name: str, package: str) -> str:
    """Return the path of a program; Void says which Debian package has it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Void(f"{name} is not installed and this needs it: apt-get install {package}")
    return found


class Pinned:
    """A process on one core, in a session of its own. Its output goes to a file in `directory`."""

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

    def wait_port(self, port: int, timeout_s: float = 60.0) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Load:
    """What wrk saw."""

    requests: int
    per_s: float
    p50: str
    p99: str


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


def _stat(pid: int) -> list[str]:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def wrk(port: int, *, connections: int, seconds: int, model: str = "mock-model") -> Load:
    """Load the port with whole answers by wrk; raise Void if one request failed."""
    argv = [
        "taskset",
        "-c",
        str(LOAD_CORE),
        tool("wrk", "wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "60s",
        "--latency",
    ]
    argv += ["-s", str(HERE / "post.lua"), f"http://127.0.0.1:{port}/v1/chat/completions"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "MODEL": model})
    if done.returncode:
        raise Void(f"wrk ended with {done.returncode}: {done.stderr}{done.stdout}")
    out = done.stdout
    failed = [line.strip() for line in out.splitlines() if "Non-2xx" in line or "Socket errors" in line]
    if failed:
        raise Void("; ".join(failed))

    def find(pattern: str) -> str:
        found = re.search(pattern, out, re.MULTILINE)
        if found is None:
            raise Void(f"wrk said:\n{out}")
        return found[1]

    p50, p99 = (find(rf"^\s+{q}%\s+(\S+)") for q in (50, 99))
    return Load(requests=int(find(r"(\d+) requests in")), per_s=float(find(r"Requests/sec:\s+([\d.]+)")), p50=p50, p99=p99)


def compile_upstream(directory: pathlib.Path) -> pathlib.Path:
    """Build the mock upstream."""
    out = directory / "upstream"
    subprocess.run([tool("cc", "gcc"), "-O2", "-o", str(out), str(HERE / "upstream.c")], check=True)
    return out


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Stream(asyncio.Protocol):
    """One streamed completion, read to its end. `first` is set by the first content, `ended` holds what went wrong or None."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[str | None] = loop.create_future()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(STREAM_BODY)}\r\n"
        transport.write(head.encode() + b"Content-Type: application/json\r\nAuthorization: Bearer sk-bench\r\n\r\n" + STREAM_BODY)

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        if not self.first.done() and b'"content":"x' in seen:
            self.first.set_result(None)
        if b'"error"' in seen or (not self.first.done() and b" 200 OK" not in seen and len(seen) > 15):
            self._end(seen[-300:].decode(errors="replace"))
        elif b"data: [DONE]" in seen:
            self._end(None)
        self._tail = seen[-400:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"cut after {self._tail[-100:]!r}")

    def _end(self, outcome: str | None) -> None:
        if not self.first.done():
            self.first.set_result(None)
        if not self.ended.done():
            self.ended.set_result(outcome)
            self._transport.close()


async def streams(port: int, count: int, root: int) -> tuple[float, float]:
    """Hold `count` streams at once, to their end. Return the resident MB of the tree and of its largest process meanwhile.

    Raises Void when a stream ends without [DONE] or brings an error.
    """
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(count):
        opened.append((await loop.create_connection(Stream, "127.0.0.1", port))[1])
        await asyncio.sleep(0.001)  # streams that started together would tick together, and a wake-up would serve many
    async with asyncio.timeout(120):
        await asyncio.gather(*(stream.first for stream in opened))
        sizes = rss_mb(tree(root))
        failed = [outcome for outcome in await asyncio.gather(*(stream.ended for stream in opened)) if outcome is not None]
    if failed:
        raise Void(f"{len(failed)} of {count} streams failed, the first: {failed[0]}")
    return sum(sizes), sizes[0]


ROUTERD = (sys.executable, "-c", "import sys; from routerd.daemon.cli import main; sys.exit(main())")
