"""The benchmark: what a gateway costs per request and per streamed chunk, beside nginx and the peers that are installed.

    python tests/bench/run.py [--seconds 5] [--streams 1000] [--only nginx,routerd] [--json FILE]
    python tests/bench/run.py reload [--edits 30] [--loaded 1000] [--reloads 5000] [--json FILE]

Prints one table and writes the same as JSON. The gateway has one core, the load and the mock upstream the other; figures compare
only within one run on one machine. One failed request voids its row, and the exit code is 1. routerd runs with everything on:
keys, three budgets, metrics, access log, failover armed (routes.yaml beside this file); nginx is a pure proxy and the floor;
peers run
with their shipped defaults. ROUTERD_BENCH_SGLANG and ROUTERD_BENCH_VLLM name their commands when they are not in the PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.bench import reload, rig

PACED_STREAMS = 200
STREAM_CHUNKS = 200
EVENTS_PER_STREAM = STREAM_CHUNKS + 2  # and the finish and [DONE]; a usage event that routerd asks for is its own cost
COLUMNS = (
    "gateway",
    "unary_per_s",
    "unary_p50",
    "unary_p99",
    "cpu_us_per_request",
    "cpu_us_per_chunk",
    "idle_mb",
    "streams_mb",
    "void",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One gateway. `idle_mb` and `streams_mb` are of its largest process, `tree_mb` of all; `void`: why figures are missing."""

    gateway: str
    unary_per_s: float = 0.0
    unary_p50: str = ""
    unary_p99: str = ""
    cpu_us_per_request: float = 0.0
    cpu_us_per_chunk: float = 0.0
    start_s: float = 0.0
    idle_mb: float = 0.0
    streams_mb: float = 0.0
    tree_mb: float = 0.0
    void: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    seconds: int
    streams: int
    directory: pathlib.Path


Argv = Callable[[pathlib.Path, int, int], list[str]]  # directory, own port, upstream's port


def nginx(directory: pathlib.Path, port: int, upstream: int) -> list[str]:
    """Write nginx.conf with these ports and return the command."""
    conf = directory / f"nginx-{port}.conf"
    text = (rig.HERE / "nginx.conf").read_text()
    conf.write_text(text.replace("@DIR@", str(directory)).replace("@PORT@", str(port)).replace("@UPSTREAM@", str(upstream)))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(directory), "-c", str(conf)]


def routerd(directory: pathlib.Path, port: int, upstream: int) -> list[str]:
    """Write routes.yaml with this upstream and return the command."""
    config = directory / f"routes-{port}.yaml"
    config.write_text((rig.HERE / "routes.yaml").read_text().replace("@UPSTREAM@", str(upstream)))
    addresses = ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{rig.free_port()}"]
    return [*rig.ROUTERD, "serve", "--config", str(config), "--workers", "1", "--state-dir", str(directory / "state"), *addresses]


def sglang(directory: pathlib.Path, port: int, upstream: int) -> list[str]:
    """Return the command of sglang-router, as shipped."""
    return [_peer("SGLANG", "sglang-router"), "launch", *_peer_args(port, upstream)]


def vllm(directory: pathlib.Path, port: int, upstream: int) -> list[str]:
    """Return the command of vllm-router, as shipped."""
    return [_peer("VLLM", "vllm-router"), *_peer_args(port, upstream)]


def _peer_args(port: int, upstream: int) -> list[str]:
    worker = f"http://127.0.0.1:{upstream}"
    return ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", worker, "--prometheus-port", str(rig.free_port())]


def _peer(name: str, command: str) -> str:
    return os.environ.get(f"ROUTERD_BENCH_{name}") or shutil.which(command) or ""


GATEWAYS: dict[str, Argv] = {"nginx": nginx, "routerd": routerd, "sglang-router": sglang, "vllm-router": vllm}


def installed(name: str) -> bool:
    """Whether this gateway can be started here."""
    argv = GATEWAYS[name](pathlib.Path(tempfile.gettempdir()), 0, 0) if name in {"sglang-router", "vllm-router"} else ["python"]
    return bool(argv[0]) if name != "nginx" else bool(shutil.which("nginx") or pathlib.Path("/usr/sbin/nginx").exists())


