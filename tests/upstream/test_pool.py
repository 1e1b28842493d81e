"""How many connections there are: bounds, the line in front of a full pool, idle ones that go. Over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from routerd.errors import Delivery, ErrorKind, UpstreamError
from routerd.graph import Connections
from routerd.upstream import Connection, Origin, Place, Pool, Upstreams
from routerd.upstream.connection import Headers
from tests.support import answers
from tests.support.ports import closed_port
from tests.support.upstream import Call, Upstream

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"


class Sink:
    """Resolves `done` at the end of the exchange."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_flush(self) -> None: ...

    def on_end(self) -> None:
        self.done.set_result(None)

    def on_fail(self, error: UpstreamError) -> None:
        self.done.set_exception(error)


@pytest.fixture
async def pools() -> AsyncIterator[Upstreams]:
    upstreams = Upstreams(asyncio.get_running_loop())
    yield upstreams
    upstreams.close()


@pytest.fixture
def gate(upstream: Upstream) -> asyncio.Event:
    """An upstream that answers when this is set."""
    opened = asyncio.Event()

    async def answer(call: Call) -> None:
        await opened.wait()
        await call.body(200, (), b"{}")

    upstream.always(answer)
    return opened


def pool_of(pools: Upstreams, upstream: Upstream, connections: Connections) -> Pool:
    return pools.pool(Place(Origin("127.0.0.1", upstream.port, False), connections))


async def started(pool: Pool, wait_s: float = 5.0) -> tuple[Connection, Sink]:
    connection, _ = await pool.obtain(wait_s)
    sink = Sink()
    connection.send(REQUEST, sink)
    return connection, sink


async def exchanges(pool: Pool, count: int) -> None:
    async def one() -> None:
        await (await started(pool))[1].done

    await asyncio.wait_for(asyncio.gather(*(one() for _ in range(count))), 10)


async def settled() -> None:
    """Let the event loop notice what was closed."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_there_are_no_more_connections_than_allowed_and_all_are_served(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply({}))
    pool = pool_of(pools, upstream, Connections(max=3))
    await exchanges(pool, 50)
    assert len(upstream.requests) == 50
    assert (pool.dialled, pool.open, pool.idle) == (3, 3, 3)


async def test_who_waits_gets_the_connection_that_is_given_back_in_the_order_of_coming(
    upstream: Upstream, pools: Upstreams, gate: asyncio.Event
) -> None:
    pool = pool_of(pools, upstream, Connections(max=1))
    first, sink = await started(pool)
    order: list[int] = []

    async def wait(number: int) -> None:
        connection, waited = await started(pool)
        order.append(number)
        assert connection is first
        await waited.done

    tasks = [asyncio.create_task(wait(number)) for number in range(4)]
    await asyncio.sleep(0)
    assert order == []
    gate.set()
    await asyncio.wait_for(asyncio.gather(sink.done, *tasks), 5)
    assert order == [0, 1, 2, 3]
    assert pool.dialled == 1


async def test_who_waits_too_long_is_told_and_the_upstream_is_not_blamed(
    upstream: Upstream, pools: Upstreams, gate: asyncio.Event
) -> None:
    pool = pool_of(pools, upstream, Connections(max=1))
    await started(pool)
    with pytest.raises(UpstreamError) as caught:
        await pool.obtain(0.05)
    assert (caught.value.kind, caught.value.delivery) == (ErrorKind.RATE_LIMITED, Delivery.NOT_SENT)
    assert caught.value.message == "all 1 connections to the upstream were busy for 0.05 s"
    assert not gate.is_set()


async def test_a_connection_that_dies_makes_room_for_the_next(upstream: Upstream, pools: Upstreams, gate: asyncio.Event) -> None:
    pool = pool_of(pools, upstream, Connections(max=1))
    connection, sink = await started(pool)
    waiting = asyncio.create_task(started(pool))
    await asyncio.sleep(0)
    connection.abort()
    gate.set()
    fresh, served = await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(served.done, 5)
    assert fresh is not connection
    assert pool.open == 1
    sink.done.cancel()


async def test_a_dial_that_fails_gives_its_place_on(pools: Upstreams) -> None:
    pool = pools.pool(Place(Origin("127.0.0.1", closed_port(), False), Connections(max=1)))
    found = await asyncio.wait_for(asyncio.gather(*(pool.obtain(2.0) for _ in range(5)), return_exceptions=True), 5)
    assert [one.kind for one in found if isinstance(one, UpstreamError)] == [ErrorKind.CONNECT] * 5
    assert pool.open == 0


async def test_who_gives_up_waiting_takes_nothing_with_him(upstream: Upstream, pools: Upstreams, gate: asyncio.Event) -> None:
    pool = pool_of(pools, upstream, Connections(max=1))
    _, sink = await started(pool)
    gone = asyncio.create_task(started(pool))
    served = asyncio.create_task(started(pool))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait_for(sink.done, 5)  # the connection is on its way to `gone`, who leaves in this instant
    gone.cancel()
    _, last = await asyncio.wait_for(served, 5)
    await asyncio.wait_for(last.done, 5)
    assert (pool.dialled, pool.idle) == (1, 1)


async def test_a_fresh_connection_takes_the_place_of_an_idle_one(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply({}))
    pool = pool_of(pools, upstream, Connections(max=2))
    await exchanges(pool, 2)
    connection, used = await asyncio.wait_for(pool.obtain(5.0, fresh=True), 5)
    assert not used
    await settled()
    assert (pool.open, pool.idle, pool.dialled) == (2, 1, 3)
    connection.abort()


async def test_no_more_idle_connections_are_kept_than_allowed(upstream: Upstream, pools: Upstreams, gate: asyncio.Event) -> None:
    pool = pool_of(pools, upstream, Connections(max_idle=2))
    sinks = [(await started(pool))[1] for _ in range(5)]
    gate.set()
    await asyncio.wait_for(asyncio.gather(*(sink.done for sink in sinks)), 5)
    await settled()
    assert (pool.dialled, pool.open, pool.idle) == (5, 2, 2)
    none = pool_of(pools, upstream, Connections(max_idle=0))
    await exchanges(none, 2)
    await settled()
    assert (none.dialled, none.open) == (2, 0)


async def test_an_idle_connection_goes_after_its_time(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply({}))
    pool, patient = pool_of(pools, upstream, Connections(idle_s=0.4)), pool_of(pools, upstream, Connections())
    await exchanges(pool, 1)
    await exchanges(patient, 1)
    assert (pool.idle, patient.idle) == (1, 1)
    async with asyncio.timeout(5):
        while pool.idle:
            await asyncio.sleep(0.05)
    assert patient.idle == 1


async def test_the_same_bounds_at_the_same_address_are_one_pool(upstream: Upstream, pools: Upstreams) -> None:
    assert pool_of(pools, upstream, Connections(max=2)) is pool_of(pools, upstream, Connections(max=2))
    assert pool_of(pools, upstream, Connections(max=2)) is not pool_of(pools, upstream, Connections(max=3))
