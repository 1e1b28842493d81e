"""Chunks that pass a relay as they came: the client sees what it would see without that, whatever the upstream sends."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.attempt import Ended, Relay
from routerd.attempt.sink.relay import MOST_REFUSED
from routerd.graph import Timeouts
from routerd.server.http.protocol import ClientStream
from routerd.upstream import SMALL_BYTES, Connection, Inbox, Outbox
from routerd.wire.openai.relay_scan import RelayScan
from tests.attempt.fakes import Clock, ticker_of
from tests.attempt.sink.test_relay import NEVER, SPEAKER, TIMEOUTS
from tests.support.answers import DONE, USAGE, delta, event

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
FIRST = event(delta("first"))
HI = event(delta("Hi"))
STOP = event(delta(finish="stop"))


class Loop(Clock):
    """A clock that also has turns."""

    def __init__(self) -> None:
        super().__init__()
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self) -> None:
        while self.soon:
            calls, self.soon = self.soon, []
            for call in calls:
                call()


class Side(asyncio.Transport):
    """One side's transport; `close` is seen by both."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Unframed(ClientStream):
    """A client that takes no chunk as it is."""

    def framed(self) -> None:
        """Nothing."""


class Seen(NamedTuple):
    """What one stream came to."""

    body: bytes
    whole: bool
    ended: Ended | None
    facts: tuple[Any, ...]
    sent_bytes: int
    text_bytes: int


class Rig:
    """A relay between a connection and a client, after the first content; `express`: the client takes chunks."""

    def __init__(self, *, express: bool = True, timeouts: Timeouts = TIMEOUTS, withhold: bool = True) -> None:
        self.loop = Loop()
        self.inbox = Inbox(self.loop, Outbox(self.loop))  # type: ignore[arg-type]  # as much of a loop as they ask for
        self.connection = Connection(self.loop, self.inbox, lambda _: None, lambda _: None)  # type: ignore[arg-type]
        self.upstream, self.client = Side(), Side()
        self.connection.connection_made(self.upstream)
        self.relay = Relay(self.connection, RelayScan(withhold_usage=withhold), timeouts, ticker_of(self.loop), NEVER)
        self.connection.send(b"", self.relay)
        self.read(HEAD, chunk(FIRST))
        protocol = SimpleNamespace(outbox=self.inbox.outbox, closing=False)
        request: Any = SimpleNamespace(version=(1, 1), keep_alive=True, transport=self.client, protocol=protocol)
        stream = (ClientStream if express else Unframed)(request, "")
        self.text = self.relay.commit(stream, SPEAKER, count=True)
        self.loop.turn()

    def read(self, *reads: bytes) -> None:
        """Let reads arrive, all in one turn."""
        for data in reads:
            if not self.connection.closed:
                self.connection.data_received(data)
        self.loop.turn()

    def eof(self) -> None:
        if not self.connection.closed:
            self.connection.eof_received()
            self.connection.connection_lost(None)
        self.loop.turn()

    def seen(self) -> Seen:
        body, whole = unchunked(b"".join(self.client.written))
        scan, finished = self.relay.scan, self.relay.finished
        assert self.text is not None
        return Seen(
            body,
            whole,
            finished.result() if finished.done() else None,
            (scan.finished, scan.done, scan.usage, scan.fault, scan.malformed),
            self.relay.sent_bytes,
            self.text.text_bytes(),
        )

    @property
    def chunks(self) -> list[bytes]:
        """What was written to the client behind its head."""
        return self.client.written[1:]


def chunk(data: bytes, spelling: bytes = b"%x") -> bytes:
    return spelling % len(data) + b"\r\n" + data + b"\r\n"


def unchunked(data: bytes) -> tuple[bytes, bool]:
    """Return the body, and whether it has its end. What is no chunk is an error."""
    _, _, rest = data.partition(b"\r\n\r\n")
    body = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        assert re.fullmatch(rb"[0-9a-fA-F]+", line), data
        size = int(line, 16)
        assert rest[size : size + 2] == b"\r\n", data
        if not size:
            assert rest == b"\r\n", data
            return body, True
        body, rest = body + rest[:size], rest[size + 2 :]
    return body, False


