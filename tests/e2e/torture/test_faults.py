"""A fault at every step of a reload: what served serves on in every worker, and the next reload is a good one.

The faults come from a `sitecustomize` on the path of the daemon's processes: it wraps one function each, and raises where the
test's file names it. In workers a fault strikes the second one only, and only generations newer than what serves. The steps are
all that run between the look at the files and the last word about them, in the order in which they run.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import resource
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from routerd.daemon.load.configuration import load_checked
from routerd.errors import ConfigError
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.process import REPO

Start = Callable[..., Daemon]

SITE = """
import importlib, inspect, json, pathlib, sys
FILE = pathlib.Path(__file__).with_name("fault")
IN_WORKER = "routerd.daemon.workers.worker" in sys.orig_argv
STEPS = {steps}

def wrap(step, module, name):
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, last)

    def strike(args):
        wanted, newer_than, times = json.loads(FILE.read_text())
        number = next((a for a in (getattr(args[0], "number", None), *args) if isinstance(a, int)), 10**9) if args else 10**9
        if wanted == step and times and (not IN_WORKER or number > newer_than):
            FILE.write_text(json.dumps([wanted, newer_than, times - 1]))
            raise RuntimeError("a fault at " + step)

    def maybe(*args, **kwargs):
        strike(args)
        return real(*args, **kwargs)

    async def maybe_later(*args, **kwargs):
        strike(args)
        return await real(*args, **kwargs)

    setattr(owner, last, maybe_later if inspect.iscoroutinefunction(real) else maybe)

if IN_WORKER:
    if json.loads(sys.orig_argv[-1])["index"] == 1:
        for step, (module, name) in STEPS["worker"].items():
            wrap(step, module, name)
elif "serve" in sys.orig_argv:
    for step, (module, name) in STEPS["control"].items():
        wrap(step, module, name)
