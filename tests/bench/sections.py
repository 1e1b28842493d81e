"""The sections of the benchmark: each puts its loads on its gateways and returns rows.

routerd runs with everything on (routes.yaml): a key is checked, metrics kept, an access record written, failover armed. "all"
adds three budgets, "ledger" the ledger in SQLite.
"""

from __future__ import annotations

import statistics
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace

from tests.bench import gateways, rig
from tests.bench.gateways import PEERS, SLOW_PEERS
from tests.bench.lab import Contender, Lab, say
from tests.bench.report import Row
from tests.bench.shared import budget_costs
from tests.support.ports import free_port

__all__ = ["FOR_TARGETS", "SECTIONS"]

NGINX = Contender("nginx", gateways.nginx())
PLAIN = gateways.routerd()
LEDGER = gateways.routerd("routerd+ledger", ledger=True)
ROUTERD = Contender("routerd", PLAIN)
ALL = Contender("routerd all", PLAIN, ("all-model",), "sk-all")
WITH_LEDGER = Contender("routerd ledger", LEDGER)
ALL_LEDGER = Contender("routerd all ledger", LEDGER, ("all-model",), "sk-all")
ONE_FIFTIETH_US, FIRST_US = 20_000, 20_000
CALM_PER_S = 1000.0  # an open loop that leaves every gateway but the slow ones idle most of the time: latency, not queueing
FRESH_S = 5.0
ROUTE = "  m{i}: {{chain: [mock/mock-model, spare/echo]}}\n"


def unary(lab: Lab) -> list[Row]:
    """Whole answers: what they cost at full load, and what they wait at a calm one."""
    seconds = lab.plan.seconds
    some = [NGINX, ROUTERD, ALL, WITH_LEDGER, ALL_LEDGER]
    return [
        *lab.compare("unary", "full load", some, rig.Load(seconds=seconds)),
        *lab.compare("unary", "calm", some, rig.Load(seconds=seconds, rate=CALM_PER_S)),
    ]


def streams(lab: Lab) -> list[Row]:
    """Streams that come at once, and streams at the pace of a model."""
    burst = rig.Load(seconds=lab.plan.seconds, chunks=32)
    some = [NGINX, ROUTERD, ALL, WITH_LEDGER]
    return [*lab.compare("streams", "burst", some, burst), *lab.compare("streams", "paced", some, paced(lab, 200))]


def paced(lab: Lab, count: int, times: float = 1.2) -> rig.Load:
    """Return `count` streams of 50 chunks a second, so many times as long as a load is."""
    chunks = max(25, int(lab.plan.seconds * 50 * times))
    return rig.Load(
        connections=count,
        seconds=0.05,
        chunks=chunks,
        first_us=FIRST_US,
        interval_us=ONE_FIFTIETH_US,
        spread_s=min(1.0, count / 200),
    )


def many(lab: Lab) -> list[Row]:
    """As many paced streams at once as the plan says, on one core: what a chunk waits there."""
    plan = lab.plan
    spread_s = plan.streams / 1000
    chunks = int((spread_s + 2 * plan.seconds) * 1e6 / plan.pace_us) + 1
    load = rig.Load(
        connections=plan.streams, seconds=0.05, chunks=chunks, first_us=50_000, interval_us=plan.pace_us, spread_s=spread_s
    )
    return lab.compare("many", f"{plan.streams} streams, {1e6 / plan.pace_us:g}/s each", [NGINX, ROUTERD], load, rounds=1)


def bodies(lab: Lab) -> list[Row]:
    """Requests of 0.5 KB to 4 MB."""
    rows = []
    for name, size, rate in (
        ("0.5 KB", 500, 500.0),
        ("10 KB", 10_000, 500.0),
        ("100 KB", 100_000, 200.0),
        ("4 MB", 4_000_000, 10.0),
    ):
        connections = 32 if size < 1_000_000 else 4
        full, calm = rig.Load(connections=connections, seconds=lab.plan.seconds), rig.Load(seconds=lab.plan.seconds, rate=rate)
        rows += lab.compare("bodies", f"{name}, full load", [NGINX, ROUTERD], full, prompt_bytes=size - 200, rounds=1)
        rows += lab.compare("bodies", f"{name}, calm", [NGINX, ROUTERD], calm, prompt_bytes=size - 200, rounds=1)
    return rows


