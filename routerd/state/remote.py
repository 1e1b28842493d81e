"""Counters that hosts share through Redis or Valkey: exact over all of them, at most one round trip a request.

What requests of one turn of the loop take goes out in one pipeline, a script call each; what they give back is sent behind them,
in the background, batched; while the server is away it is kept. The key of a charge has the hash tag `{routerd}`, so that all
charges of a request are in one slot of a cluster, and expires with its window. A lease on concurrency lapses after LEASE_S unless
it is renewed: a dead host holds nothing.
No take waits longer than `timeout_s`; then, and while the server is known to be away, it raises StateLost at once. Whoever was
not waited for gives back what was taken. The server is asked again every PROBE_S until it answers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from routerd.messages import Handle, Taken
from routerd.state.calendar import period
from routerd.state.ready import Meter
from routerd.state.scripts import CORRECT, TAKE
from routerd.state.share import Share, share_of
from routerd.state.window import width_us

__all__ = ["RemoteCounters", "StateLost", "check_url"]

log = logging.getLogger("routerd.state")

SCHEMES = ("redis://", "rediss://", "unix://")
LEASE_S = 15.0
RENEW_S = LEASE_S / 3
PROBE_S = 0.25
BATCH_S = 0.01  # what is given back waits so long for company
MOST_IN_FLIGHT = 16  # pipelines at a time, each on a connection of its own
MOST_CORRECTIONS = 200  # keys of one script call: a script stops the whole server while it runs
MOST_REMEMBERED = 20_000
MOST_KEPT = 20_000  # corrections, while the server is away
NEVER = 1 << 62  # the scripts' word for a wait without end
_LEASE_US = round(LEASE_S * 1e6)
_HOSTS = b"{routerd}:hosts"
_WINDOW = -1  # in a handle, where a lease has its number

_Correction = tuple[bytes, str, str, int]  # key, form, stamp or lease, difference


class StateLost(Exception):
    """The server did not answer in time, or is known to be away."""


def check_url(url: str) -> None:
    """Raise ValueError when `url` cannot be used, without quoting it: it may hold a password."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"the address of shared counters begins with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    try:
        import redis.asyncio
    except ImportError as exc:
        raise ValueError("shared counters need the package redis: pip install 'routerd[redis]'") from exc
    try:
        redis.asyncio.ConnectionPool.from_url(url)
    except ValueError as exc:
        raise ValueError(f"the address of shared counters is wrong: {type(exc).__name__}") from None


class _Take:
    """One take that waits for its answer. `numbers` are those of its leases, 0 for charges that are not held."""

    __slots__ = ("amounts", "future", "meters", "numbers")

    def __init__(
        self, future: asyncio.Future[Taken], meters: Sequence[Meter], amounts: Sequence[int], numbers: list[int]
    ) -> None:
        self.future = future
        self.meters = meters
        self.amounts = amounts
        self.numbers = numbers