async def test_a_chunk_with_one_event_goes_through_frame_and_all() -> None:
    rig = Rig()
    odd = chunk(HI, b"%X")
    rig.read(chunk(HI))
    rig.read(chunk(HI), odd)
    rig.read(odd)
    assert rig.chunks == [chunk(HI), chunk(HI), odd, odd]
    assert rig.inbox.reads == type(rig.inbox.reads)()


@pytest.mark.parametrize(
    "read",
    [
        chunk(HI, b"0%x"),
        chunk(HI, b"%x;name=value"),
        chunk(HI[:20]) + chunk(HI[20:]),
        chunk(HI + HI),
        chunk(event(delta("x" * SMALL_BYTES))),
        chunk(HI.replace(b"\n", b"\r\n")),
        chunk(b": keep-alive\n\n" + HI),
        chunk(b"data:" + HI[6:]),
    ],
    ids=["leading zero", "extension", "two chunks", "two events", "long", "CRLF", "comment", "no space"],
)
async def test_what_is_not_that_is_parsed_and_arrives_all_the_same(read: bytes) -> None:
    rig, plain = Rig(), Rig(express=False)
    for each in (rig, plain):
        each.read(chunk(HI), read)
        each.read(chunk(HI))
    assert rig.connection.express is not None  # the shortcut is open again
    for each in (rig, plain):
        each.read(chunk(STOP + DONE) + END)
    assert rig.seen() == plain.seen()
    assert rig.seen().ended is Ended.OK


@pytest.mark.parametrize("bad", [b"zz\r\n", b"\r\n", chunk(HI)[:-2] + b"xx", b"2\r\n" + HI + b"\r\n", b"-5\r\n" + HI + b"\r\n"])
async def test_malformed_framing_stays_a_fault(bad: bytes) -> None:
    rig = Rig()
    rig.read(chunk(HI))
    rig.read(bad)
    rig.read(chunk(HI))
    seen = rig.seen()
    assert seen.ended is Ended.CUT
    assert b"not valid HTTP" in seen.body
    assert rig.upstream.closed


async def test_a_body_that_looks_like_a_chunk_inside_a_chunk_is_not_taken_for_one() -> None:
    inner = chunk(HI)
    rig, plain = Rig(), Rig(express=False)
    for each in (rig, plain):
        each.read(chunk(HI) + b"%x\r\n" % (2 * len(inner)))
        each.read(inner)
        each.read(inner)
        each.read(b"\r\n" + chunk(STOP + DONE) + END)
    assert rig.seen() == plain.seen()
    assert b"\r\n" in rig.seen().body  # the frames inside belong to the body


async def test_chunks_that_wait_reach_the_client_before_the_cut_is_told() -> None:
    rig = Rig()
    rig.read(chunk(HI))
    rig.connection.data_received(chunk(HI))
    rig.connection.data_received(chunk(HI))
    rig.eof()
    seen = rig.seen()
    assert seen.body.startswith(FIRST + HI + HI + HI)
    assert (seen.ended, b'"finish_reason":"error"' in seen.body) == (Ended.CUT, True)


async def test_chunks_that_wait_for_a_client_that_has_gone_are_dropped() -> None:
    rig = Rig()
    rig.read(chunk(HI))
    written = len(rig.client.written)
    rig.connection.data_received(chunk(HI))
    rig.relay.stop()
    rig.loop.turn()
    assert len(rig.client.written) == written


async def test_a_silent_stream_ends_and_one_of_chunks_does_not() -> None:
    rig = Rig(timeouts=TIMEOUTS)
    for _ in range(5):
        rig.loop.advance(TIMEOUTS.idle_s * 0.9)
        rig.read(chunk(HI))
    assert rig.seen().ended is None
    rig.loop.advance(TIMEOUTS.idle_s * 1.1)
    rig.loop.turn()
    assert rig.seen().ended is Ended.IDLE