def measure(name: str, plan: Plan, upstreams: dict[str, int]) -> Row:
    """Measure one gateway against each mock upstream in turn."""
    figures: dict[str, object] = {"gateway": name}
    try:
        for step in (unary, chunks, memory):
            port = rig.free_port()
            began_s = time.monotonic()
            argv = GATEWAYS[name](plan.directory, port, upstreams[step.__name__])
            gateway = rig.Pinned(f"{name}-{step.__name__}", argv, rig.GATEWAY_CORE, plan.directory)
            try:
                gateway.wait_port(port)
                figures.setdefault("start_s", round(time.monotonic() - began_s, 2))
                figures.update(step(port, gateway.pid, plan))
            finally:
                gateway.stop()
    except (rig.Void, TimeoutError, OSError) as why:
        figures["void"] = str(why) or type(why).__name__
    return Row(**figures)  # type: ignore[arg-type]


def unary(port: int, pid: int, plan: Plan) -> dict[str, object]:
    """Measure whole answers over 32 connections."""
    rig.wrk(port, connections=32, seconds=1)  # connections, code and caches warm
    pids = rig.tree(pid)
    before_s = rig.cpu_s(pids)
    load = rig.wrk(port, connections=32, seconds=plan.seconds)
    used_us = (rig.cpu_s(pids) - before_s) * 1e6 / max(1, load.requests)
    return {"unary_per_s": load.per_s, "unary_p50": load.p50, "unary_p99": load.p99, "cpu_us_per_request": round(used_us, 1)}


def chunks(port: int, pid: int, plan: Plan) -> dict[str, object]:
    """Measure 200 streams of 50 chunks a second each, from the first byte to the last [DONE]."""
    asyncio.run(rig.streams(port, 20, pid))
    pids = rig.tree(pid)
    before_s = rig.cpu_s(pids)
    asyncio.run(rig.streams(port, PACED_STREAMS, pid))
    used_us = (rig.cpu_s(pids) - before_s) * 1e6 / (PACED_STREAMS * EVENTS_PER_STREAM)
    return {"cpu_us_per_chunk": round(used_us, 1)}


def memory(port: int, pid: int, plan: Plan) -> dict[str, object]:
    """Measure resident memory after one stream, and while all streams are open at once."""
    asyncio.run(rig.streams(port, 1, pid))
    idle = rig.rss_mb(rig.tree(pid))[0]
    total, largest = asyncio.run(rig.streams(port, plan.streams, pid))
    return {"idle_mb": round(idle, 1), "streams_mb": round(largest, 1), "tree_mb": round(total, 1)}


UPSTREAMS = {  # first token us, chunks, interval us
    "unary": (0, 32, 0),
    "chunks": (50_000, STREAM_CHUNKS, 20_000),
    "memory": (1_000_000, 10, 400_000),
}


def table(rows: list[Row]) -> str:
    """Render the rows in columns."""
    cells = [COLUMNS, *(tuple(str(getattr(row, column)) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measured load")
    parser.add_argument("--streams", type=int, default=1000, help="streams held at once in the memory part")
    parser.add_argument("--only", default="", help="gateways to measure, comma-separated: " + ", ".join(GATEWAYS))
    parser.add_argument("--json", type=pathlib.Path, default=rig.HERE / "results" / "latest.json", help="where the figures go")
    return parser.parse_args()


def main() -> int:
    """Measure every installed gateway; print the table and write the JSON. `reload` as first word: what reloads cost."""
    if sys.argv[1:2] == ["reload"]:
        return reload.main(sys.argv[2:])
    args = arguments()
    names = [name for name in GATEWAYS if (not args.only or name in args.only.split(",")) and installed(name)]
    os.sched_setaffinity(0, {rig.LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="routerd-bench-") as scratch:
        plan = Plan(seconds=args.seconds, streams=args.streams, directory=pathlib.Path(scratch))
        binary = rig.compile_upstream(plan.directory)
        ports = {name: rig.free_port() for name in UPSTREAMS}
        mocks = []
        try:
            for name, values in UPSTREAMS.items():
                argv = [str(binary), str(ports[name]), *map(str, values)]
                mocks.append(rig.Pinned(f"upstream-{name}", argv, rig.LOAD_CORE, plan.directory))
                mocks[-1].wait_port(ports[name])
            rows = [measure(name, plan, ports) for name in names]
        finally:
            for mock in mocks:
                mock.stop()
    print(table(rows))
    machine = {"cores": len(rig.CORES), "kernel": platform.release(), "python": platform.python_version()}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(
        json.dumps({"machine": machine, "plan": vars(args) | {"json": ""}, "rows": [asdict(r) for r in rows]}, indent=2) + "\n"
    )
    return 1 if any(row.void for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
