"""The cost of a reload: `python -m tests.bench.run reload`. One table with the target beside each figure, and the same as JSON.

What is measured is what an operator and a client feel: from the rename of a file to the first answer of the new graph, the time
of `POST /-/reload`, how long a request on a warm connection waits while graphs change (a worker's loop that stands still shows
there), the swap as the worker itself timed it, requests lost under load, memory and open files after thousands of reloads.
The stall is told beside the same figure without reloads: on a shared machine the scheduler has its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from tests.bench import rig

COLUMNS = ("what", "figure", "target", "ok", "runs")
APART_S = 1.05  # edits this far apart are no storm: each is built at once
READY = re.compile(r"ready listen=http://([\d.]+):(\d+) admin=(http://\S+)")
ASK = b'{"model":"m0","messages":[{"role":"user","content":"Hello"}]}'


@dataclass(frozen=True)
class Figure:
    """One line. `value` and `target` in the unit of `what`; without a target it is for comparison only."""

    what: str
    value: float
    target: float | None
    runs: int

    @property
    def ok(self) -> str:
        """Whether the target is met, in a word."""
        return "" if self.target is None else "yes" if self.value <= self.target else "NO"


def routes(models: int, tag: int, upstream: int) -> str:
    """Return a configuration of so many models, all of them other ones than under another `tag`."""
    lines = [
        "version: 1",
        f'providers: {{mock: {{dialect: openai, base_url: "http://127.0.0.1:{upstream}/v1", auth: {{type: none}}}}}}',
        "models:",
    ]
    for i in range(models):
        lines.append(f"  m{i}:")
        lines.append(f"    description: model {i}, edit {tag}")
        defaults, clamp = f"{{temperature: 0.{i % 10}, top_p: 0.9}}", f"{{max_tokens: {{max: {4096 + tag}}}}}"
        lines.append(f"    params: {{defaults: {defaults}, clamp: {clamp}}}")
        lines.append("    chain: [mock/mock-model]")
    return "\n".join(lines) + "\n"


class Warm:
    """One keep-alive connection to the data address, as thin as it can be: what is timed is the daemon."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ASK)}\r\n"
        self._request = head.encode() + b"Content-Type: application/json\r\n\r\n" + ASK

    async def __aenter__(self) -> Warm:
        self._reader, self._writer = await asyncio.open_connection(*self._where)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def generation(self) -> int:
        """Ask once; return the generation that answered. rig.Void for anything but a 200."""
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.I)
        if length:
            await self._reader.readexactly(int(length[1]))
        else:
            await self._reader.readuntil(b"0\r\n\r\n")
        found = re.search(rb"x-routerd-generation: (\d+)", head, re.I)
        if b" 200 " not in head[:16] or found is None:
            raise rig.Void(f"a request failed: {head[:200]!r}")
        return int(found[1])


