"""The HTTP/1.1 client against a scripted server on a real socket: framing, reuse, limits, faults."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import Delivery, ErrorKind, UpstreamError
from routerd.upstream import Connection, Inbox, Origin, Outbox, Place, Pool, Upstreams
from routerd.upstream.connection import MAX_HEAD_BYTES, Headers
from tests.support import answers
from tests.support.ports import closed_port
from tests.support.upstream import Call, Upstream

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"


class Recorder:
    """A sink that keeps everything and resolves a future at the end."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.pieces: list[bytes] = []
        self.news = asyncio.Event()
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)
        self.body += data

    def on_flush(self) -> None:
        self.news.set()

    def on_end(self) -> None:
        self.done.set_result(self.body)

    def on_fail(self, error: UpstreamError) -> None:
        self.done.set_exception(error)


@pytest.fixture
async def pools() -> AsyncIterator[Upstreams]:
    upstreams = Upstreams(asyncio.get_running_loop())
    yield upstreams
    upstreams.close()


def pool_of(pools: Upstreams, upstream: Upstream) -> Pool:
    return pools.pool(Place(Origin("127.0.0.1", upstream.port, False)))


async def ask(pool: Pool) -> Recorder:
    connection = pool.take() or await pool.dial(2.0)
    sink = Recorder()
    connection.send(REQUEST, sink)
    await asyncio.wait([sink.done], timeout=5)
    return sink


async def fault_of(pool: Pool) -> UpstreamError:
    sink = await ask(pool)
    with pytest.raises(UpstreamError) as caught:
        sink.done.result()
    return caught.value


async def test_a_whole_answer_arrives_and_the_connection_is_used_again(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply({"a": 1}))
    pool = pool_of(pools, upstream)
    for _ in range(3):
        sink = await ask(pool)
        assert (sink.status, sink.done.result()) == (200, b'{"a": 1}')
    assert (upstream.connections_opened, pool.idle) == (1, 1)
    assert upstream.requests[0].raw_head + upstream.requests[0].body == REQUEST


def large(size: int = 16 * 1024 * 1024) -> tuple[bytes, bytes]:
    """Head and body of a request with a large body."""
    body = bytes(range(256)) * (size // 256)
    return b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body), body


async def test_a_large_body_arrives_whole_behind_its_head(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply({"a": 1}))
    pool = pool_of(pools, upstream)
    head, body = large()
    for number in range(2):
        connection, sink = pool.take() or await pool.dial(2.0), Recorder()
        connection.send(head, sink, body)
        assert await asyncio.wait_for(sink.done, 10) == b'{"a": 1}'
        assert upstream.requests[number].raw_head == head
        assert upstream.requests[number].body == body
    assert (upstream.connections_opened, pool.idle) == (1, 1)


async def test_a_large_body_waits_for_an_upstream_that_reads_slowly(pools: Upstreams) -> None:
    arrived = asyncio.get_running_loop().create_future()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result((await reader.readuntil(b"\r\n\r\n"), reader, writer))

    head, body = large()
    async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
        pool = pools.pool(Place(Origin("127.0.0.1", server.sockets[0].getsockname()[1], False)))
        connection, sink = await pool.dial(2.0), Recorder()
        connection.send(head, sink, body)
        got, reader, writer = await asyncio.wait_for(arrived, 5)
        assert got == head
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() <= 1024 * 1024  # the rest is not copied before it can go
        assert await reader.readexactly(len(body)) == body
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        assert await asyncio.wait_for(sink.done, 5) == b""
        writer.close()


async def test_a_connection_whose_request_was_answered_early_is_not_used_again(pools: Upstreams) -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")

    async with await asyncio.start_server(early, "127.0.0.1", 0) as server:
        pool = pools.pool(Place(Origin("127.0.0.1", server.sockets[0].getsockname()[1], False)))
        connection, sink = await pool.dial(2.0), Recorder()
        connection.send(large()[0], sink, large()[1])
        await asyncio.wait_for(sink.done, 5)
        assert (sink.status, connection.closed, pool.idle) == (413, True, 0)


