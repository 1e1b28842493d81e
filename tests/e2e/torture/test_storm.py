"""Reloads under load: no request fails, none mixes generations, no connection is opened anew, nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import signal
from collections.abc import Callable

import aiohttp

from routerd.daemon.reload.outcome import RESULTS
from tests.support import answers
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, RawClient, ask, fetch, head_of
from tests.support.upstream import Call, Upstream

Start = Callable[..., Daemon]
STREAMS = 50
HELD_S = 3600.0  # that a stream is held at most: the long form takes minutes
CLIENTS = 8
MEET = 20  # requests of a client between two meetings


def routes(upstream: Upstream, model: str, more: str = "") -> str:
    """Return a configuration whose target carries the edit in its name, so that an answer shows which graph made it."""
    up = f'providers: {{up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}}}'
    held = "held: {timeouts: {idle: 1h}, chain: [up/held]}"
    return f"version: 1\n{up}\nmodels:\n  m: {{chain: [up/{model}]}}\n  {held}\n{more}"


async def post(session: aiohttp.ClientSession, running: Daemon, path: str = "/-/reload") -> tuple[int, dict[str, object]]:
    async with session.post(running.admin + path) as answer:
        return answer.status, await answer.json()


class Load:
    """Clients that ask without a pause, each over one connection, one request after another.

    At each MEETth request they meet: the upstream answers when all of them are there, so each needs a connection of its own and
    none ages unused. A connection more than at the first meeting is one that something else has cost.
    """

    def __init__(self, running: Daemon) -> None:
        self.wrong: list[str] = []
        self.asked = [0] * CLIENTS
        self.meeting = asyncio.Barrier(CLIENTS)
        self._ends_at = 2**62
        self._running = running

    async def client(self, number: int) -> None:
        """Ask until told to end. Every second client asks for streams."""
        stream = number % 2 == 0
        usual, meets = (json.dumps(ask(text=text, stream=stream)).encode() for text in ("Hello", "meet"))
        async with RawClient(self._running) as raw:
            while self.asked[number] < self._ends_at:
                await raw.send(head_of(CHAT, usual if self.asked[number] % MEET else meets))
                head = (await raw.read_until(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = await (raw.reader.readexactly(int(length[1])) if length else raw.read_until(b"\r\n0\r\n\r\n"))
                target, generation = (re.search(rf"x-routerd-{name}: (\S+)", head) for name in ("target", "generation"))
                mixed = target is None or generation is None or target[1] != f"up/g{generation[1]}"
                if not head.startswith("HTTP/1.1 200 ") or mixed or (stream and b"[DONE]" not in body):
                    self.wrong.append(f"{head} {body[:200]!r}")
                self.asked[number] += 1

    def end(self) -> None:
        """Have every client stop at the same request, so that none waits at a meeting for one that has left."""
        self._ends_at = max(self.asked) + 1


async def test_reloads_under_load_cost_nothing(
    daemon: Start, upstream: Upstream, long_form: bool, tell: Callable[[str], None]
) -> None:
    """50 streams stay open over all reloads while 8 clients ask without a pause. Not one connection is opened after the first."""
    gate = asyncio.Event()
    running = daemon(routes(upstream, "g1"), args=["--workers", "2"])
    load = Load(running)

    async def answer(call: Call) -> None:
        asked = call.request.json()
        if asked["model"] == "held":
            await answers.stream(["before", "after"], gates=[_open(), gate])(call)
            return
        if asked["messages"][0]["content"] == "meet":
            await load.meeting.wait()
        await (answers.stream(["a", "b"]) if asked.get("stream") else answers.reply())(call)

    upstream.always(answer)
    held = [asyncio.create_task(fetch(running, CHAT, ask(model="held", stream=True), within_s=HELD_S)) for _ in range(STREAMS)]
    await upstream.received(STREAMS)
    before = await running.metrics()
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    await until(lambda: min(load.asked) >= MEET)
    opened = upstream.connections_opened
    reloads, each = (1000, 1000) if long_form else (100, 20)
    falls: list[str] = []
    async with aiohttp.ClientSession() as session:
        for number in range(2, reloads + 2):
            running.write(routes(upstream, f"g{number}"))
            status, told = await post(session, running)
            assert (status, told["generation"]) == (200, number), told
            await until(lambda due=each * (number - 1): sum(load.asked) >= due or load.wrong, 60.0)  # type: ignore[misc]
            upstream.requests.clear()  # a million of them would not fit
            if number % 20 == 0:
                after = await running.metrics()
                falls += [key for key, value in before.items() if "_total" in key and after.get(key, 0.0) < value]
                before = after
                tell(f"{number} reloads, {sum(load.asked)} requests, {upstream.connections_opened - opened} new connections")
    load.end()
    outcomes = await asyncio.gather(*clients, return_exceptions=True)
    new_connections = upstream.connections_opened - opened
    gate.set()
    streams = await asyncio.gather(*held)
    assert [o for o in outcomes if o is not None] == []
    assert load.wrong == []
    assert falls == []
    assert sum(load.asked) >= reloads * each
    assert new_connections == 0
    for one in streams:
        assert (one.status, one.headers["x-routerd-generation"], one.events()[-1]) == (200, "1", "[DONE]")
        assert b"after" in one.body


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


# ── what is left behind ──


def resources(running: Daemon) -> tuple[float, int]:
    """Return resident memory in MB and open files of control and workers together."""
    pids = [running.process.pid, *_children(running.process.pid)]
    text = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(_rss(one)) for one in text) / 1024, sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def _rss(status: str) -> str:
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return found[1] if found else "0"


def _children(pid: int) -> list[int]:
    return [int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_reloads_leave_no_memory_and_no_file_behind(
    daemon: Start, upstream: Upstream, long_form: bool, tell: Callable[[str], None]
) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream, "g1", big(0)), args=["--workers", "1"])
    first, reloads = (2000, 5000) if long_form else (150, 150)

    async def reload(times: int, start: int) -> None:
        async with aiohttp.ClientSession() as session:
            for number in range(start, start + times):
                running.write(routes(upstream, f"g{number % 10}", big(number)))  # new names keep their series for minutes
                assert (await post(session, running))[0] == 200
                if number % 250 == 0:
                    tell("{} reloads, {:.1f} MB, {} open files".format(number, *await asyncio.to_thread(resources, running)))
        assert (await fetch(running, CHAT, ask())).status == 200
        await asyncio.sleep(0.5)  # freeing is spread over the beats of the worker

    # The history is full, and allocators have their size: at 110 reloads a second they grow by 2 % until some 3,000, with as many
    # blocks of memory in use as before.
    await reload(first, 2)
    before = await asyncio.to_thread(resources, running)
    await reload(reloads, first + 2)
    after = await asyncio.to_thread(resources, running)
    tell(f"{before[0]:.1f} MB and {before[1]} open files before, {after[0]:.1f} MB and {after[1]} after {reloads} reloads")
    assert after[1] <= before[1]
    assert after[0] <= before[0] * 1.02


def big(number: int) -> str:
    return "".join(f"  x{i}: {{description: edit {number}, chain: [up/x{i}]}}\n" for i in range(20))


# ── all at once ──


async def test_signal_api_and_file_at_once_end_at_the_newest_bytes(daemon: Start, upstream: Upstream) -> None:
    upstream.always(answers.reply())
    running = daemon(routes(upstream, "g0"), args=["--workers", "2"])
    async with aiohttp.ClientSession() as session:
        for turn in range(1, 11):
            asked = []
            for step in range(5):
                running.write(routes(upstream, f"t{turn}s{step}"))
                running.process.signal(signal.SIGHUP)
                asked.append(asyncio.create_task(post(session, running)))
                await asyncio.sleep(0)
            told = await asyncio.gather(*asked)
            assert {status for status, _ in told} == {200}, told
            assert (await fetch(running, CHAT, ask())).headers["x-routerd-target"] == f"up/t{turn}s4"
    status = await running.status()
    assert {worker["generation"] for worker in status["workers"]} == {status["generation"]}

    async def settled() -> bool:
        return (await running.status())["drift"] is False

    await until(settled)
    assert (await fetch(running, CHAT, ask())).headers["x-routerd-target"] == "up/t10s4"


async def test_a_provider_that_goes_in_the_middle_of_a_stream_ends_it_in_good_order(
    daemon: Start, upstreams: Callable[[], object]
) -> None:
    old, new = await upstreams(), await upstreams()  # type: ignore[misc]
    gate = asyncio.Event()
    old.script(answers.stream(["before", "after"], gates=[_open(), gate]))
    new.always(answers.reply())
    running = daemon(routes(old, "g1"), args=["--workers", "1"])
    held = asyncio.create_task(fetch(running, CHAT, ask(stream=True)))
    await old.received(1)
    running.write(routes(new, "g2").replace("up:", "other:").replace("up/", "other/"))
    await running.generation(2)
    got = await fetch(running, CHAT, ask())
    assert (got.status, got.headers["x-routerd-target"]) == (200, "other/g2")

    async def gauges() -> list[str]:
        return [key for key in await running.metrics() if key.startswith("routerd_inflight") and 'endpoint="up"' in key]

    gate.set()
    answer = await held
    assert answer.headers["x-routerd-target"] == "up/g1"
    assert answer.events()[-1] == "[DONE]"
    await until(lambda: old.connections_open == 0)  # no graph names it: its pool is closed when the last lease ends

    async def forgotten() -> bool:
        return not await gauges()

    await until(forgotten)


class Told:
    """Everything that a daemon says of its reloads: each saying of one outcome must be the same."""

    def __init__(self, running: Daemon, session: aiohttp.ClientSession, events: aiohttp.ClientResponse) -> None:
        self._running, self._session, self._events = running, session, events
        self._counts: dict[str, float] = {}
        self.words: set[str] = set()

    async def begin(self) -> None:
        """Look at the counters before anything happens."""
        self._counts = await self._reloads()

    async def asked(self, path: str = "/-/reload") -> dict[str, object]:
        """Ask for a reload; its answer must be what is told elsewhere."""
        status, told = await post(self._session, self._running, path)
        assert status == (200 if told["result"] in ("applied", "unchanged") else 422), told
        return await self.heard(told)

    async def heard(self, answer: dict[str, object] | None = None) -> dict[str, object]:
        """Compare the next event, and `answer` if there is one, with counter, log and status; return it."""
        kind, told = await self._event()
        assert answer in (None, told)
        word, trigger = str(told["result"]), told["trigger"]
        ok, back = word in ("applied", "unchanged"), "rolled_back_to" in told
        assert kind == ("rolled_back" if back else f"reload_{word}" if ok else "reload_rejected")
        counts = await self._reloads()
        changed = {key: value - self._counts[key] for key, value in counts.items() if value != self._counts[key]}
        assert changed == {f'routerd_config_reloads_total{{result="{word}",trigger="{trigger}"}}': 1}
        self._counts = counts
        assert (await self._running.status())["last_reload"] == told
        log = re.compile(rf"reload \({trigger}\): {word}(, generation|, back to|: refused)")
        await until(lambda: any(log.search(line) for line in self._running.process.lines))
        problems = told["problems"]
        assert isinstance(problems, list)
        assert bool(problems) is not ok
        await until(lambda: all(one["message"] in self._running.process.output for one in problems))
        self.words.add(word)
        return told

    async def _reloads(self) -> dict[str, float]:
        samples = await self._running.metrics()
        return {key: value for key, value in samples.items() if key.startswith("routerd_config_reloads_total")}

    async def _event(self) -> tuple[str, dict[str, object]]:
        kind = ""
        async with asyncio.timeout(10):
            while True:
                line = (await self._events.content.readline()).decode().rstrip()
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: ") and (kind.startswith("reload_") or kind == "rolled_back"):
                    return kind, dict(json.loads(line[6:]))


async def test_every_outcome_is_told_in_one_word_everywhere(daemon: Start, upstream: Upstream) -> None:
    """The API's answer, the event, /-/status, the counter and the log: one word, one reason, for every result that there is."""
    settle = "reload: {settle: 2s}\n"  # who asks is first: the watcher does not take the same edit up
    good = settle + routes(upstream, "g1", big(0))
    clients = "clients: {c: {key: sk-some-key-of-a-client, credits: {usd: 5}}}\n"
    tests = "tests: [{name: t, given: {model: m}, expect: {target: up/other}}]\n"
    edits = {
        "applied": good.replace("g1", "g2"),
        "unchanged": good.replace("g1", "g2") + "# a comment\n",
        "yaml": good + "  - : [\n",
        "interpolate": good + "x-a: ${NO_SUCH_VARIABLE}\naliases: {a: '${NO_SUCH_VARIABLE}'}\n",
        "schema": good + "modles: {}\n",
        "semantic": good.replace("[up/g1]", "[nobody/g1]"),
        "tests": good + tests,
        "build": good + clients,  # credits are counted by the ledger, and there is none
        "shrink_guard": settle + routes(upstream, "g3"),
    }
    running = daemon(good, args=["--workers", "1", "--ledger", "off"])
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession() as session, session.get(running.admin + "/events", timeout=timeout) as events:
        told = Told(running, session, events)
        await told.begin()
        for word, text in edits.items():
            running.config.write_text(text)
            assert (await told.asked())["result"] == word
        running.config.unlink()
        assert (await told.asked())["result"] == "read"
        running.config.write_text(edits["applied"])
        assert (await told.asked())["result"] == "unchanged"
        back = await told.asked("/-/rollback")
        assert (back["result"], back["trigger"], back["rolled_back_to"]) == ("applied", "rollback", 1)
        running.write(edits["unchanged"])  # a comment: still what was rolled back
        held = await told.heard()
        assert (held["result"], held["trigger"]) == ("reverted", "file")
        running.write(good.replace("g1", "g4"))
        served = await told.heard()
        assert (served["result"], served["trigger"]) == ("applied", "file")
        running.process.signal(signal.SIGHUP)
        assert (await told.heard())["trigger"] == "signal"
    assert told.words == set(RESULTS)