class Bench:
    """One daemon over `models` models."""

    def __init__(self, directory: pathlib.Path, models: int, upstream: int) -> None:
        self.models, self._upstream = models, upstream
        self.config = directory / f"routes-{models}.yaml"
        self._tag = 0
        self.config.write_text(self.text())
        argv = [*rig.ROUTERD, "serve", "--config", str(self.config), "--workers", "1", "--listen", "127.0.0.1:0"]
        argv += ["--admin", "127.0.0.1:0", "--state-dir", str(directory / f"state-{models}")]
        cores = f"{rig.CORES[0]}-{rig.CORES[-1]}"
        self.process = rig.Pinned(f"reload-{models}", argv, cores, directory)
        found = None
        ends_at_s = time.monotonic() + 60
        while found is None and time.monotonic() < ends_at_s:
            time.sleep(0.02)
            found = READY.search(self.process.log.read_text(errors="replace"))
        if found is None:
            self.process.stop()
            raise rig.Void(self.process.log.read_text(errors="replace")[-2000:])
        self.host, self.port, self.admin = found[1], int(found[2]), found[3]

    def text(self) -> str:
        """Return the text of the next edit."""
        self._tag += 1
        return routes(self.models, self._tag, self._upstream)

    def save(self) -> float:
        """Replace the file by the next edit, as editors do; return when."""
        fresh = self.config.with_name(".fresh")
        fresh.write_text(self.text())
        began_s = time.perf_counter()
        os.replace(fresh, self.config)
        return began_s

    def post(self) -> float:
        """Have the next edit applied by `POST /-/reload`; return its time in seconds."""
        self.save()
        began_s = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(self.admin + "/-/reload", method="POST"), timeout=60) as answer:
            answer.read()
        return time.perf_counter() - began_s

    def load(self, load: rig.Load) -> rig.Seen:
        """Put load on the daemon. Raises rig.Void when a request fails."""
        file = self.config.with_name("request")
        file.write_bytes(rig.request("m0"))
        return rig.put_load(self.config.parent, self.port, [file], load)

    def sample(self, pattern: str) -> float:
        """Return the sum of the samples of a scrape whose line matches."""
        with urllib.request.urlopen(self.admin + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))

    def resources(self) -> tuple[float, int]:
        """Return resident memory in MB and open files, over the whole tree."""
        pids = rig.tree(self.process.pid)
        return sum(rig.rss_mb(pids)), sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them do not pass."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def detection(bench: Bench, edits: int) -> list[float]:
    """Time edits from the rename to the first answer of the new graph, at any phase of the polling."""
    taken = []
    async with Warm(bench.host, bench.port) as client:
        for _ in range(edits):
            await asyncio.sleep(APART_S + random.random() / 10)
            now = await client.generation()
            began_s = bench.save()
            while await client.generation() == now:
                await asyncio.sleep(0.002)
                if time.perf_counter() - began_s > 30:
                    raise rig.Void("an edit was not served within 30 s")
            taken.append((time.perf_counter() - began_s) * 1000)
    return taken


async def waits(bench: Bench, during: Callable[[], Awaitable[object]]) -> list[float]:
    """Time requests on one warm connection, back to back, while `during` runs; in ms."""
    taken: list[float] = []
    task = asyncio.ensure_future(during())
    async with Warm(bench.host, bench.port) as client:
        while not task.done():
            began_s = time.perf_counter()
            await client.generation()
            taken.append((time.perf_counter() - began_s) * 1000)
            await asyncio.sleep(0.0005)
    await task
    return taken


async def stall(bench: Bench, reloads: int, swap_ms: float) -> list[Figure]:
    """Compare what a request waits while graphs change with what it waits else; and the swap, as the worker timed it."""
    took = "routerd_config_reload_duration_seconds"
    parts = [f'{took}_{part}{{phase="{phase}"}}' for phase in ("prepare", "commit") for part in ("sum", "count")]
    before = [bench.sample(re.escape(part)) for part in parts]

    async def reload() -> None:
        for _ in range(reloads):
            await asyncio.to_thread(bench.post)

    loaded = await waits(bench, reload)
    gone = [bench.sample(re.escape(part)) - was for part, was in zip(parts, before, strict=True)]
    calm = await waits(bench, lambda: asyncio.sleep(3))
    models, count = bench.models, len(loaded)
    high, usual = quantile(loaded, 0.99), quantile(calm, 0.99)
    return [
        Figure(f"request wait p99 during reloads, {models} models, ms", high, None, count),
        Figure(f"request wait p99 without, {models} models, ms", usual, None, len(calm)),
        Figure(f"stall by reloads p99, {models} models, ms", max(0.0, high - usual), 5.0, count),
        Figure(f"build in the worker, mean, {models} models, ms", gone[0] * 1000 / max(1.0, gone[1]), 5.0, reloads),
        Figure(f"swap in the worker, mean, {models} models, ms", gone[2] * 1000 / max(1.0, gone[3]), swap_ms, reloads),
    ]