async def test_chunks_trailers_and_interim_answers_are_understood(upstream: Upstream, pools: Upstreams) -> None:
    async def answer(call: Call) -> None:
        await call.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await call.head(200, [("transfer-encoding", "chunked"), ("trailer", "x-sum")])
        await call.chunk(b"ab")
        await call.chunk(b"cd")
        await call.end_chunks([("x-sum", "4")])

    upstream.always(answer)
    pool = pool_of(pools, upstream)
    for _ in range(2):
        sink = await ask(pool)
        assert sink.done.result() == b"abcd"
        assert [name for name, _ in sink.headers] == [b"transfer-encoding", b"trailer"]
    assert upstream.connections_opened == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_body_without_a_length_ends_with_the_connection(upstream: Upstream, pools: Upstreams, version: str) -> None:
    async def answer(call: Call) -> None:
        await call.head(200, version=version)
        await call.send(b"until the end")
        call.close()

    upstream.always(answer)
    pool = pool_of(pools, upstream)
    assert (await ask(pool)).done.result() == b"until the end"
    assert pool.idle == 0


async def test_connection_close_is_obeyed(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply({}, headers=(("connection", "close"),)))
    pool = pool_of(pools, upstream)
    assert (await ask(pool)).done.result() == b"{}"
    assert (pool.idle, pool.open) == (0, 0)


async def test_bytes_after_a_complete_answer_spoil_the_connection_not_the_answer(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n", close=False))
    pool = pool_of(pools, upstream)
    assert (await ask(pool)).done.result() == b"{}"
    assert pool.idle == 0


async def test_an_idle_connection_that_speaks_is_dropped(upstream: Upstream, pools: Upstreams) -> None:
    speak = asyncio.Event()

    async def answer(call: Call) -> None:
        await call.body(200, (), b"{}")
        await speak.wait()
        await call.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")

    upstream.always(answer)
    pool = pool_of(pools, upstream)
    await ask(pool)
    assert pool.idle == 1
    speak.set()
    async with asyncio.timeout(5):
        await upstream.requests[0].gone.wait()
    assert (pool.idle, pool.open) == (0, 0)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"hello " * 5000, mtime=0)),
        ("deflate", zlib.compress(b"hello " * 5000)),
        ("deflate", zlib.compress(b"hello " * 5000)[2:-4]),
        ("identity", b"hello " * 5000),
    ],
)
async def test_encoded_bodies_are_decoded(upstream: Upstream, pools: Upstreams, encoding: str, packed: bytes) -> None:
    upstream.always(answers.reply(packed, headers=(("content-encoding", encoding),)))
    assert (await ask(pool_of(pools, upstream))).done.result() == b"hello " * 5000


@pytest.mark.parametrize("packed", [b"no gzip at all", gzip.compress(b"x" * 1000, mtime=0)[:-9]])
async def test_a_damaged_encoding_is_a_protocol_fault(upstream: Upstream, pools: Upstreams, packed: bytes) -> None:
    upstream.always(answers.reply(packed, headers=(("content-encoding", "gzip"),)))
    assert (await fault_of(pool_of(pools, upstream))).kind is ErrorKind.PROTOCOL


async def test_an_encoding_nobody_asked_for_is_a_protocol_fault(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply(b"x", headers=(("content-encoding", "br"),)))
    assert (await fault_of(pool_of(pools, upstream))).kind is ErrorKind.PROTOCOL


async def test_an_expanding_body_arrives_in_bounded_pieces(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply(gzip.compress(bytes(8 * 1024 * 1024)), headers=(("content-encoding", "gzip"),)))
    sink = await ask(pool_of(pools, upstream))
    assert max(map(len, sink.pieces)) <= 256 * 1024 < len(sink.done.result())