async def test_a_stream_that_tells_its_usage_in_every_event_is_soon_looked_at_once_only() -> None:
    rig = Rig(withhold=False)
    for number in range(MOST_REFUSED * 2):
        rig.read(chunk(event({**delta(str(number)), "usage": USAGE})))
        rig.read(chunk(HI))
    assert rig.connection.express is None
    assert rig.seen().body.count(HI) == MOST_REFUSED * 2


PLAIN = [
    HI,
    event(delta("é\n")),
    event(delta("", role="assistant")),
    event({"choices": []}),
    event({**delta("x"), "usage": None}),
]
ODD = [
    STOP,
    DONE,
    event({"choices": [], "usage": USAGE}),
    event({**delta("x"), "usage": USAGE}),
    event({"error": {"message": "overloaded"}}),
    event({**delta("x"), "error": None}),
    event({"choices": [{"index": 1, "delta": {"content": "two"}}]}),
    event({"choices": [{"index": None, "delta": {"content": "x"}}, {"index": 0}]}),
    b'data: {"choices":[\n\n',
    b'data: {"choices":\ndata: []}\n\n',
    b'data: {"choices":\n[]}\n\n',
    b'data: {"choices":\r[]}\n\n',
    b'data: {"a":"\xff"}\n\n',
    b'data: {"a":"\\ud800"}\n\n',
    b"data: {}\n\n",
    b"data: []\n\n",
    b'data: {"a":' + b"[" * 600 + b"\n\n",
    b": ping\n\n",
    b"event: error\ndata: {}\n\n",
    HI.replace(b"\n", b"\r\n"),
]
EVENTS = st.lists(st.sampled_from(PLAIN) | st.sampled_from(PLAIN) | st.sampled_from(ODD), min_size=1, max_size=8)
SPELLINGS = st.sampled_from([b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;a=b"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Give reads, and the same bytes once more in one: events in chunks, mostly one a chunk and one chunk a read."""
    whole = b""
    cuts: list[int] = []
    for data in draw(EVENTS):
        at = draw(st.integers(0, len(data))) if draw(st.integers(0, 9)) == 0 else 0
        for part in filter(None, (data[:at], data[at:])):
            whole += chunk(part, draw(SPELLINGS))
            cuts.append(len(whole))
    whole += END
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + draw(st.binary(max_size=3)) + whole[at + draw(st.integers(0, 2)) :]
    cuts += draw(st.lists(st.integers(0, len(whole)), max_size=3))
    cuts = sorted({cut for cut in cuts if draw(st.integers(0, 9)) and cut <= len(whole)})
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b], whole


async def played(reads: Sequence[bytes], turns: Sequence[bool], *, express: bool) -> Seen:
    """Let the reads arrive, several in one turn where `turns` says so, and then the end of the connection."""
    rig = Rig(express=express)
    together: list[bytes] = []
    for number, data in enumerate(reads):
        together.append(data)
        if turns[number % len(turns)]:
            rig.read(*together)
            together = []
    rig.read(*together)
    rig.eof()
    return rig.seen()


@settings(max_examples=400, deadline=None)
@given(streams(), st.lists(st.booleans(), min_size=1, max_size=5))
def test_any_stream_means_the_same_with_and_without_at_any_split(stream: tuple[list[bytes], bytes], turns: list[bool]) -> None:
    reads, whole = stream

    async def run() -> None:
        wanted = await played(reads, turns, express=False)
        assert await played(reads, turns, express=True) == wanted
        for pieces in ([whole], [whole[i : i + 1] for i in range(len(whole))]):
            for express in (True, False):  # but what a usage covers is told by the read
                got = await played(pieces, turns, express=express)
                assert got._replace(text_bytes=0) == wanted._replace(text_bytes=0)

    asyncio.run(run())


def test_the_plain_events_are_what_the_shortcut_is_for() -> None:
    async def run() -> None:
        for plain in PLAIN:
            rig = Rig()
            rig.read(chunk(HI))
            rig.read(chunk(plain))
            assert rig.connection.express is not None, json.dumps(plain.decode())

    asyncio.run(run())