"""
CONTROL = {
    "look": ("routerd.daemon.watch.watcher", "Watcher.before_load"),
    "read, parse, check, compile": ("routerd.daemon.load.configuration", "load"),
    "tests": ("routerd.daemon.load.configuration", "run_tests"),
    "gate": ("routerd.daemon.control", "unfit"),
    "pack": ("routerd.daemon.reload.queue", "pack"),
    "taken": ("routerd.daemon.watch.watcher", "Watcher.taken"),
    "guard": ("routerd.daemon.reload.queue", "shrunk"),
    "grant": ("routerd.daemon.credit", "CreditOffice.grant"),
    "expect": ("routerd.daemon.endpoints.vitals", "Vitals.expect"),
    "publish": ("routerd.daemon.workers.crew", "Crew.publish"),
    "prepare": ("routerd.daemon.workers.crew", "publish"),
    "send": ("routerd.daemon.workers.crew", "Slot.prepare"),
    "adopt": ("routerd.daemon.workers.crew", "Crew._adopt"),
}
WORKER = {
    "decode": ("routerd.daemon.workers.channel", "Piece.__setstate__"),
    "add": ("routerd.daemon.workers.generation", "Assembly.add"),
    "assemble": ("routerd.daemon.workers.generation", "Assembly.graph"),
    "build": ("routerd.server", "Gateway.prepare"),
}
AROUND = {
    "began": ("routerd.daemon.reload.tell", "Teller.began"),
    "begins": ("routerd.daemon.control", "Control._reload_begins"),
    "timing": ("routerd.daemon.reload.tell", "Teller.took"),
    "words": ("routerd.config", "diff"),
    "ended": ("routerd.daemon.reload.tell", "Teller.ended"),
    "log": ("routerd.daemon.reload.tell", "Teller._log"),
    "credits": ("routerd.daemon.credit", "CreditOffice.serve"),
    "errands": ("routerd.daemon.outside", "Errands.follow"),
    "known": ("routerd.daemon.known", "Known.follow"),
    "event": ("routerd.daemon.admin.events", "Events.emit"),
    "probation": ("routerd.daemon.reload.trial", "Trials._told"),
    "keep": ("routerd.daemon.reload.keep", "write"),
}
SWAP = {"commit": ("routerd.daemon.workers.crew", "Slot.commit"), "swap": ("routerd.server", "Gateway.swap")}


def routes(tag: object, more: str = "") -> str:
    return (
        "version: 1\nproviders: {demo: {dialect: simulator, simulator: {first_token: 1ms}}}\n"
        f"models:\n  m: {{chain: [demo/echo]}}\n  v{tag}: {{chain: [demo/echo]}}\n{more}"
    )


async def post(running: Daemon, path: str = "/-/reload") -> tuple[int, dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=40)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(running.admin + path) as answer:
        return answer.status, json.loads(await answer.text())


@pytest.fixture
def faulty(daemon: Start, tmp_path: pathlib.Path) -> tuple[Daemon, Callable[..., None]]:
    """Give a daemon of two workers, and a function that arms a fault."""
    site = tmp_path / "site"
    site.mkdir()
    swap_in = {"commit": "control", "swap": "worker"}
    steps = {"control": {**CONTROL, **AROUND}, "worker": {**WORKER}}
    for step, place in SWAP.items():
        steps[swap_in[step]][step] = place
    (site / "sitecustomize.py").write_text(SITE.replace("{steps}", repr(steps)))

    def arm(step: str, newer_than: int = 0, times: int = 10**6) -> None:
        fresh = site / "fresh"
        fresh.write_text(json.dumps([step, newer_than, times]))
        os.replace(fresh, site / "fault")

    arm("")
    running = daemon(routes(0), args=["--workers", "2"], env={"PYTHONPATH": f"{site}{os.pathsep}{REPO}"})
    return running, arm


async def test_a_fault_at_any_step_before_the_swap_changes_nothing(faulty: tuple[Daemon, Callable[..., None]]) -> None:
    running, arm = faulty
    for turn, step in enumerate([*CONTROL, *WORKER], 1):
        before = await running.status()
        pids = [worker["pid"] for worker in before["workers"]]
        arm(step, before["generation"])
        running.config.write_text(routes(turn))
        status, told = await post(running)
        assert (status, told["result"]) == (422, "build"), (step, told)
        after = await running.status()
        assert after["generation"] == before["generation"], step
        assert {worker["digest"] for worker in after["workers"]} == {before["digest"]}, step
        assert [worker["pid"] for worker in after["workers"]] == pids, step
        assert (await fetch(running, CHAT, ask())).headers["x-routerd-generation"] == str(before["generation"]), step
        arm("")
        status, told = await post(running)
        assert (status, told["result"]) in ((200, "applied"), (200, "unchanged")), (step, told)
        assert (await fetch(running, CHAT, ask(model=f"v{turn}"))).status == 200, step


async def test_a_fault_beside_the_swap_is_no_fault_of_the_reload(faulty: tuple[Daemon, Callable[..., None]]) -> None:
    """What only tells of a reload, or follows it, neither fails it nor ends reloading; the answer is that of what serves."""
    running, arm = faulty
    for turn, step in enumerate(AROUND, 1):
        arm(step)
        running.config.write_text(routes(turn))
        status, told = await post(running)
        assert (status, told["result"], told["generation"]) == (200, "applied", turn + 1), (step, told)
        after = await running.status()
        assert (after["generation"], after["digest"]) == (turn + 1, told["digest"]), step
        assert [worker["generation"] for worker in after["workers"]] == [turn + 1] * 2, step
        assert (await fetch(running, CHAT, ask(model=f"v{turn}"))).status == 200, step

        def struck(words: str = f"a fault at {step}") -> bool:  # some of what follows is done by others, in their own time
            return words in running.process.output

        await until(struck)
        arm("")
    running.config.write_text(routes("last"))
    assert (await post(running))[1]["result"] == "applied"


async def test_a_worker_that_fails_to_swap_is_replaced_by_one_that_serves_the_new_one(
    faulty: tuple[Daemon, Callable[..., None]],
) -> None:
    """All workers have built it and control has adopted it: there is no way back, and none is left with the old one."""
    running, arm = faulty
    for turn, step in enumerate(SWAP, 1):
        before = await running.status()
        arm(step, before["generation"], 1)
        running.config.write_text(routes(turn))
        status, told = await post(running)
        assert (status, told["result"]) == (200, "applied"), (step, told)

        async def on_all_workers(number: int = turn + 1) -> bool:
            workers = (await running.status())["workers"]
            return all(worker["up"] and worker["generation"] == number for worker in workers)

        await until(on_all_workers, 20)
        after = await running.status()
        restarts = [worker["restarts"] for worker in after["workers"]]
        assert sum(restarts) == turn, (step, restarts)
        for _ in range(8):  # connections of both workers
            assert (await fetch(running, CHAT, ask(model=f"v{turn}"))).headers["x-routerd-generation"] == str(turn + 1)


# ── verdicts ──

SEED = (
    "version: 1\n"
    "providers:\n  demo: {dialect: simulator, simulator: {first_token: 1ms, tokens_per_s: 40}}\n"
    '  up: {dialect: openai, base_url: "http://127.0.0.1:9/v1", auth: {type: none}}\n'
    "models:\n"
    "  m0: {aliases: [fast], chain: [demo/echo, up/x], params: {defaults: {temperature: 0.5}}}\n"
    "  m1:\n    system_prompt: {text: be brief, mode: prepend}\n"
    "    chain:\n      - any_of: [{provider: demo, model: a, weight: 3}, up/b]\n"
    '  "x-*": {chain: [{provider: up, model: "{1}"}]}\n'
    "budgets:\n  few: {requests: 10, per: 1m}\n"
    "clients:\n  c: {key: sk-c, budgets: [few]}\n"
    "tests:\n  - {name: t, given: {model: fast, client: c}, expect: {target: demo/echo}}\n"
)


def mutated(rng: random.Random) -> str:
    """Return the file with one or two accidents: a line lost, doubled or moved, a character lost, changed or added, a number."""
    lines = SEED.splitlines()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(9)
        if kind >= 6:  # what leaves most files fine
            lines[at] = re.sub(r"\d", lambda _: str(rng.randrange(10)), lines[at], count=1)
        elif kind == 0 and len(lines) > 2:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[at])
        elif kind == 2:
            lines[at] = " " + lines[at]
        elif lines[at]:
            char = rng.randrange(len(lines[at]))
            put = "" if kind == 3 else rng.choice("x0:{}[]- ,\"'$*&#\t\u00e9")
            lines[at] = lines[at][:char] + put + lines[at][char + (kind != 5) :]
    return "\n".join(lines) + "\n"


async def test_the_verdict_of_check_is_the_daemons(daemon: Start, long_form: bool) -> None:
    running = daemon(SEED, args=["--workers", "1"])
    rng = random.Random(13)
    seen = {"fine": 0, "wrong": 0}
    for _ in range(2000 if long_form else 200):
        text = mutated(rng)
        running.config.write_text(text)
        try:
            expected = load_checked(running.config, {}).graph.digest
            problems: list[tuple[str, int]] = []
        except ConfigError as exc:
            expected, problems = "", sorted((problem.code, problem.line) for problem in exc.problems)
        status, told = await post(running, "/-/reload?allow_removal=1")
        assert (status == 200) == (not problems), (text, told)
        if problems:
            assert sorted((one["code"], one["line"]) for one in told["problems"]) == problems, text
        else:
            assert told["digest"] == expected, text
        seen["wrong" if problems else "fine"] += 1
    assert min(seen.values()) >= 20, seen


BOMBS = {
    "10 MB": ("file-too-large", "# " + "x" * 10_000_000),
    "alias bomb": (
        "alias-bomb",
        "x-0: &a0 [1, 2, 3]\n" + "".join(f"x-{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    ),
    "deep nesting": ("too-deep", "x-a: " + "[" * 100_000),
}


async def test_bombs_are_refused_within_100_ms_and_requests_go_on(daemon: Start) -> None:
    running = daemon(routes(0), args=["--workers", "1"])
    for name, (code, text) in BOMBS.items():
        fresh = running.config.with_name(".fresh")
        fresh.write_text(routes(0) + text)
        os.replace(fresh, running.config)
        took_s = []
        for _ in range(5):  # the best of five: other tests run on this machine
            status, told = await post(running)
            assert status == 422, name
            assert [problem["code"] for problem in told["problems"]] == [code], name
            began_s = time.thread_time()
            with pytest.raises(ConfigError):
                load_checked(running.config, {})
            took_s.append(time.thread_time() - began_s)
        assert min(took_s) < 0.1, (name, took_s)
    assert (await fetch(running, CHAT, ask())).status == 200


# ── a disk that takes nothing ──


async def test_a_full_disk_is_a_warning_and_no_failure(daemon: Start) -> None:
    """No file of the control process may grow from here on: what a full disk and a quota say."""
    running = daemon(routes(0), args=["--workers", "1"])

    async def kept(number: int) -> bool:
        status = await running.status()
        return bool(status["last_good"]["digest"] == status["digest"] and status["generation"] == number)

    await until(lambda: kept(1))
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    running.write(routes(1))
    await running.generation(2)

    async def told() -> bool:
        return bool((await running.status())["last_good"]["error"])

    await until(told)
    assert (await fetch(running, CHAT, ask(model="v1"))).status == 200
    good = running.config.parent / "state" / "last-good" / "inputs.json"
    assert json.loads(good.read_text())["format"] == 1  # the old one, whole
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    running.write(routes(2))
    await until(lambda: kept(3))
    assert (await running.status())["last_good"]["error"] == ""
