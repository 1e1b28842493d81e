"""Rules of the counters that hosts share, with a real server: the same as those of one host, and what is done without it."""

from __future__ import annotations

import asyncio
import math
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis.asyncio

from routerd.state import period
from routerd.state.remote import RemoteCounters, StateLost, check_url
from routerd.state.scripts import _COMMON
from routerd.state.share import share_of
from tests.state.hammer import Budget
from tests.support.daemon import until
from tests.support.link import Link
from tests.support.redis import CERTIFICATE, RedisServer

Make = Callable[..., Awaitable[RemoteCounters]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    yield running
    running.stop()


@pytest.fixture
async def host(server: RedisServer) -> AsyncIterator[Make]:
    """Give a function that makes the counters of one more host, over an empty server."""
    made: list[RemoteCounters] = []

    async def make(url: str = server.url, timeout_s: float = 5.0) -> RemoteCounters:
        counters = RemoteCounters(url, timeout_s)
        await counters.open()
        made.append(counters)
        return counters

    first = await make()
    await first._redis.flushall()
    yield make
    for counters in made:
        await counters.close()


async def took(counters: RemoteCounters, budget: Budget, amount: int = 1) -> bool:
    return (await counters.take([budget], [amount])).refused < 0


async def used(counters: RemoteCounters, budget: Budget) -> int:
    """Ask by a take of nothing, with what is given back out of the way."""
    counters._flush()
    return (await counters.take([budget], [0])).used[0]


FORMS = [Budget("b", 5, 60.0), Budget("b", 5, 0.0, "day"), Budget("b", 5, 0.0, "month"), Budget("b", 5, 0.0, "", 1e6)]
IDS = ["sliding", "day", "month", "bucket"]


@pytest.mark.parametrize("budget", [*FORMS, Budget("b", 5, 0.0)], ids=[*IDS, "held"])
async def test_exactly_the_limit_passes_over_two_hosts(host: Make, budget: Budget) -> None:
    a, b = await host(), await host()
    got = await asyncio.gather(*(took(counters, budget) for _ in range(20) for counters in (a, b)))
    assert got.count(True) == 5


async def test_a_refused_take_takes_nothing_anywhere(host: Make) -> None:
    counters = await host()
    wide, narrow, held = Budget("wide", 10, 60.0), Budget("narrow", 1, 60.0), Budget("held", 5, 0.0)
    bucket, daily = Budget("bucket", 5, 0.0, "", 1e6), Budget("daily", 5, 0.0, "day")
    all_of_them = [wide, narrow, held, bucket, daily]
    assert (await counters.take(all_of_them, [1] * 5)).used == (1, 1, 1, 1, 1)
    refused = await counters.take(all_of_them, [1] * 5)
    assert (refused.refused, refused.handles) == (1, ())
    assert refused.used == (1, 1, 1, 1, 1)


@pytest.mark.parametrize("budget", FORMS, ids=IDS)
async def test_settling_corrects_both_ways(host: Make, budget: Budget) -> None:
    counters = await host()
    one = await counters.take([budget], [5])
    counters.settle([budget], [one.handles[0]], [5], [2], 0.0)
    assert await used(counters, budget) == 2
    two = await counters.take([budget], [1])
    counters.settle([budget], [two.handles[0]], [1], [6], 0.0)
    assert await used(counters, budget) == 8


async def test_what_is_freed_can_be_taken_and_only_once(host: Make) -> None:
    a, b = await host(), await host()
    slots = Budget("s", 1, 0.0)
    held = await a.take([slots], [1])
    assert not await took(b, slots)
    a.settle([slots], [held.handles[0]], [1], [0], 0.0)
    a.settle([slots], [held.handles[0]], [1], [0], 0.0)
    a._flush()
    await until(lambda: took(b, slots))
    assert not await took(a, slots)


async def test_waits_are_honest(host: Make) -> None:
    counters = await host()
    for budget in (Budget("w", 2, 0.3), Budget("p", 2, 0.0, "", 0.3)):
        assert await took(counters, budget, 2)
        refused = await counters.take([budget], [1])
        assert 0 < refused.retry_after_s <= 0.32
        await asyncio.sleep(refused.retry_after_s + 0.002)
        assert await took(counters, budget)
    assert (await counters.take([Budget("w", 2, 0.3)], [3])).retry_after_s == math.inf
    seconds = int((await counters._redis.time())[0])
    assert await took(counters, Budget("c", 2, 0.0, "week"), 2)
    wait_s = (await counters.take([Budget("c", 2, 0.0, "week")], [1])).retry_after_s
    assert wait_s == pytest.approx(period("week", seconds)[1] - seconds, abs=3)


@pytest.mark.parametrize("before", FORMS[:3], ids=IDS[:3])
@pytest.mark.parametrize("after", [*FORMS[:3], Budget("b", 5, 600.0)], ids=[*IDS[:3], "longer"])
async def test_another_window_keeps_what_is_used(host: Make, before: Budget, after: Budget) -> None:
    counters = await host()
    assert await took(counters, before, 3)
    assert await used(counters, after) == 3
    assert [await took(counters, after) for _ in range(3)] == [True, True, False]


async def test_another_limit_applies_to_what_is_used(host: Make) -> None:
    counters = await host()
    assert await took(counters, Budget("b", 10, 60.0), 6)
    assert not await took(counters, Budget("b", 5, 60.0))
    assert (await counters.take([Budget("b", 20, 60.0)], [14])).refused < 0


async def test_shadow_mode_counts_and_reports(host: Make) -> None:
    counters = await host()
    shadow = Budget("x", 1, 60.0, "", 0.0, False)
    assert [(await counters.take([shadow], [1])).over for _ in range(3)] == [(), (0,), (0,)]
    assert await used(counters, shadow) == 3


async def test_the_months_of_the_script_are_those_of_the_calendar(host: Make) -> None:
    counters = await host()
    each = "for i = 1, #ARGV do out[#out + 1], out[#out + 2] = bounds(KEYS[1], tonumber(ARGV[i])) end"
    script = f"{_COMMON}\nlocal out = {{}}\n{each}\nreturn out"
    moments = [*range(0, 4_000_000_000, 999_331), 951_782_400, 1_709_164_800, 1_735_689_599, 1_735_689_600]
    for word in ("month", "week", "day", "hour"):
        found = await counters._redis.eval(script, 1, word, *moments)
        assert [tuple(found[i : i + 2]) for i in range(0, len(found), 2)] == [period(word, s) for s in moments]


async def test_every_key_expires(host: Make) -> None:
    counters = await host()
    bucket = Budget("p", 5, 0.0, "", 9.0)
    taken = await counters.take([FORMS[0], Budget("c", 5, 0.0, "day"), bucket, Budget("s", 5, 0.0)], [1] * 4)
    counters.settle([bucket], [taken.handles[2]], [1], [3], 0.0)
    await used(counters, FORMS[0])
    keys = await counters._redis.keys("*")
    assert len(set(keys) - {b"{routerd}:hosts"}) == 4
    assert all(key.startswith(b"{routerd}:") for key in keys)
    assert all([await counters._redis.ttl(key) > 0 for key in keys])


async def test_the_lease_of_a_host_that_died_lapses_and_that_of_one_that_lives_does_not(
    host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.state.remote._LEASE_US", 300_000)
    monkeypatch.setattr("routerd.state.remote.RENEW_S", 0.1)
    dead, alive, other = await host(), await host(), await host()
    slots = Budget("s", 2, 0.0)
    assert await took(dead, slots)
    assert await took(alive, slots)
    for task in list(dead._tasks):
        task.cancel()
    assert not await took(other, slots)
    await until(lambda: took(other, slots))
    await asyncio.sleep(0.5)
    assert not await took(alive, slots)


async def test_takes_of_one_turn_of_the_loop_travel_together(host: Make) -> None:
    counters = await host()
    sent = 0
    plain = counters._send

    async def counted(*args: object) -> None:
        nonlocal sent
        sent += 1
        await plain(*args)  # type: ignore[arg-type]

    counters._send = counted  # type: ignore[method-assign]
    await asyncio.gather(*(took(counters, Budget("b", 100, 60.0)) for _ in range(50)))
    assert sent == 1


async def test_who_is_cancelled_holds_nothing(host: Make) -> None:
    counters = await host()
    slots, window = Budget("s", 1, 0.0), Budget("w", 5, 60.0)
    for turns in range(60):
        task = asyncio.ensure_future(counters.take([slots, window], [1, 1]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            taken = await task
        except asyncio.CancelledError:
            continue
        if taken.refused < 0:  # not, while what the one before held is on its way back
            counters.settle([slots], [taken.handles[0]], [1], [0], 0.0)
            counters.settle([window], [taken.handles[1]], [1], [0], 0.0)

    async def nothing_is_held() -> bool:
        return await used(counters, window) == 0 and not await counters._redis.zcard("{routerd}:" + slots.key.hex())

    await until(nothing_is_held)


async def test_a_silent_server_costs_nobody_more_than_the_timeout(host: Make, server: RedisServer) -> None:
    counters = await host(timeout_s=0.05)
    budget, loop = Budget("b", 100, 60.0), asyncio.get_running_loop()
    assert await took(counters, budget)
    server.pause()
    try:
        began_s = loop.time()
        got = await asyncio.gather(*(counters.take([budget], [1]) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(one, StateLost) for one in got)
        assert loop.time() - began_s < 0.5
        assert not counters.up
        began_s = loop.time()
        with pytest.raises(StateLost):
            await counters.take([budget], [1])
        assert loop.time() - began_s < 0.02  # known to be away: not asked
    finally:
        server.resume()
    await until(lambda: counters.up)

    async def given_back() -> bool:  # what was taken for those who did not wait
        return await used(counters, budget) == 1

    await until(given_back)


async def test_a_server_that_comes_back_empty_is_used_again(host: Make, tmp_path: pathlib.Path) -> None:
    own = RedisServer(tmp_path)
    seen: list[bool] = []
    counters = RemoteCounters(own.url, 1.0, seen.append)
    await counters.open()
    budget = Budget("b", 2, 60.0)
    assert await took(counters, budget)
    own.stop()
    with pytest.raises(StateLost):
        await counters.take([budget], [1])
    own.start()
    await until(lambda: counters.up)
    assert [await took(counters, budget) for _ in range(3)] == [True, True, False]
    assert seen == [True, False, True]
    await counters.close()
    own.stop()


async def test_a_server_that_forgot_the_scripts_is_told_them_and_nothing_is_lost(host: Make) -> None:
    counters = await host()
    budget, slots = Budget("b", 20, 60.0), Budget("s", 20, 0.0)
    taken = await counters.take([budget, slots], [5, 1])
    for _ in range(3):
        await counters._redis.script_flush()
        got = await asyncio.gather(*(counters.take([budget, slots], [1, 1]) for _ in range(3)))
        assert all(one.refused < 0 for one in got)
    await counters._redis.script_flush()
    counters.settle([budget], [taken.handles[0]], [5], [2], 0.0)
    counters.settle([slots], [taken.handles[1]], [1], [0], 0.0)
    counters._flush()

    async def all_is_there() -> bool:
        return (await counters.take([budget, slots], [0, 0])).used == (9 + 2, 9 + 2)  # the take of nothing has a lease, too

    await until(all_is_there)
    assert counters.up


async def test_a_replica_is_away_until_it_is_promoted_and_then_knows_what_was_used(tmp_path: pathlib.Path) -> None:
    primary, replica = RedisServer(_made(tmp_path / "a")), RedisServer(_made(tmp_path / "b"))
    seen: list[bool] = []
    budget = Budget("b", 5, 60.0)
    async with Link(primary.port) as link:
        counters = RemoteCounters(f"redis://127.0.0.1:{link.port}/0", 1.0, seen.append)
        await counters.open()
        admin = redis.asyncio.Redis(port=replica.port)
        await admin.replicaof("127.0.0.1", primary.port)

        async def follows() -> bool:
            return (await admin.info("replication"))["master_link_status"] == "up"

        await until(follows, 20)
        assert await took(counters, budget, 3)
        await counters._redis.wait(1, 5000)
        link.to = replica.port
        primary.stop()
        with pytest.raises(StateLost):
            await counters.take([budget], [1])
        await asyncio.sleep(1.0)  # it answers, and takes nothing: four probes
        assert seen == [True, False]
        await admin.replicaof("NO", "ONE")
        await until(lambda: counters.up)
        assert [await took(counters, budget) for _ in range(3)] == [True, True, False]
        await admin.aclose()
        await counters.close()
    replica.stop()


def _made(directory: pathlib.Path) -> pathlib.Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("budget", "seen", "hosts", "share"),
    [
        (Budget("w", 10, 60.0), 0, 1, 10),
        (Budget("w", 10, 60.0), 4, 2, 3),
        (Budget("w", 10, 60.0), 5, 2, 2),
        (Budget("w", 10, 60.0), 12, 2, 0),
        (Budget("m", 100, 0.0, "month"), 40, 3, 20),
        (Budget("s", 3, 0.0), 0, 4, 0),
        (Budget("p", 10, 0.0, "", 5.0), 9, 4, 2),
        (Budget("p", 2, 0.0, "", 5.0), 0, 4, 1),
    ],
)
def test_the_share_of_a_host_is_its_part_of_what_was_left(budget: Budget, seen: int, hosts: int, share: int) -> None:
    found = share_of(budget, seen, hosts)
    assert found.limit == share
    assert (found.key, found.window_s, found.calendar, found.drain_s) == (
        budget.key, budget.window_s, budget.calendar, budget.drain_s
    )  # fmt: skip


async def test_hosts_know_how_many_they_are_and_what_each_may_let_pass_alone(
    host: Make, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.state.remote._LEASE_US", 1_500_000)
    monkeypatch.setattr("routerd.state.remote.RENEW_S", 0.1)
    one, other = await host(), await host()
    budget, slots, now_s = Budget("w", 10, 60.0), Budget("s", 10, 0.0), asyncio.get_running_loop().time()
    await until(lambda: one._hosts == 2, 10)  # the first of the fixture makes itself known to an empty server a moment later
    for _ in range(4):
        assert (await one.take([budget, slots], [1, 1])).refused < 0
    assert [share.limit for share in one.shares([budget, slots], now_s)] == [3, 3]
    assert [share.limit for share in other.shares([budget, slots], now_s)] == [5, 5]  # it has seen nothing
    assert [share.limit for share in one.shares([budget, slots], now_s + 70)] == [5, 3]  # what runs is known
    for task in list(other._tasks):
        task.cancel()
    await until(lambda: one._hosts == 1, 10)


async def test_a_slow_server_is_not_waited_for_and_what_it_took_late_is_given_back(server: RedisServer) -> None:
    budget, slots = Budget("slow", 100, 60.0), Budget("slow slots", 100, 0.0)
    async with Link(server.port) as link:
        counters = RemoteCounters(f"redis://127.0.0.1:{link.port}/0", 0.1)
        await counters.open()
        assert (await counters.take([budget, slots], [1, 1])).refused < 0
        link.delay_s = 0.4
        got = await asyncio.gather(*(counters.take([budget, slots], [1, 1]) for _ in range(10)), return_exceptions=True)
        assert all(isinstance(one, StateLost) for one in got)
        link.delay_s = 0.0
        await until(lambda: counters.up)

        async def only_the_first_is_there() -> bool:
            counters._flush()
            direct = counters._redis
            key = "{routerd}:"
            held = await direct.zcard(key + slots.key.hex())
            cells = await direct.hgetall(key + budget.key.hex())
            return bool(held == 1 and sum(int(value) for name, value in cells.items() if name != b"w") == 1)

        await until(only_the_first_is_there)
        await counters.close()


async def test_a_server_that_is_not_there_at_the_start_is_no_error(server: RedisServer) -> None:
    counters = RemoteCounters("redis://127.0.0.1:1/0", 0.05)
    await counters.open()
    with pytest.raises(StateLost):
        await counters.take([Budget("b", 2, 60.0)], [1])
    await counters.close()


async def test_a_server_over_tls_with_a_password_counts(tmp_path: pathlib.Path) -> None:
    own = RedisServer(tmp_path, tls=True, password="hunter2")
    counters = RemoteCounters(f"{own.url}?ssl_ca_certs={CERTIFICATE}", 2.0)
    await counters.open()
    assert [await took(counters, Budget("b", 2, 60.0)) for _ in range(3)] == [True, True, False]
    await counters.close()
    own.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("", ""), "its certificate is not trusted"),
        (("hunter2", "wrong-one"), "it refuses the password"),
        ((":hunter2@", ""), "it wants a password"),
        (("rediss:", "redis:"), "ConnectionError"),
    ],
    ids=["certificate", "password", "no password", "no TLS"],
)
async def test_why_a_server_does_not_answer_is_said_once_and_without_the_password(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, change: tuple[str, str], said: str
) -> None:
    own = RedisServer(tmp_path, tls=True, password="hunter2")
    trusted = f"?ssl_ca_certs={CERTIFICATE}" if change[0] and change[0] != "rediss:" else ""
    counters = RemoteCounters(own.url.replace(*change) + trusted, 2.0)
    await counters.open()
    await counters._probe()
    (line,) = [record.getMessage() for record in caplog.records if "no answer" in record.getMessage()]
    assert said in line
    assert "hunter2" not in line
    assert "wrong-one" not in line
    await counters.close()
    own.stop()


@pytest.mark.parametrize("url", ["http://x", "redis//x", "redis://:hunter2@h:port/0", "redis://h:99999999/0"])
def test_a_wrong_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h:6379/2", "rediss://:pw@h", "unix:///run/redis.sock?db=1", "redis://[::1]:6379"])
def test_a_good_address_is_taken(url: str) -> None:
    check_url(url)


async def test_what_was_last_seen_is_told_until_it_has_left_its_window(host: Make) -> None:
    counters = await host()
    now_s = asyncio.get_running_loop().time()
    budget = Budget("b", 10, 60.0)
    assert counters.used(budget, now_s) == 0
    await took(counters, budget, 3)
    assert counters.used(budget, now_s) == 3
    assert counters.used(budget, now_s + 62) == 0
