"""Plain requests are served past aiohttp's loop; a client cannot tell. `by_aiohttp`: the same through that loop."""

from __future__ import annotations

import asyncio
import json
import weakref
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.http import HttpRequestParser

from routerd.server.http import plain
from routerd.server.http.plain import INSIDE, ClientRequest, taken
from routerd.server.http.protocol import KEEPALIVE_S, ClientStream, Reply
from tests.support.talk import Handler, Talk, ask, body_of, talking

Talking = Callable[..., AbstractContextManager[Talk]]
CLOSED = b"connection: close"


@pytest.fixture(params=["plain", "by_aiohttp"])
def to(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Talking:
    """Talk to a server of either way."""
    if request.param == "plain":
        assert plain.KNOWN, "this release of aiohttp is not known: plain requests go through its own loop"
    else:
        monkeypatch.setattr(plain, "KNOWN", False)
    return talking


def answers_in(raw: bytes) -> list[bytes]:
    """Return the bodies of whole answers that follow each other."""
    bodies = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        (length,) = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
        bodies.append(rest[:length])
        raw = rest[length:]
    return bodies


def held(gate: list[asyncio.Future[None]], seen: list[str] | None = None) -> Handler:
    """Return a handler that answers each request when its gate is opened."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        waits = asyncio.get_running_loop().create_future()
        gate.append(waits)
        try:
            await waits
            body = await body_of(request)
        except BaseException as exc:
            if seen is not None:
                seen.append(type(exc).__name__)
            raise
        return cast(web.StreamResponse, Reply(200, "", request.raw_path.encode() + body))

    return handler


def opened(talk: Talk, gate: list[asyncio.Future[None]]) -> bytes:
    """Open the gate of the request that waits; return what is answered."""
    gate[-1].set_result(None)
    talk.loop.turn()
    return talk.wire.taken()


# ── requests and their bodies ──


def test_requests_follow_each_other_on_one_connection(to: Talking) -> None:
    with to() as talk:
        for n in range(1, 101):  # the parser stops at 32 that nobody has taken
            assert answers_in(talk.say(ask(b"%d" % n))) == [b"%d" % n]
        assert [body for _, _, body in talk.heard] == [b"%d" % n for n in range(1, 101)]


def test_a_plain_request_costs_one_wait_and_no_task() -> None:
    with talking() as talk:
        talk.say(ask(b"x"))
        before = talk.loop.counts.copy()
        talk.say(ask(b"x"))
        assert {name: (talk.loop.counts - before)[name] for name in ("tasks", "futures", "timers")} == {
            "tasks": 0,
            "futures": 1,
            "timers": 0,
        }


def test_several_requests_in_one_packet_are_answered_in_their_order(to: Talking) -> None:
    with to() as talk:
        raw = talk.say(b"".join(ask(b"%d" % n, line=f"POST /{n} HTTP/1.1") for n in range(3)))
        assert answers_in(raw) == [b"1", b"2", b"3"]
        assert [path for _, path, _ in talk.heard] == ["/0", "/1", "/2"]
        assert answers_in(talk.say(ask(b"again"))) == [b"4"]


def test_a_hundred_requests_in_one_packet_are_all_answered(to: Talking) -> None:
    with to() as talk:
        assert answers_in(talk.say(ask(b"x") * 100)) == [b"%d" % n for n in range(1, 101)]


def test_requests_behind_each_other_are_answered_after_many_that_were_not(to: Talking) -> None:
    with to() as talk:
        for _ in range(40):  # more than the parser reads ahead
            talk.say(ask(b"x"))
        assert answers_in(talk.say(ask(b"x") * 3)) == [b"41", b"42", b"43"]


def test_a_body_may_come_in_pieces(to: Talking) -> None:
    with to() as talk:
        whole = ask(b"0123456789")
        assert talk.say(whole[:20], whole[20:-10], whole[-10:-4]) == b""
        assert answers_in(talk.say(whole[-4:])) == [b"1"]
        assert talk.heard == [("POST", "/v1", b"0123456789")]


def test_a_body_in_pieces_that_came_before_anybody_looked_is_whole(to: Talking) -> None:
    with to() as talk:
        whole = ask(b"0123456789", "Turns: 3")
        talk.say(whole[:-5], whole[-5:-2], whole[-2:], turn=False)
        talk.loop.turn()
        assert talk.heard == [("POST", "/v1", b"0123456789")]


def test_a_body_in_chunks_is_taken(to: Talking) -> None:
    with to() as talk:
        chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        talk.say(ask(b"", "Transfer-Encoding: chunked", length=False) + chunks)
        talk.say(ask(b"", "Transfer-Encoding: chunked", length=False), chunks[:5], chunks[5:])
        assert [body for _, _, body in talk.heard] == [b"abcde", b"abcde"]


def test_a_compressed_body_is_taken(to: Talking) -> None:
    with to() as talk:
        talk.say(ask(zlib.compress(b"x" * 1000), "Content-Encoding: deflate"))
        assert talk.heard == [("POST", "/v1", b"x" * 1000)]


def test_a_large_body_is_taken_and_reading_goes_on(to: Talking) -> None:
    with to() as talk:
        large = ask(b"x" * 3_000_000)
        for _ in range(2):
            talk.say(*[large[at : at + 200_000] for at in range(0, len(large), 200_000)])
        talk.say(large)
        assert [len(body) for _, _, body in talk.heard] == [3_000_000] * 3


def test_no_body_is_an_empty_one(to: Talking) -> None:
    with to() as talk:
        talk.say(ask(line="GET /v1 HTTP/1.1"), ask(line="HEAD /v1 HTTP/1.1"), ask(b""))
        assert [body for _, _, body in talk.heard] == [b"", b"", b""]


def test_a_client_that_waits_for_100_continue_hears_nothing_before_it(to: Talking) -> None:
    with to() as talk:
        head, body = ask(b"late", "Expect: 100-continue")[:-4], b"late"
        assert talk.say(head) == b""
        assert answers_in(talk.say(body)) == [b"1"]


def test_the_next_request_waits_for_the_one_before(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    with to(held(gate)) as talk:
        assert talk.say(ask(b"1"), ask(b"2"), ask(b"3")) == b""
        assert answers_in(opened(talk, gate)) == [b"/v11"]
        assert answers_in(opened(talk, gate)) == [b"/v12"]
        assert answers_in(opened(talk, gate)) == [b"/v13"]
        assert talk.say(ask(b"4")) == b""
        assert answers_in(opened(talk, gate)) == [b"/v14"]


# ── what nobody read of a body ──


def test_a_body_that_nobody_read_is_passed_over(to: Talking) -> None:
    with to() as talk:
        unread = ask(b"0123456789", "Unread: 1")
        assert answers_in(talk.say(unread[:-4])) == [b"1"]
        assert talk.say(unread[-4:]) == b""
        assert answers_in(talk.say(ask(b"next"))) == [b"2"]


def test_a_body_that_nobody_read_and_that_does_not_end_closes_the_connection(to: Talking) -> None:
    with to() as talk:
        assert answers_in(talk.say(ask(b"0123456789", "Unread: 1")[:-4])) == [b"1"]
        talk.loop.wait(4.9)
        assert talk.open
        talk.loop.wait(0.3)
        assert not talk.open


def test_an_unread_body_that_cannot_be_decoded_closes_the_connection_and_logs_nothing(
    to: Talking, caplog: pytest.LogCaptureFixture
) -> None:
    with to() as talk:
        broken = ask(b"not deflated" * 10, "Content-Encoding: deflate", "Unread: 1")
        assert answers_in(talk.say(broken[:-100], broken[-100:]))[:1] == [b"1"]
        talk.loop.wait(6)
        assert not talk.open
    assert not caplog.records


def test_reading_goes_on_behind_a_body_of_very_many_chunks_that_nobody_read(to: Talking) -> None:
    with to() as talk:
        chunks = b"1\r\nx\r\n" * (2**14 + 1) + b"0\r\n\r\n"  # aiohttp pauses at the last of them
        assert answers_in(talk.say(ask(b"", "Transfer-Encoding: chunked", "Unread: 1", length=False) + chunks)) == [b"1"]
        assert talk.loop.counts["pauses"] > 0
        assert not talk.protocol._reading_paused
        assert answers_in(talk.say(ask(b"next"))) == [b"2"]


# ── the end of a connection ──


@pytest.mark.parametrize(
    "last",
    [ask(b"x", "Connection: close"), ask(b"x", line="POST /v1 HTTP/1.0")],
    ids=["connection-close", "http-1.0"],
)
def test_a_client_that_wants_it_closed_gets_it_closed(to: Talking, last: bytes) -> None:
    with to() as talk:
        raw = talk.say(ask(b"first"), last)
        assert answers_in(raw) == [b"1", b"2"]
        assert raw.count(CLOSED) == 1
        assert not talk.open


def test_http_1_0_may_ask_to_keep_the_connection(to: Talking) -> None:
    with to() as talk:
        talk.say(ask(b"x", "Connection: keep-alive", line="POST /v1 HTTP/1.0"))
        assert talk.open


def test_an_idle_connection_is_closed_after_its_time(to: Talking) -> None:
    with to() as talk:
        for _ in range(3):
            talk.loop.wait(KEEPALIVE_S - 1)
            talk.say(ask(b"x"))
        talk.loop.wait(KEEPALIVE_S - 1)
        assert talk.open
        talk.loop.wait(2)
        assert not talk.open
        assert len(talk.heard) == 3


def test_a_head_that_does_not_end_is_closed_after_the_same_time(to: Talking) -> None:
    with to() as talk:
        talk.say(ask(b"x"), ask(b"x")[:20])
        talk.loop.wait(40)
        talk.say(ask(b"x")[20:25])
        talk.loop.wait(KEEPALIVE_S - 39)
        assert not talk.open


def test_the_time_of_an_idle_connection_does_not_run_while_a_request_does(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    with to(held(gate)) as talk:
        talk.say(ask(b"x"))
        talk.loop.wait(3 * KEEPALIVE_S)
        assert answers_in(opened(talk, gate)) == [b"/v1x"]
        talk.loop.wait(KEEPALIVE_S - 1)
        assert talk.open
        talk.loop.wait(2)
        assert not talk.open


def test_a_client_that_leaves_cancels_its_request(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    seen: list[str] = []
    with to(held(gate, seen)) as talk:
        talk.say(ask(b"x"))
        talk.hang_up()
        assert seen == ["CancelledError"]
        assert not talk.server.connections


def test_a_client_that_leaves_half_way_through_its_body_cancels_its_request(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    seen: list[str] = []
    with to(held(gate, seen)) as talk:
        talk.say(ask(b"0123456789")[:-4])
        gate[0].set_result(None)
        talk.loop.turn()
        talk.hang_up()
        assert seen == ["CancelledError"]


def test_a_client_that_leaves_while_idle_is_forgotten(to: Talking) -> None:
    with to() as talk:
        talk.say(ask(b"x"))
        talk.hang_up()
        assert not talk.server.connections


def test_the_answer_that_is_due_when_the_server_drains_arrives_and_is_the_last(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    with to(held(gate)) as talk:
        talk.say(ask(b"x"))
        talk.server.pre_shutdown()
        talk.say(ask(b"too late"))
        raw = opened(talk, gate)
        assert answers_in(raw) == [b"/v1x"]
        assert CLOSED in raw
        assert not talk.open


def test_the_stream_that_runs_when_the_server_drains_comes_to_its_end(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        stream = None
        if request.raw_path == "/begun":
            stream = ClientStream(request, "")
            stream.write(b"begun")
        gate.append(asyncio.get_running_loop().create_future())
        await gate[-1]
        stream = stream or ClientStream(request, "")
        stream.write(b"ended")
        stream.end()
        return stream.finished()

    with to(handler) as talk:
        assert b"begun" in talk.say(ask(b"x", line="POST /begun HTTP/1.1"))
        talk.server.pre_shutdown()
        assert opened(talk, gate).endswith(b"ended\r\n0\r\n\r\n")
        assert not talk.open
    with to(handler) as talk:
        talk.say(ask(b"x", line="POST /late HTTP/1.1"))
        talk.server.pre_shutdown()
        raw = opened(talk, gate)
        assert CLOSED in raw
        assert raw.endswith(b"ended\r\n0\r\n\r\n")
        assert not talk.open


def test_an_idle_connection_is_closed_when_the_server_drains() -> None:
    with talking() as talk:
        talk.say(ask(b"x"))
        talk.server.pre_shutdown()
        talk.loop.turn()
        assert not talk.open


def test_a_shutdown_cancels_what_is_left(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    seen: list[str] = []
    with to(held(gate, seen)) as talk:
        talk.say(ask(b"x"))
        ends = talk.loop.create_task(talk.server.shutdown(0.1))
        for _ in range(3):
            talk.loop.wait(0.2)
        assert ends.done()
        assert seen == ["CancelledError"]
        assert not talk.open


def test_whoever_else_reads_a_body_is_told_that_the_client_has_gone(to: Talking) -> None:
    readers: list[asyncio.Task[bytes]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        readers.append(asyncio.ensure_future(body_of(request)))
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    with to(handler) as talk:
        talk.say(ask(b"0123456789")[:-4])
        talk.hang_up()
        assert isinstance(readers[0].exception(), ConnectionError)


def test_an_answer_to_a_client_that_has_just_gone_is_no_fault(to: Talking, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return cast(web.StreamResponse, Reply(200, ""))

    with to(handler) as talk:
        assert talk.say(ask(b"x")) == b""
        assert not talk.server.connections
    assert not caplog.records


def test_an_answer_that_cannot_be_written_is_a_fault_that_closes(to: Talking, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return cast(web.StreamResponse, Reply(200, "", cast(bytes, "no bytes")))

    with to(handler) as talk:
        talk.say(ask(b"x"))
        assert not talk.open
    assert "Unhandled exception" in caplog.text


def test_a_connection_whose_task_is_cancelled_is_closed(to: Talking) -> None:
    gate: list[asyncio.Future[None]] = []
    with to(held(gate)) as talk:
        talk.say(ask(b"x"))
        assert talk.protocol._task_handler is not None
        talk.protocol._task_handler.cancel()
        talk.loop.turn()
        assert not talk.open


# ── what is not plain ──


def test_what_is_no_http_behind_a_request_is_told_and_closes(to: Talking) -> None:
    with to() as talk:
        raw = talk.say(ask(b"x"), b"\x16\x03\x01garbage\r\n\r\n")
        first, second = answers_in(raw)
        assert first == b"1"
        assert json.loads(second)["error"]["code"] == "invalid_http"
        assert raw.count(b"HTTP/1.1 400 Bad Request") == 1
        assert not talk.open


@pytest.mark.parametrize("kind", ["websocket", "h2c"])
def test_an_upgrade_is_answered_as_any_request_and_so_is_what_follows(to: Talking, kind: str) -> None:
    with to() as talk:
        asks = ask(b"", "Connection: Upgrade", f"Upgrade: {kind}", line="GET /ws HTTP/1.1")
        assert answers_in(talk.say(ask(b"x"), asks)) == [b"1", b"2"]
        assert answers_in(talk.say(ask(b"y"))) == [b"3"]


def test_what_is_sent_right_behind_an_upgrade_is_answered_too(to: Talking) -> None:
    with to() as talk:
        asks = ask(b"", "Connection: Upgrade", "Upgrade: websocket", line="GET /ws HTTP/1.1")
        assert answers_in(talk.say(ask(b"x"), asks + ask(b"behind it"))) == [b"1", b"2", b"3"]


def test_a_tunnel_is_not_plain(to: Talking) -> None:
    with to() as talk:
        talk.say(ask(b"x"), ask(line="CONNECT example.com:443 HTTP/1.1"))
        assert talk.heard[0] == ("POST", "/v1", b"x")
        talk.hang_up()
        assert not talk.server.connections


def test_what_a_handler_raises_is_a_500_that_closes(to: Talking, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise KeyError("a bug")

    with to(handler) as talk:
        raw = talk.say(ask(b"x"))
        assert raw.startswith(b"HTTP/1.1 500 ")
        assert CLOSED in raw
        assert not talk.open
    assert "a request failed inside routerd" in caplog.text


def test_aiohttps_own_answers_work_too(to: Talking) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/teapot":
            raise web.HTTPForbidden(text="short and stout")
        return web.Response(text=request.query["q"])

    with to(handler) as talk:
        assert b"short and stout" in talk.say(ask(line="GET /teapot HTTP/1.1"))
        assert b"a b" in talk.say(ask(line="GET /?q=a+b HTTP/1.1"))


# ── the request ──


def test_a_request_has_all_that_aiohttps_has(to: Talking) -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen["url"] = str(request.url)
        seen["query"] = dict(request.query)
        seen["cookies"] = dict(request.cookies)
        seen["remote"] = request.remote
        seen["length"] = request.content_length
        seen["version"] = tuple(request.version)
        seen["type"] = request.content_type
        seen["body"] = await request.read()
        seen["task"] = isinstance(request.task, asyncio.Task)
        assert not hasattr(request, "nothing")
        return cast(web.StreamResponse, Reply(200, ""))

    with to(handler) as talk:
        talk.say(ask(b"body", "Cookie: a=b", "Content-Type: text/plain", line="POST /p?q=1 HTTP/1.1"))
    assert seen == {
        "url": "http://routerd/p?q=1",
        "query": {"q": "1"},
        "cookies": {"a": "b"},
        "remote": "127.0.0.1",
        "length": 4,
        "version": (1, 1),
        "type": "text/plain",
        "body": b"body",
        "task": True,
    }


def test_a_client_has_an_address_when_it_has_gone(to: Talking) -> None:
    seen: list[Any] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.extend([request.transport, request.remote])
        raise AssertionError

    with to(handler) as talk:
        talk.say(ask(b"x"))
        talk.hang_up()
    assert seen == [None, "127.0.0.1"]


def test_an_idle_connection_keeps_nothing_of_its_last_request() -> None:
    kept: list[weakref.ref[web.BaseRequest]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        kept.append(weakref.ref(request))
        return cast(web.StreamResponse, Reply(200, ""))

    with talking(handler) as talk:
        talk.say(ask(b"x"))
        assert [ref() for ref in kept] == [None]
        assert talk.protocol._task_handler is not None
        frame = talk.protocol._task_handler.get_coro().cr_frame  # type: ignore[union-attr]  # it is a coroutine
        assert not {"message", "payload"} & set(frame.f_locals)


def test_a_taken_body_is_not_kept_for_as_long_as_the_request() -> None:
    left: list[Any] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        left.extend([taken(request), taken(request)])
        return cast(web.StreamResponse, Reply(200, ""))

    with talking(handler) as talk:
        talk.say(ask(b"x" * 100_000))
    assert left == [b"x" * 100_000, b""]


@pytest.mark.parametrize("paused", [True, False])
def test_a_body_is_taken_by_aiohttps_means_where_something_is_paused_or_wrong(paused: bool) -> None:
    told: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if paused:
            request.protocol._reading_paused = True
        else:
            request.content.set_exception(web.RequestPayloadError("broken"))
        try:
            told.append(str(taken(request)))
        except web.RequestPayloadError as exc:
            told.append(str(exc))
        told.append(str(request.protocol._reading_paused))
        return cast(web.StreamResponse, Reply(200, ""))

    with talking(handler) as talk:
        talk.say(ask(b"x"))
    assert told == ["b'x'" if paused else "broken", "False"]


# ── aiohttp's inside ──


def private(code: CodeType) -> set[str]:
    """Return the names with an underscore that a function looks at."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    names = {name for name in code.co_names if name.startswith("_") and not name.startswith("__")}
    return names.union(*(private(one) for one in inner))


def test_this_release_of_aiohttp_is_known() -> None:
    assert plain.KNOWN
    assert all(hasattr(web.RequestHandler, name) for name in INSIDE)
    assert hasattr(HttpRequestParser, "message_consumed")


def test_every_name_that_is_used_of_the_inside_is_listed() -> None:
    used = set[str]()
    for function in (plain.PlainHandler.start, plain.PlainHandler._serve, plain.PlainHandler._lingered, taken):
        used |= private(function.__code__)
    used |= private(ClientRequest.__getattr__.__code__) | private(plain.PlainHandler.resume_reading.__code__)
    assert used - {"_serve", "_lingered", "_NONE", "_whole", "_connection", "_read"} <= INSIDE


def test_aiohttps_loop_looks_at_nothing_that_is_not_known_here() -> None:
    """A name more is something that a release does for each request, and `PlainHandler.start` not: look what, then add it."""
    for_queues = {"_buffer_paused", "_msg_queue_resume_size", "_resume_reading_if_drained"}  # more than one message waits
    for_errors = {"_ErrInfo", "_make_error_handler"}
    for_requests = {"_manager", "_request_factory", "_logging_enabled", "_task", "_PAYLOAD_ACCESS_ERROR"}
    for_requests |= {"_keepalive", "_keepalive_timeout"}
    known = INSIDE | for_queues | for_errors | for_requests
    assert private(web.RequestHandler.start.__code__) <= known
    # What is passed over of its handling: who shuts down waits for the task instead; what follows an upgrade that was declined.
    handling = {"_request_in_progress", "_handler_waiter", "_current_request"}
    assert private(web.RequestHandler._handle_request.__code__) <= handling
    finishing = {"_finish", "_upgraded", "_messages", "_payload_parser", "_parser", "_message_tail", "_request_count", "_ErrInfo"}
    finishing |= {"_max_msg_queue_size", "_pause_reading_for_buffer", "_buffer_paused", "_resume_reading_if_drained", "_waiter"}
    assert private(web.RequestHandler.finish_response.__code__) <= finishing


@pytest.mark.parametrize("known", [True, False])
def test_a_release_that_is_not_known_serves_by_its_own_loop(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.extend([type(request), asyncio.current_task() is request.task])
        return cast(web.StreamResponse, Reply(200, ""))

    monkeypatch.setattr(plain, "KNOWN", known)
    with talking(handler) as talk:
        talk.say(ask(b"x"))
    assert seen == ([ClientRequest, True] if known else [web.BaseRequest, False])