async def lost(bench: Bench, reloads: int) -> list[Figure]:
    """Reload under 16 connections; a load in which a request failed is counted."""
    done = asyncio.Event()

    async def reload() -> int:
        for _ in range(reloads):
            await asyncio.to_thread(bench.post)
        done.set()
        return reloads

    task = asyncio.ensure_future(reload())
    requests = failed = 0
    while not done.is_set():
        try:
            requests += (await asyncio.to_thread(bench.load, rig.Load(connections=16, seconds=5))).latency.count
        except rig.Void as why:
            failed += 1
            print(why, file=sys.stderr)
    await task
    return [Figure(f"loads with a lost request, {reloads} reloads, {requests} requests", failed, 0.0, reloads)]


async def leak(bench: Bench, reloads: int) -> list[Figure]:
    """Compare memory and open files after `reloads` reloads with those after as many as allocators take to have their size.

    That is some 2,000 at 100 reloads a second, with as many blocks of memory in use as before; without these it grows by 2.6 %.
    """
    for _ in range(max(50, 2 * reloads // 5)):
        await asyncio.to_thread(bench.post)
    await asyncio.sleep(2)
    before = bench.resources()
    for _ in range(reloads):
        await asyncio.to_thread(bench.post)
    await asyncio.sleep(2)
    after = bench.resources()
    grown = (after[0] / before[0] - 1) * 100
    return [
        Figure(f"memory grown by {reloads} reloads, %", grown, 2.0, reloads),
        Figure(f"open files grown by {reloads} reloads", after[1] - before[1], 0.0, reloads),
    ]


async def measure(args: argparse.Namespace, directory: pathlib.Path, upstream: int) -> list[Figure]:
    """Run every part; one daemon for each size."""
    out: list[Figure] = []
    for models, edits, p99_ms in ((20, args.edits, 200.0), (200, args.edits, 250.0), (2000, max(5, args.edits // 2), 1000.0)):
        bench = Bench(directory, models, upstream)
        try:
            taken = await detection(bench, edits)
            p50 = 100.0 if models == 20 else None
            out.append(Figure(f"rename to serving p50, {models} models, ms", quantile(taken, 0.5), p50, edits))
            out.append(Figure(f"rename to serving p99, {models} models, ms", quantile(taken, 0.99), p99_ms, edits))
            if models == 200:
                posts = [await asyncio.to_thread(bench.post) * 1000 for _ in range(50)]
                out.append(Figure("POST /-/reload p50, 200 models, ms", quantile(posts, 0.5), 60.0, 50))
                out.append(Figure("POST /-/reload p99, 200 models, ms", quantile(posts, 0.99), None, 50))
            if models >= 200:
                out += await stall(bench, *((50, 1.0) if models == 200 else (10, 5.0)))
            if models == 20:
                out += await lost(bench, args.loaded)
                out += await leak(bench, args.reloads)
        finally:
            bench.process.stop()
    return out


def table(figures: Sequence[Figure]) -> str:
    """Render the figures in columns, the target beside each."""
    targets = ["" if one.target is None else f"<= {one.target:g}" for one in figures]
    rows = [(one.what, f"{one.value:.2f}", target, one.ok, str(one.runs)) for one, target in zip(figures, targets, strict=True)]
    cells = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write the JSON; 1 when a target is missed."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="run.py reload", description=__doc__, formatter_class=shape)
    parser.add_argument("--edits", type=int, default=30, help="edits of the file for each size")
    parser.add_argument("--loaded", type=int, default=1000, help="reloads under load")
    parser.add_argument("--reloads", type=int, default=5000, help="reloads of the leak test")
    parser.add_argument("--json", type=pathlib.Path, default=rig.HERE / "results" / "reload.json", help="where the figures go")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="routerd-bench-") as scratch:
        directory = pathlib.Path(scratch)
        mock = rig.Mock(directory)
        try:
            figures = asyncio.run(measure(args, directory, mock.port))
        finally:
            mock.stop()
    print(table(figures))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps([asdict(one) | {"ok": one.ok} for one in figures], indent=2) + "\n")
    return int(any(one.ok == "NO" for one in figures))
