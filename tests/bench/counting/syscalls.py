"""System calls of a real worker, by strace: those between two marked requests on the connection that is counted."""

from __future__ import annotations

import pathlib
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.bench import rig
from tests.support.ports import free_port

__all__ = ["syscall_figures", "syscalls"]

REQUESTS, CHUNKS, PACE_US = 200, 100, 3000
TRANSFERS = frozenset({"read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg"})
LINE = re.compile(r"^(\d+) +(\w+)\(")
ROUTES = """
version: 1
providers:
  mock: {{dialect: openai, base_url: "http://127.0.0.1:{port}/v1", api_key: sk-upstream}}
  spare: {{dialect: simulator}}
clients:
  bench: {{key: sk-bench}}
models:
  m:
    chain: [mock/mock-model, spare/echo]
"""
BUDGETS = """    budgets: [tokens, slots]
budgets:
  tokens: {tokens: 1000000000000, per: 1h}
  slots: {concurrency: 100000}
"""


def syscalls(directory: pathlib.Path, *, workers: int = 1, budgets: bool = False) -> dict[str, Counter[str]]:
    """Return the calls of one worker by name, for 100 whole answers (`unary`) and for 100 chunks of a stream (`chunk`).

    `budgets`: each request is charged to two, of tokens and of concurrency.
    """
    port = free_port()
    argv = [str(rig.compiled("upstream", directory)), str(port), "0", str(CHUNKS), str(PACE_US)]
    mock = rig.Pinned("upstream", argv, rig.ANY, directory)
    try:
        mock.wait_port(port)
        trace = directory / "trace"
        text = ROUTES.format(port=port) + (BUDGETS if budgets else "")
        with _traced(directory, text, workers, trace) as client:
            _mark(client, 1)
            for _ in range(REQUESTS):
                _ask(client, stream=False)
            _mark(client, 2)
            _ask(client, stream=True)
            _mark(client, 3)
    finally:
        mock.stop()
    lines = trace.read_text(errors="replace").splitlines()
    whole = _between(lines, 1, 2)
    streamed = _between(lines, 2, 3)
    each = {name: round(n * 100 / REQUESTS) for name, n in whole.items()}
    return {"unary": Counter(each), "chunk": streamed - Counter({name: round(n / REQUESTS) for name, n in whole.items()})}


def syscall_figures(calls: Mapping[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Return figures for one of each: `syscalls` in all, `transfers` those that move bytes."""
    return {
        f"system calls, {name}": {
            "syscalls": sum(found.values()) / 100,
            "transfers": sum(n for call, n in found.items() if call in TRANSFERS) / 100,
        }
        for name, found in calls.items()
    }


@contextmanager
def _traced(directory: pathlib.Path, routes: str, workers: int, trace: pathlib.Path) -> Iterator[socket.socket]:
    """Give a connection to routerd, which runs with everything on under strace."""
    config = directory / "routes" / "routes.yaml"  # away from the trace: control watches its directory
    config.parent.mkdir()
    config.write_text(routes)
    listen = free_port()
    argv = [
        rig.tool("strace", "strace"),
        "-f",
        "-qq",
        "-s",
        "24",
        "-o",
        str(trace),
        *rig.ROUTERD,
        "serve",
        "--config",
        str(config),
        "--workers",
        str(workers),
    ]
    argv += ["--listen", f"127.0.0.1:{listen}", "--admin", "127.0.0.1:0"]
    daemon = rig.Pinned("routerd", argv, rig.ANY, directory)
    try:
        daemon.wait_port(listen)
        with socket.create_connection(("127.0.0.1", listen), 30) as client:
            for _ in range(20):
                _ask(client, stream=False)
            yield client
    finally:
        daemon.stop()


def _ask(client: socket.socket, *, stream: bool) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]%b}' % (b',"stream":true' if stream else b"")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-bench\r\n"
    client.sendall(head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    _read(client, b"0\r\n\r\n" if stream else b"}}")


def _mark(client: socket.socket, number: int) -> None:
    time.sleep(0.3)  # what the request before left to do is done
    client.sendall(b"GET /health?%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    _read(client, b'"ok"}')


def _read(client: socket.socket, ends: bytes) -> bytes:
    data = b""
    while not data.endswith(ends):
        piece = client.recv(65536)
        if not piece:
            raise rig.Void(f"the connection was cut after {data[-300:]!r}")
        data += piece
    if b" 200 OK" not in data[:20]:
        raise rig.Void(f"a request failed: {data[:300]!r}")
    return data


def _between(lines: list[str], first: int, last: int) -> Counter[str]:
    """Count the calls of the thread that read the marks, between them."""
    marks = [next((i for i, line in enumerate(lines) if f'"GET /health?{number} ' in line), -1) for number in (first, last)]
    if -1 in marks:
        raise rig.Void(f"the trace has no mark; its end: {lines[-3:]}")
    thread = lines[marks[0]].split()[0]
    counts: Counter[str] = Counter()
    for line in lines[marks[0] + 1 : marks[1]]:
        found = LINE.match(line)
        if found and found[1] == thread:
            counts[found[2]] += 1
    return counts