def connections(lab: Lab) -> list[Row]:
    """1 to 1,000 connections."""
    rows = []
    for count in (1, 32, 256, 1000):
        full = rig.Load(connections=count, seconds=lab.plan.seconds)
        rows += lab.compare("connections", f"{count}, full load", [NGINX, ROUTERD], full, rounds=1)
        calm = replace(full, rate=CALM_PER_S)
        rows += lab.compare("connections", f"{count}, calm", [NGINX, ROUTERD], calm, rounds=1)
    return rows


def models(lab: Lab) -> list[Row]:
    """10, 1,000 and 10,000 models, ten of them asked in turn."""
    counts = (10, 1000, 10_000)
    contenders = []
    for count in counts:
        asked = tuple(f"m{i * count // 10}" for i in range(10))
        contenders.append(Contender(f"routerd {count}", gateways.routerd(f"routerd-{count}", text=many_models(count)), asked))
    try:
        return lab.compare("models", "full load", contenders, rig.Load(seconds=lab.plan.seconds))
    finally:
        lab.stop([f"routerd-{count}" for count in counts])


def many_models(count: int) -> str:
    """Return routes.yaml with so many models of the same chain."""
    text = (rig.HERE / "routes.yaml").read_text()
    head, _, rest = text.partition("models:\n")
    tail = rest[rest.index("budgets:\n") :].replace("budgets: [requests, slots]", "")
    routes = "".join(ROUTE.format(i=i) for i in range(count))
    return f"{head}models:\n{routes}{tail}"


def workers(lab: Lab) -> list[Row]:
    """One and two workers at full load, over all cores; how evenly connections spread; what shared counters cost."""
    rows = []
    one, two = (gateways.routerd(f"routerd-{n}-workers", workers=n, core=rig.ANY) for n in (1, 2))
    some = [
        Contender("routerd 1 worker", one, ("all-model",), "sk-all"),
        Contender("routerd 2 workers", two, ("all-model",), "sk-all"),
    ]
    try:
        rows = lab.compare("workers", "three budgets", some, rig.Load(connections=64, seconds=lab.plan.seconds))
        rows.append(_scaling(rows))
        rows.append(_spread(lab, two, 1000))
        rows.append(_spread(lab, two, 32))
    finally:
        lab.stop([one.name, two.name])
    say("workers: shared counters")
    costs = tuple((name, round(us, 2)) for name, us in budget_costs(lab.plan.rounds).items())
    rows.append(Row(section="workers", case="a budget in shared memory, us", gateway="routerd", figures=costs))
    return rows


def _scaling(rows: list[Row]) -> Row:
    """Return what two workers do on two cores of their own: twice what one does, less what a request costs more there.

    Told by CPU, not by requests a second: load and mock upstream take a share of the cores that a small machine has not got.
    """
    cpu = {row.gateway: row.cpu_us for row in rows if not row.void}
    row = Row(section="workers", case="scaling", gateway="routerd")
    one, two = cpu.get("routerd 1 worker"), cpu.get("routerd 2 workers")
    if not one or not two:
        return replace(row, void="one of the loads is void")
    return replace(row, figures=(("of 2 workers, in workers", round(2 * one / two, 2)),))


def _spread(lab: Lab, gateway: gateways.Gateway, count: int) -> Row:
    """Hold connections open and count them by worker."""
    running = lab.running(gateway)
    idle = _settled(running)
    held = rig.hold(running.port, count)
    try:
        counts = [now - idle[pid] for pid, now in _settled(running).items()]
    finally:
        for sock in held:
            sock.close()
    figures = (("most", float(max(counts))), ("least", float(min(counts))))
    return Row(section="workers", case=f"{count} connections", gateway="routerd 2 workers", figures=figures)