@pytest.mark.parametrize(
    ("answer", "kind", "delivery"),
    [
        (answers.hang_up, ErrorKind.CONNECT, Delivery.MAYBE_PROCESSED),
        (answers.reset, ErrorKind.CONNECT, Delivery.MAYBE_PROCESSED),
        (answers.cut_unary(), ErrorKind.STREAM_CUT, Delivery.ANSWERED),
        (answers.cut(b"data: x\n\n"), ErrorKind.STREAM_CUT, Delivery.ANSWERED),
        (answers.cut(b"data: x\n\n", reset=True), ErrorKind.STREAM_CUT, Delivery.ANSWERED),
        (answers.raw(b"SSH-2.0-OpenSSH_9.2\r\n"), ErrorKind.PROTOCOL, Delivery.ANSWERED),
        (
            answers.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
            ErrorKind.PROTOCOL,
            Delivery.ANSWERED,
        ),
        (
            answers.raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", close=False),
            ErrorKind.PROTOCOL,
            Delivery.ANSWERED,
        ),
        (
            answers.raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", close=False),
            ErrorKind.PROTOCOL,
            Delivery.ANSWERED,
        ),
    ],
)
async def test_a_broken_answer_is_a_fault_of_its_kind(
    upstream: Upstream, pools: Upstreams, answer: answers.Answer, kind: ErrorKind, delivery: Delivery
) -> None:
    upstream.always(answer)
    fault = await fault_of(pool_of(pools, upstream))
    assert (fault.kind, fault.delivery) == (kind, delivery)


async def test_a_head_over_the_limit_is_refused_and_a_large_body_is_not(upstream: Upstream, pools: Upstreams) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %b\r\n" % (i, b"y" * 1000) for i in range(80))
    upstream.script(answers.raw(head, close=False), answers.reply(bytes(MAX_HEAD_BYTES * 4)))
    pool = pool_of(pools, upstream)
    assert (await fault_of(pool)).kind is ErrorKind.PROTOCOL
    assert len((await ask(pool)).done.result()) == MAX_HEAD_BYTES * 4


async def test_a_refused_connection_was_not_sent(pools: Upstreams) -> None:
    with pytest.raises(UpstreamError) as caught:
        await pools.pool(Place(Origin("127.0.0.1", closed_port(), False))).dial(2.0)
    assert (caught.value.kind, caught.value.delivery) == (ErrorKind.CONNECT, Delivery.NOT_SENT)
    assert "127.0.0.1" not in caught.value.message


async def test_a_name_that_does_not_resolve_was_not_sent(pools: Upstreams) -> None:
    with pytest.raises(UpstreamError) as caught:
        await pools.pool(Place(Origin("no-such-host.invalid", 80, False))).dial(5.0)
    assert (caught.value.kind, caught.value.delivery) == (ErrorKind.CONNECT, Delivery.NOT_SENT)


async def test_plain_http_where_tls_is_expected_is_a_tls_fault(upstream: Upstream, pools: Upstreams) -> None:
    with pytest.raises(UpstreamError) as caught:
        await pools.pool(Place(Origin("127.0.0.1", upstream.port, True))).dial(2.0)
    assert caught.value.delivery is Delivery.NOT_SENT
    assert caught.value.kind in (ErrorKind.TLS, ErrorKind.TIMEOUT)


async def test_abort_silences_the_sink_and_closes_the_connection(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.events(b"data: 1\n\n", end=False))
    pool = pool_of(pools, upstream)
    connection = await pool.dial(2.0)
    sink = Recorder()
    connection.send(REQUEST, sink)
    async with asyncio.timeout(5):
        await sink.news.wait()
        connection.abort()
        await upstream.requests[0].gone.wait()
    assert not sink.done.done()
    assert pool.open == 0


async def test_a_lingering_answer_frees_the_connection_when_its_framing_ends(upstream: Upstream, pools: Upstreams) -> None:
    end = asyncio.Event()

    async def answer(call: Call) -> None:
        await call.head(200, answers.EVENT_STREAM)
        await call.chunk(b"data: [DONE]\n\n")
        await end.wait()
        await call.end_chunks()

    upstream.always(answer)
    pool = pool_of(pools, upstream)
    connection = await pool.dial(2.0)
    sink = Recorder()
    connection.send(REQUEST, sink)
    async with asyncio.timeout(5):
        await sink.news.wait()
        connection.linger()
        assert pool.idle == 0
        end.set()
        while not pool.idle:
            await asyncio.sleep(0)
    assert pool.take() is connection