class RemoteCounters:
    """The counters as one worker sees them. Belongs to one event loop. `changed` is told when the server goes and comes."""

    def __init__(
        self, url: str, timeout_s: float, changed: Callable[[bool], None] = lambda _up: None, host: str = ""
    ) -> None:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._redis = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=MOST_IN_FLIGHT,
                timeout=timeout_s,
                socket_connect_timeout=max(1.0, timeout_s),
                socket_timeout=max(1.0, timeout_s),
                retry=Retry(NoBackoff(), 0),
                client_name="routerd",
            )
        )
        self._timeout_s = timeout_s
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._up = False
        self._silence = ""  # why there is no answer, as it was logged
        self._ups = 0  # how often the server came: what was sent before says nothing about it now
        self._takes: list[_Take] = []
        self._corrections: list[_Correction] = []
        self._timer: asyncio.TimerHandle | None = None
        self._held: dict[int, bytes] = {}  # number of the lease -> key
        self._used: dict[bytes, tuple[int, float]] = {}  # key -> what was used, until when that counts; for gauges
        self._name = os.urandom(8).hex()  # of this worker, in the names of leases
        self._host = host or self._name
        self._hosts = 1  # that were alive when the server was seen last
        self._numbers = itertools.count(1)
        self._scripts = ("", "")  # by their digest
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether the server answered last."""
        return self._up

    async def open(self) -> None:
        """Connect, and begin to watch and to renew. A server that is away is no error: it is asked again."""
        await self._probe()
        self._start(self._watch())
        self._start(self._renew())

    async def close(self) -> None:
        """Send what waits, and disconnect."""
        if self._up and self._corrections:
            corrections, self._corrections = self._corrections, []
            await self._send([], corrections)
        for task in list(self._tasks):
            task.cancel()
        await self._redis.aclose()

    async def take(self, meters: Sequence[Meter], amounts: Sequence[int]) -> Taken:
        """Take all amounts or none, atomically over all hosts. Raises StateLost. A cancel gives back what was taken."""
        if not self._up:
            raise StateLost
        numbers = [0 if _form(meter)[0] != "h" else next(self._numbers) for meter in meters]
        take = _Take(self._loop.create_future(), meters, amounts, numbers)
        self._takes.append(take)
        if len(self._takes) == 1:
            self._loop.call_soon(self._flush)
        ups = self._ups
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._answered(take)
        except TimeoutError:
            self._went(f"no answer within {self._timeout_s * 1e3:g} ms", ups)
            raise StateLost from None

    def used(self, meter: Meter, now_s: float) -> int:
        """Return what was used when this worker last took from it; nothing once that has left its window."""
        found = self._used.get(meter.key)
        return found[0] if found is not None and now_s < found[1] else 0

    def shares(self, meters: Sequence[Meter], now_s: float) -> list[Share]:
        """Return what this host may let pass of each while the server is away."""
        held = Counter(self._held.values())
        return [share_of(meter, max(self.used(meter, now_s), held[meter.key]), self._hosts) for meter in meters]

    def settle(
        self, meters: Sequence[Meter], handles: Sequence[Handle], taken: Sequence[int], used: Sequence[int], _now_s: float
    ) -> None:
        """Have takes corrected, in the background; leases that are used no more are given back. The time is the server's."""
        for meter, handle, was, is_used in zip(meters, handles, taken, used, strict=True):
            if was == is_used:
                continue
            if handle[0] == _WINDOW:
                self._correct((meter.key, _form(meter)[0], str(handle[1]), is_used - was))
            elif self._held.pop(handle[0], None) is not None:
                self._correct((meter.key, "free", self._lease(handle[0]), 0))

    # ── sending ──

    async def _answered(self, take: _Take) -> Taken:
        """Wait for the answer. Who stops waiting gives back what was taken: here if it has come, else when it comes."""
        try:
            return await take.future
        except asyncio.CancelledError:
            if take.future.done() and not take.future.cancelled() and take.future.exception() is None:
                self._undo(take, take.future.result())
            raise

    def _undo(self, take: _Take, taken: Taken) -> None:
        if taken.handles:
            self.settle(take.meters, taken.handles, take.amounts, [0] * len(take.amounts), 0.0)

    def _correct(self, correction: _Correction) -> None:
        self._corrections.append(correction)
        if self._timer is None:
            self._timer = self._loop.call_later(BATCH_S, self._flush)

    def _flush(self) -> None:
        """Send everything that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        takes, self._takes = self._takes, []
        corrections: list[_Correction] = []
        if self._up:
            corrections, self._corrections = self._corrections, []
        elif len(self._corrections) > MOST_KEPT:
            del self._corrections[:-MOST_KEPT]
        if takes or corrections:
            self._start(self._send(takes, corrections))

    async def _send(self, takes: list[_Take], corrections: list[_Correction]) -> None:
        from redis.exceptions import ConnectionError as Closed
        from redis.exceptions import RedisError

        ups, answers = self._ups, []
        for again in (False, True):
            try:
                answers = await self._run(self._calls(takes, corrections))
                break
            except (RedisError, OSError, TimeoutError) as exc:
                answers = [exc] * len(takes)
                # It may have been done or not. Only what can be done twice is sent again: a settlement made twice is too low a
                # count. A take made twice is one too many, which the window forgets.
                corrections = [one for one in corrections if one[1] == "free"]
                if again or not isinstance(exc, Closed):
                    self._corrections += corrections
                    break
                # An idle connection of a server that was started anew looks open until it is used.
                await self._redis.connection_pool.disconnect(inuse_connections=False)
        for answer in answers:
            if isinstance(answer, Exception):
                self._went(type(answer).__name__, ups)
        for take, answer in zip(takes, answers, strict=False):
            self._answer(take, answer)

    def _calls(self, takes: list[_Take], corrections: list[_Correction]) -> list[list[Any]]:
        """Return the script calls: number of the script, of its keys, and the words."""
        calls: list[list[Any]] = [[0, len(take.meters), *self._take_words(take)] for take in takes]
        for at in range(0, len(corrections), MOST_CORRECTIONS):
            some = corrections[at : at + MOST_CORRECTIONS]
            words = [str(word) for _, form, stamp, delta in some for word in (form, stamp, delta)]
            calls.append([1, len(some), *(_key(key) for key, *_ in some), *words])
        return calls

    async def _run(self, calls: list[list[Any]]) -> list[Any]:
        """Run script calls in one pipeline; once more those of a server that has forgotten the scripts: it was started anew."""
        from redis.exceptions import NoScriptError

        answers = await self._pipeline(calls)
        forgotten = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if forgotten:
            await self._load()
            for i, answer in zip(forgotten, await self._pipeline([calls[i] for i in forgotten]), strict=True):
                answers[i] = answer
        return answers

    async def _pipeline(self, calls: list[list[Any]]) -> list[Any]:
        pipe = self._redis.pipeline(transaction=False)
        for script, keys, *words in calls:
            pipe.evalsha(self._scripts[script], keys, *words)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _load(self) -> None:
        """Have the server know the scripts. A replica would, and take no counts: it refuses to delete what is not there."""
        pipe = self._redis.pipeline(transaction=False)
        for script in (TAKE, CORRECT):
            pipe.execute_command("SCRIPT LOAD", script)
        pipe.execute_command("DEL", "{routerd}:up")
        take, correct, _ = await pipe.execute()
        self._scripts = (take, correct)
        await self._meet()

    async def _meet(self) -> None:
        """Say that this host lives, and learn how many do."""
        self._hosts = max(1, int(await self._redis.evalsha(self._scripts[1], 1, _HOSTS, "host", self._host, _LEASE_US)))

    def _answer(self, take: _Take, answer: Any) -> None:
        """Hand one answer to who waits for it."""
        if isinstance(answer, Exception):
            if not take.future.done():
                take.future.set_exception(StateLost())
            return
        taken = self._taken(take, [int(word) for word in answer])
        if not take.future.done():
            take.future.set_result(taken)
        else:
            self._undo(take, taken)

    def _taken(self, take: _Take, words: list[int]) -> Taken:
        refused, wait_us, *rest = words
        used, stamps, over = rest[0::3], rest[1::3], rest[2::3]
        now_s = self._loop.time()
        if len(self._used) > MOST_REMEMBERED:
            self._used.clear()
        for meter, amount in zip(take.meters, used, strict=True):
            self._used[meter.key] = (amount, now_s + _counts_s(meter))
        shadowed = tuple(i for i, one in enumerate(over) if one)
        if refused >= 0:
            return Taken((), refused, math.inf if wait_us == NEVER else wait_us / 1e6, tuple(used), shadowed)
        handles = []
        for meter, number, stamp in zip(take.meters, take.numbers, stamps, strict=True):
            if number:
                self._held[number] = meter.key
            handles.append((number, 0) if number else (_WINDOW, stamp))
        return Taken(tuple(handles), -1, 0.0, tuple(used), shadowed)

    def _take_words(self, take: _Take) -> list[bytes | str | int]:
        words: list[bytes | str | int] = [_key(meter.key) for meter in take.meters]
        for meter, amount, number in zip(take.meters, take.amounts, take.numbers, strict=True):
            form, parameter = _form(meter)
            words += (form, meter.limit, amount, int(meter.enforced), parameter, self._lease(number) if number else "")
        return words

    def _lease(self, number: int) -> str:
        return f"{self._name}:{number}"

    # ── the server comes and goes ──

    def _went(self, why: str, ups: int) -> None:
        if self._up and ups == self._ups:
            self._up = False
            log.warning("the shared counters are away: %s", why)
            self._changed(False)

    async def _probe(self) -> None:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(1.0):
                await self._redis.connection_pool.disconnect(inuse_connections=False)  # they lead to the server that went
                await self._load()
        except (RedisError, OSError, TimeoutError) as exc:
            why = _reason(exc)
            if why != self._silence:  # once: it is asked again each second
                self._silence = why
                log.warning("no answer from the shared counters: %s", why)
            return
        self._up = True
        self._silence = ""
        self._ups += 1
        log.info("the shared counters answer")
        self._changed(True)
        self._flush()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            if not self._up:
                await self._probe()

    async def _renew(self) -> None:
        """Keep the leases of this worker alive; one that lapsed while the server was away is there again."""
        from redis.exceptions import RedisError

        while True:
            await asyncio.sleep(RENEW_S)
            for number, key in self._held.items():
                self._correct((key, "hold", self._lease(number), _LEASE_US))
            if self._up:
                try:
                    await self._meet()
                except (RedisError, OSError, TimeoutError):
                    pass  # the next take says so

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _reason(exc: BaseException) -> str:
    """Return why the server does not answer, without its address: that may hold a password."""
    texts = []
    one: BaseException | None = exc
    while one is not None:
        texts.append(str(one))
        one = one.__cause__ or one.__context__
    found = next((meaning for word, meaning in _REASONS.items() if any(word in text for text in texts)), "")
    return f"{type(exc).__name__}{found}"


_REASONS = {
    "CERTIFICATE_VERIFY_FAILED": ": its certificate is not trusted; name its authority: rediss://...?ssl_ca_certs=/etc/ssl/redis-ca.pem",
    "WRONG_VERSION_NUMBER": ": it does not speak TLS; redis:// is without",
    "invalid username-password": ": it refuses the password",
    "HELLO must be called": ": it wants a password: redis://:PASSWORD@HOST",
    "Connection refused": ": connection refused",
    "Name or service not known": ": there is no such host",
}


def _key(digest: bytes) -> bytes:
    return b"{routerd}:" + digest.hex().encode()


def _form(meter: Meter) -> tuple[str, str | int]:
    """Return how the scripts count this meter, and their parameter for it."""
    if meter.window_s:
        return "s", width_us(meter.window_s)
    if meter.calendar:
        return "c", meter.calendar
    return ("p", max(1, round(meter.drain_s * 1e6))) if meter.drain_s else ("h", _LEASE_US)


def _counts_s(meter: Meter) -> float:
    """Return how long at most what is used now counts."""
    if meter.calendar:
        unix_s = int(time.time())
        return period(meter.calendar, unix_s)[1] - unix_s
    return meter.window_s * 33 / 32 or meter.drain_s or LEASE_S