def _settled(running: gateways.Running) -> dict[int, int]:
    """Return the sockets of each worker, once they have stopped to change: what was closed or opened before is seen by then."""
    before: dict[int, int] = {}
    for _ in range(40):
        counts = {pid: rig.sockets(pid) for pid in running.workers()}
        if counts == before:
            break
        before = counts
        time.sleep(0.5)
    return before


def reload_load(lab: Lab) -> list[Row]:
    """Full load with a reload each second, beside the same load without."""
    text = (rig.HERE / "routes.yaml").read_text()
    admin = free_port()
    gateway = gateways.routerd("routerd-reloaded", text=text, args=("--admin", f"127.0.0.1:{admin}"))
    contender = Contender("routerd", gateway)
    load = rig.Load(seconds=max(4.0, lab.plan.seconds * 2))
    try:
        rows = lab.compare("reload-load", "no reloads", [contender], load, rounds=1)
        running = lab.running(gateway)
        config = lab.directory / f"routes-{running.port}" / "routes.yaml"
        served = config.read_text()
        done = threading.Event()
        reloads: list[float] = []

        def reload() -> None:
            while not done.wait(1.0):
                config.write_text(f"{served}aliases: {{alias-{len(reloads)}: mock-model}}\n")
                began_s = time.monotonic()
                post = urllib.request.Request(f"http://127.0.0.1:{admin}/-/reload", method="POST")
                with urllib.request.urlopen(post, timeout=30) as answer:
                    answer.read()
                reloads.append(time.monotonic() - began_s)

        thread = threading.Thread(target=reload, daemon=True)
        thread.start()
        try:
            under = lab.compare("reload-load", "one each second", [contender], load, rounds=1)
        finally:
            done.set()
            thread.join()
    finally:
        lab.stop([gateway.name])
    figures = (("reloads", float(len(reloads))), ("median ms", round(statistics.median(reloads) * 1000, 1) if reloads else 0.0))
    return [*rows, *(replace(row, figures=figures) if row.gateway == "routerd" else row for row in under)]


def translated(lab: Lab) -> list[Row]:
    """Paced streams of other dialects, put into OpenAI's, beside streams that are passed on."""
    others = [Contender(f"routerd from {name}", PLAIN, (f"from-{name}",)) for name in ("anthropic", "gemini", "ollama")]
    return lab.compare("translated", "paced", [ROUTERD, *others], paced(lab, 200))


def peers(lab: Lab) -> list[Row]:
    """Everything that is installed, beside routerd, under the same load; of streams the slow ones get fewer."""
    found = {name: gateway for name in PEERS if (gateway := gateways.peer(name, lab.plan.peers)) is not None}
    fast = [Contender(name, one) for name, one in found.items() if name not in SLOW_PEERS]
    slow = [Contender(name, one) for name, one in found.items() if name in SLOW_PEERS]
    seconds = lab.plan.seconds
    try:
        rows = lab.compare("peers", "unary", [NGINX, ROUTERD, ALL, ALL_LEDGER, *fast], rig.Load(seconds=seconds))
        # More and longer turns than elsewhere: how many chunks come at once differs with the phases that streams happen to have.
        # And answers of 300 tokens: what their request costs is a sixtieth of what their chunks do.
        more = 2 * lab.plan.rounds - 1
        rows += lab.compare("peers", "paced", [NGINX, ROUTERD, *fast], paced(lab, 200, 3.0), rounds=more)
        if slow:
            rows += lab.compare("peers", "unary, slow peers", [ALL, *slow], rig.Load(seconds=seconds))
            rows += lab.compare("peers", "unary, fresh process", [ALL, *slow], rig.Load(seconds=FRESH_S), rounds=1, fresh=True)
            rows += lab.compare("peers", "10 paced streams", [ROUTERD, *slow], paced(lab, 10), rounds=1)
        return rows
    finally:
        lab.stop(found)


SECTIONS: dict[str, Callable[[Lab], list[Row]]] = {
    "unary": unary,
    "streams": streams,
    "many": many,
    "bodies": bodies,
    "connections": connections,
    "models": models,
    "workers": workers,
    "reload-load": reload_load,
    "translated": translated,
    "peers": peers,
}
FOR_TARGETS = ("peers", "translated", "many", "models", "workers")