async def test_a_paused_connection_stops_reading(upstream: Upstream, pools: Upstreams) -> None:
    upstream.always(answers.reply(bytes(32 * 1024 * 1024)))
    connection = await pool_of(pools, upstream).dial(2.0)
    sink = Recorder()
    connection.send(REQUEST, sink)
    async with asyncio.timeout(10):
        await sink.news.wait()
        connection.pause()
        seen = len(sink.body)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(sink.body) - seen <= 512 * 1024
        connection.resume()
        await sink.done


async def test_a_request_on_a_connection_the_upstream_had_closed_is_known_to_be_unprocessed(
    upstream: Upstream, pools: Upstreams
) -> None:
    """The race itself: the upstream's FIN is on its way, or just arrived, when the request is written."""

    async def answer(call: Call) -> None:
        await call.body(200, (), b"{}")
        call.close()

    upstream.always(answer)
    pool = pool_of(pools, upstream)
    connection = await pool.dial(2.0)
    first = Recorder()
    connection.send(REQUEST, first)
    assert connection.transport is not None
    first.done.add_done_callback(lambda _: connection.transport.pause_reading())  # the FIN is there, nobody has looked
    await first.done
    async with asyncio.timeout(5):
        await upstream.requests[0].gone.wait()
    second = Recorder()
    connection.send(REQUEST, second)
    connection.transport.resume_reading()
    with pytest.raises(UpstreamError) as caught:
        await asyncio.wait_for(second.done, 5)
    assert caught.value.delivery is Delivery.NOT_SENT


async def test_retired_pools_close_what_is_idle_and_keep_what_runs(upstream: Upstream, pools: Upstreams) -> None:
    end = asyncio.Event()

    async def answer(call: Call) -> None:
        await end.wait()
        await call.body(200, (), b"{}")

    upstream.always(answer)
    pool = pool_of(pools, upstream)
    connection = await pool.dial(2.0)
    sink = Recorder()
    connection.send(REQUEST, sink)
    pools.keep_only([])
    assert pool_of(pools, upstream) is not pool
    end.set()
    assert await asyncio.wait_for(sink.done, 5) == b"{}"
    assert (pool.open, pool.idle) == (0, 0)


async def test_the_same_origin_keeps_its_pool_over_reloads(upstream: Upstream, pools: Upstreams) -> None:
    pool = pool_of(pools, upstream)
    pools.keep_only([pool.place])
    assert pool_of(pools, upstream) is pool


class _FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: object) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Plain(Recorder):
    """A sink without an event loop."""

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.pieces = 0, [], b"", []
        self.ends: list[object] = []

    def on_flush(self) -> None: ...

    def on_end(self) -> None:
        self.ends.append("end")

    def on_fail(self, error: UpstreamError) -> None:
        self.ends.append(error.kind)


def _play(pieces: list[bytes]) -> _Plain:
    loop = asyncio.new_event_loop()
    connection = Connection(loop, Inbox(loop, Outbox(loop)), lambda _: None, lambda _: None)
    connection.connection_made(_FakeTransport())
    sink = _Plain()
    connection.send(REQUEST, sink)
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    connection._loop.close()
    return sink


WHOLE = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-t: 1\r\n\r\n"
)


def test_an_answer_means_the_same_byte_by_byte() -> None:
    sink = _play([WHOLE[i : i + 1] for i in range(len(WHOLE))])
    assert (sink.status, sink.body, sink.ends) == (200, b"hello world", ["end"])


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_an_answer_means_the_same_however_it_is_split(cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(WHOLE)]
    sink = _play([WHOLE[a:b] for a, b in itertools.pairwise(marks)])
    assert (sink.status, sink.body, sink.ends) == (200, b"hello world", ["end"])


@given(st.lists(st.binary(max_size=200), max_size=6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_foreign_bytes_end_an_exchange_exactly_once(pieces: list[bytes], after_a_head: bool) -> None:
    lead = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n"] if after_a_head else []
    assert len(_play(lead + pieces).ends) == 1
