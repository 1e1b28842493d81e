"""However the bytes of a connection fall into packets, the same requests are heard; and aiohttp's own loop hears the same."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.server.http import plain
from tests.support.talk import Heard, ask, talking

CHUNKED = "Transfer-Encoding: chunked"
Packets = list[tuple[bytes, bool]]


@st.composite
def wholesome(draw: st.DrawFn) -> bytes:
    """A request that keeps the connection."""
    body = draw(st.binary(max_size=40))
    path = draw(st.sampled_from(["/v1", "/", "/a?b=c"]))
    fields = draw(st.lists(st.sampled_from(["Turns: 1", "Turns: 4", "X-Other: y"]), max_size=2, unique_by=lambda line: line[:5]))
    kind = draw(st.sampled_from(["get", "head", "length", "chunked", "gzip", "unread", "empty"]))
    if kind in ("get", "head"):
        return ask(b"", *fields, line=f"{kind.upper()} {path} HTTP/1.1")
    if kind == "chunked":
        cut = draw(st.integers(0, len(body)))
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return ask(b"", *fields, CHUNKED, line=f"POST {path} HTTP/1.1", length=False) + chunks + b"0\r\n\r\n"
    if kind == "gzip":
        return ask(gzip.compress(body, mtime=0), *fields, "Content-Encoding: gzip", line=f"POST {path} HTTP/1.1")
    if kind == "unread":
        fields = [*fields, "Unread: 1"]
    return ask(b"" if kind == "empty" else body, *fields, line=f"POST {path} HTTP/1.1")


UNWHOLESOME = st.sampled_from(
    [
        b"\x16\x03\x01 not http \r\n\r\n",
        b"GET /\r\n\r\n",
        ask(b"xx", CHUNKED, length=False),
        ask(b"", CHUNKED, length=False) + b"zz\r\n",
        ask(b"not gzip at all, not at all", "Content-Encoding: gzip"),
        ask(b"short")[:-2],
        ask(b"x", "Connection: close"),
        ask(b"x", line="POST /old HTTP/1.0"),
        ask(b"", "Connection: Upgrade", "Upgrade: websocket", line="GET /ws HTTP/1.1"),
        ask(b"", "Connection: Upgrade", "Upgrade: h2c", line="GET / HTTP/1.1"),
        ask(b"body", "Connection: Upgrade", "Upgrade: websocket"),
        ask(b"0123456789", "Unread: 1")[:-3],
        ask(b"x", "Content-Length: 2"),
        b"POST /v1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"\r\n\r\n",
    ]
)


def cut(draw: st.DrawFn, data: bytes) -> Packets:
    """Cut bytes into packets; the flag says whether the loop comes to rest behind one."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=8)))
    ends = [*cuts, len(data)]
    flags = draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends)))
    return [(data[a:b], flag) for a, b, flag in zip([0, *ends], ends, flags, strict=False)]


def talked(packets: Sequence[tuple[bytes, bool]]) -> tuple[list[Heard], bytes, bool, bool]:
    """Return what was heard, what was answered, and whether the connection stayed open, at once and in the end."""
    with talking() as talk:
        raw = b"".join(talk.say(packet, turn=turn) for packet, turn in packets) + talk.say()
        talk.loop.turn()
        raw += talk.wire.taken()
        stays = talk.open
        talk.loop.wait(6)  # past what lingers
        return talk.heard, raw + talk.wire.taken(), stays, talk.open


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_requests_do_not_depend_on_packets(data: st.DataObject) -> None:
    requests = data.draw(st.lists(wholesome(), min_size=1, max_size=5))
    one_by_one = talked([(request, True) for request in requests])
    assert len(one_by_one[0]) == len(requests)
    assert one_by_one[2:] == (True, True)
    assert talked(data.draw(st.composite(cut)(b"".join(requests)))) == one_by_one


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_aiohttps_own_loop_does_the_same_with_the_same_packets(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.one_of(wholesome(), wholesome(), UNWHOLESOME), min_size=1, max_size=5))
    packets = data.draw(st.composite(cut)(b"".join(parts)))
    ours = talked(packets)
    with mock.patch.object(plain, "KNOWN", False):
        assert talked(packets) == ours
