"""The sink of a stream between a played upstream and a client that keeps what it is sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from routerd.attempt import Ended, Passage, Relay, error_event
from routerd.attempt.redaction import Redaction
from routerd.attempt.sink.collect import Collect
from routerd.attempt.sink.pushed import ERROR_BODY_LIMIT_BYTES, Refused
from routerd.attempt.sink.relay import HELD_LIMIT_BYTES
from routerd.attempt.timer import TICK_S
from routerd.errors import Delivery, ErrorKind, UpstreamError
from routerd.graph import Auth, Endpoint, Provider, Secret, Timeouts
from routerd.wire.openai.relay_scan import RelayScan, StreamFault
from tests.attempt.fakes import Clock, Exchange, ticker_of
from tests.support.answers import DONE, USAGE, delta, event

ROLE = event(delta("", role="assistant"))
HI = event(delta("Hi"))
HO = event(delta("Ho"))
STOP = event(delta(finish="stop"))
USED = event({**delta(), "choices": [], "usage": USAGE})
OVERLOADED = {"message": "overloaded", "type": "server_error", "code": 503}
NEVER = ("first_token", float("inf"), 0.0)
TIMEOUTS = Timeouts(first_byte_s=1.0, first_token_s=2.0, idle_s=4.0, total_s=60.0)
LATE_S = TICK_S * 3

PROVIDER = Provider(name="p", dialect="openai", endpoints=(), auth=Auth(secret=Secret('sk-"secret')))


class Speaker:
    """Whose stream it is."""

    provider = PROVIDER
    redaction = Redaction(PROVIDER, Endpoint(name="p", provider="p", url="http://p/v1"))


SPEAKER = Speaker()


class Client:
    """The downstream: what was written, and how often it was ended."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ends = 0

    def write(self, data: bytes) -> None:
        assert not self.ends, "written after the end"
        self.written.append(data)

    def framed(self) -> None:
        """Not in chunks."""

    def cut(self) -> None:
        raise AssertionError("a stream has an error event")

    def end(self) -> None:
        self.ends += 1

    @property
    def body(self) -> bytes:
        return b"".join(self.written)

    def last_event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body.rstrip().rpartition(b"\n\n")[2].removeprefix(b"data: "))
        return found


class Rig:
    """One relay; `read` is one read of the upstream's socket."""

    def __init__(
        self,
        *,
        timeouts: Timeouts = TIMEOUTS,
        cap: tuple[str, float, float] = NEVER,
        withhold: bool = False,
        types: tuple[bytes, ...] = (),
    ) -> None:
        self.clock = Clock()
        self.exchange = Exchange()
        self.client = Client()
        self.relay = Relay(self.exchange, RelayScan(withhold_usage=withhold), timeouts, ticker_of(self.clock), cap, types)

    def head(self, status: int = 200, kind: bytes = b"text/event-stream") -> Rig:
        self.relay.on_head(status, [(b"content-type", kind)])
        return self

    def read(self, *pieces: bytes) -> Rig:
        for piece in pieces:
            self.relay.on_body(piece)
        self.relay.on_flush()
        return self

    def end(self) -> Rig:
        self.relay.on_end()
        return self

    def commit(self) -> Rig:
        assert self.relay.ready.done()
        assert self.relay.ready.exception() is None
        self.relay.commit(self.client, SPEAKER)
        return self

    def lose(self) -> Rig:
        self.relay.on_fail(UpstreamError(ErrorKind.STREAM_CUT, "the connection is gone", delivery=Delivery.ANSWERED))
        return self

    @property
    def fault(self) -> UpstreamError:
        found = self.relay.ready.exception()
        assert isinstance(found, UpstreamError), found
        return found

    @property
    def ended(self) -> Ended:
        assert self.client.ends == 1
        return self.relay.finished.result()


# ── before the commit ──


async def test_nothing_is_ready_before_the_first_content() -> None:
    rig = Rig().head()
    for piece in (b": waiting\n\n", ROLE, ROLE[:20]):
        rig.read(piece)
        assert not rig.relay.ready.done()
    rig.read(ROLE[20:] + HI)
    assert rig.relay.ready.done()


async def test_what_was_held_comes_first_and_nothing_is_lost_between_content_and_commit() -> None:
    rig = Rig().head().read(b": hello\n\n", ROLE).read(HI).read(HO)
    assert rig.client.written == []
    rig.commit()
    assert rig.client.body == b": hello\n\n" + ROLE + HI + HO
    rig.read(STOP, DONE)
    assert rig.client.body == b": hello\n\n" + ROLE + HI + HO + STOP + DONE
    assert (rig.ended, rig.exchange.calls) == (Ended.OK, ["linger"])
    assert rig.relay.sent_bytes == len(rig.client.body)


async def test_a_stream_that_was_over_before_the_commit_is_passed_on_whole() -> None:
    rig = Rig().head().read(ROLE, HI, STOP, DONE).end().commit()
    assert rig.client.body == ROLE + HI + STOP + DONE
    assert rig.ended is Ended.OK


async def test_one_read_is_one_write() -> None:
    rig = Rig().head().read(HI).commit()
    rig.read(HO, HO, HO)
    assert rig.client.written == [HI, HO * 3]


@pytest.mark.parametrize("kind", [b"application/json", b"Text/HTML; charset=utf-8"])
async def test_an_answer_that_is_no_stream_is_a_fault(kind: bytes) -> None:
    rig = Rig().head(kind=kind)
    assert (rig.fault.kind, rig.exchange.calls) == (ErrorKind.PROTOCOL, ["abort"])


async def test_another_status_carries_the_whole_error() -> None:
    rig = Rig().head(429, b"application/json").read(b'{"err').read(b'or": 1}').end()
    refused = rig.relay.ready.exception()
    assert isinstance(refused, Refused)
    assert (refused.response.status, refused.response.body) == (429, b'{"error": 1}')
    assert refused.response.header(b"content-type") == b"application/json"


async def test_an_error_that_never_ends_is_cut_and_told() -> None:
    rig = Rig().head(500).read(b"x" * ERROR_BODY_LIMIT_BYTES).read(b"x")
    assert isinstance(rig.relay.ready.exception(), Refused)
    assert rig.exchange.calls == ["abort"]


async def test_an_error_event_before_content_is_a_fault_of_its_own_kind_without_a_status() -> None:
    rig = Rig().head().read(ROLE).read(event({"error": {"message": "slow down", "code": 429}}))
    assert (rig.fault.kind, rig.fault.status, rig.exchange.calls) == (ErrorKind.RATE_LIMITED, None, ["abort"])


@pytest.mark.parametrize("pieces", [(ROLE, DONE), (ROLE,), ()])
async def test_a_stream_without_content_is_a_fault(pieces: tuple[bytes, ...]) -> None:
    rig = Rig().head()
    if pieces:
        rig.read(*pieces)
    if not rig.relay.ready.done():
        rig.end()
    assert rig.fault.kind is ErrorKind.PROTOCOL


async def test_keep_alives_without_content_are_not_held_for_ever() -> None:
    rig = Rig().head()
    comment = b": " + b"x" * 65_534 + b"\n\n"
    for _ in range(HELD_LIMIT_BYTES // len(comment) + 1):
        rig.read(comment)
    assert (rig.fault.kind, rig.exchange.calls) == (ErrorKind.PROTOCOL, ["abort"])


async def test_a_connection_lost_before_content_is_the_attempts_fault() -> None:
    rig = Rig().head().read(ROLE).lose()
    assert rig.fault.kind is ErrorKind.STREAM_CUT
    assert not rig.relay.finished.done()


async def test_a_connection_lost_between_content_and_commit_reaches_the_client_as_an_error_event() -> None:
    rig = Rig().head().read(HI).lose().commit()
    assert rig.client.body.startswith(HI)
    assert rig.client.last_event()["error"]["message"] == "the connection is gone"
    assert rig.ended is Ended.CUT


# ── after it ──


async def test_done_is_added_when_the_upstream_finished_but_did_not_say_so() -> None:
    rig = Rig().head().read(HI).commit().read(STOP).end()
    assert rig.client.body == HI + STOP + DONE
    assert rig.ended is Ended.OK


async def test_a_finish_whose_framing_is_cut_is_a_whole_answer() -> None:
    rig = Rig().head().read(HI).commit().read(STOP).lose()
    assert rig.client.body == HI + STOP + DONE
    assert rig.ended is Ended.OK


async def test_what_came_in_the_same_read_as_the_break_is_not_lost() -> None:
    rig = Rig().head().read(HI).commit()
    rig.relay.on_body(HO + STOP)
    rig.lose()
    assert rig.client.body == HI + HO + STOP + DONE
    assert rig.ended is Ended.OK


async def test_a_done_that_came_in_the_same_read_as_the_break_is_said_once() -> None:
    rig = Rig().head().read(HI).commit()
    rig.relay.on_body(STOP + DONE)
    rig.lose()
    assert rig.client.body == HI + STOP + DONE
    assert rig.ended is Ended.OK


async def test_what_came_with_the_break_between_content_and_commit_is_not_lost() -> None:
    rig = Rig().head().read(HI)
    rig.relay.on_body(HO)
    rig.lose().commit()
    assert rig.client.body.startswith(HI + HO)
    assert rig.client.last_event()["error"]["message"] == "the connection is gone"


async def test_an_end_without_a_finish_is_never_passed_off_as_whole() -> None:
    rig = Rig().head().read(HI).commit().read(HO).end()
    assert rig.client.body.startswith(HI + HO)
    assert rig.client.last_event()["error"]["type"] == "upstream_stream_cut"
    assert DONE not in rig.client.body
    assert rig.ended is Ended.CUT


async def test_a_connection_lost_after_the_commit_ends_in_an_error_event() -> None:
    rig = Rig().head().read(HI).commit().lose()
    assert rig.client.last_event()["choices"][0]["finish_reason"] == "error"
    assert DONE not in rig.client.body
    assert (rig.ended, rig.exchange.calls) == (Ended.CUT, ["abort"])


async def test_an_error_event_after_the_commit_is_told_in_the_one_shape() -> None:
    rig = Rig().head().read(HI).commit().read(HO, event({"error": OVERLOADED}))
    assert rig.client.body.startswith(HI + HO)
    assert rig.client.last_event()["error"] == {**OVERLOADED, "code": "503", "param": None, "provider": "p"}
    assert (rig.ended, rig.exchange.calls) == (Ended.ERROR_EVENT, ["abort"])


async def test_a_last_event_without_its_blank_line_is_completed() -> None:
    rig = Rig().head().read(HI).commit().read(STOP.rstrip(b"\n")).end()
    assert rig.client.body == HI + STOP + DONE


@pytest.mark.parametrize("withhold", [True, False])
async def test_a_usage_chunk_reaches_the_client_only_when_it_asked(withhold: bool) -> None:
    rig = Rig(withhold=withhold).head().read(HI).commit().read(STOP).read(USED).read(DONE)
    assert (USED in rig.client.body) is not withhold
    assert rig.relay.scan.usage is not None
    assert rig.relay.scan.usage.total_tokens == 14


# ── the client's pace ──


async def test_a_full_client_pauses_its_upstream_once_and_resumes_it_once() -> None:
    rig = Rig().head().read(HI).commit()
    rig.relay.resume()
    rig.relay.pause()
    rig.relay.pause()
    rig.relay.resume()
    rig.relay.resume()
    assert rig.exchange.calls == ["pause", "resume"]


async def test_a_stream_that_has_ended_is_neither_paused_nor_resumed() -> None:
    rig = Rig().head().read(HI).commit().read(STOP, DONE)
    rig.relay.pause()
    rig.relay.resume()
    assert rig.exchange.calls == ["linger"]


async def test_a_client_that_reads_nothing_for_as_long_as_idle_allows_is_given_up() -> None:
    rig = Rig().head().read(HI).commit()
    rig.relay.pause()
    rig.clock.advance(TIMEOUTS.idle_s + LATE_S)
    assert rig.ended is Ended.CLIENT_STALLED
    assert rig.client.body == HI  # no blame on the upstream
    assert rig.exchange.calls == ["pause", "abort"]


async def test_a_pause_is_as_long_as_itself_not_as_the_silence_before_it() -> None:
    rig = Rig().head().read(HI).commit()
    rig.clock.advance(TIMEOUTS.idle_s - 1.0)
    rig.relay.pause()
    rig.clock.advance(TIMEOUTS.idle_s - 0.5)
    assert not rig.relay.finished.done()
    rig.clock.advance(0.5 + LATE_S)
    assert rig.ended is Ended.CLIENT_STALLED


async def test_after_a_pause_the_upstream_has_its_whole_idle_time_again() -> None:
    rig = Rig().head().read(HI).commit()
    rig.clock.advance(1.0)
    rig.relay.pause()
    rig.clock.advance(2.5)
    rig.relay.resume()
    rig.clock.advance(TIMEOUTS.idle_s - 0.1)
    assert not rig.relay.finished.done()
    rig.clock.advance(0.1 + LATE_S)
    assert rig.ended is Ended.IDLE


# ── time ──


async def test_silence_before_the_head_is_a_timeout_of_first_byte_that_may_have_been_processed() -> None:
    rig = Rig()
    rig.clock.advance(TIMEOUTS.first_byte_s + LATE_S)
    assert (rig.fault.kind, rig.fault.delivery) == (ErrorKind.TIMEOUT, Delivery.MAYBE_PROCESSED)
    assert "first_byte" in rig.fault.message
    assert rig.exchange.calls == ["abort"]


async def test_the_first_token_is_awaited_from_the_request_on_and_comments_win_no_time() -> None:
    rig = Rig()
    rig.clock.advance(0.9)
    rig.head()
    for _ in range(10):
        rig.clock.advance(0.1)
        rig.read(b": wait\n\n")
    assert not rig.relay.ready.done()
    rig.clock.advance(0.1 + LATE_S)
    assert "first_token" in rig.fault.message
    assert rig.fault.delivery is Delivery.ANSWERED


async def test_the_cap_of_the_attempts_does_not_bound_a_committed_stream() -> None:
    clock_starts = Clock().now_s
    rig = Rig(cap=("deadline", clock_starts + 1.5, 1.5)).head().read(HI).commit()
    rig.clock.advance(3.0)
    assert not rig.relay.finished.done()


async def test_a_stream_that_moves_may_last_as_long_as_it_likes() -> None:
    rig = Rig().head().read(HI).commit()
    for _ in range(10):
        rig.clock.advance(TIMEOUTS.idle_s - 0.5)
        rig.read(HO)
    assert not rig.relay.finished.done()


async def test_silence_in_the_middle_is_told_as_a_cut() -> None:
    rig = Rig().head().read(HI).commit()
    rig.clock.advance(3.0)
    rig.read(HO)
    rig.clock.advance(TIMEOUTS.idle_s - 0.1)
    assert not rig.relay.finished.done()
    rig.clock.advance(0.1 + LATE_S)
    assert "idle" in rig.client.last_event()["error"]["message"]
    assert (rig.ended, rig.exchange.calls) == (Ended.IDLE, ["abort"])


async def test_stream_total_bounds_a_stream_that_moves() -> None:
    rig = Rig(timeouts=Timeouts(idle_s=4.0, stream_total_s=10.0)).head().read(HI).commit()
    for _ in range(4):
        rig.clock.advance(3.0)
        if not rig.relay.finished.done():
            rig.read(HO)
    assert "stream_total" in rig.client.last_event()["error"]["message"]
    assert rig.ended is Ended.DEADLINE


@pytest.mark.parametrize("ends", ["done", "cut", "stop"])
async def test_an_ended_stream_leaves_no_timer_behind(ends: str) -> None:
    rig = Rig().head().read(HI).commit()
    if ends == "done":
        rig.read(STOP, DONE)
    elif ends == "cut":
        rig.lose()
    else:
        rig.relay.stop()
    calls = list(rig.exchange.calls)
    rig.clock.advance(100.0)
    assert rig.clock.armed == 0
    assert rig.exchange.calls == calls


# ── given up from outside ──


async def test_a_client_that_left_stops_the_upstream_and_is_written_nothing_more() -> None:
    rig = Rig().head().read(HI).commit()
    rig.relay.stop()
    assert (rig.exchange.calls, rig.client.ends) == (["abort"], 0)
    assert rig.relay.finished.cancelled()


async def test_a_stop_before_content_cancels_who_waits() -> None:
    rig = Rig().head()
    rig.relay.stop()
    assert rig.relay.ready.cancelled()
    assert rig.relay.finished.cancelled()


# ── the error event ──


@pytest.mark.parametrize(
    ("fault", "message", "kind", "code"),
    [
        (StreamFault("cut"), "cut", "upstream_stream_cut", "upstream_stream_cut"),
        (StreamFault("x", {"message": "m", "type": "t", "code": 7}), "m", "t", "7"),
        (StreamFault("x", {"message": "", "code": None}), "x", "upstream_stream_error", "upstream_stream_error"),
        (StreamFault("x", "plain words"), "plain words", "upstream_stream_error", "upstream_stream_error"),
        (StreamFault("x", [1]), "x", "upstream_stream_error", "upstream_stream_error"),
    ],
)
def test_an_error_event_has_one_shape_whatever_the_upstream_said(fault: StreamFault, message: str, kind: str, code: str) -> None:
    raw = error_event(fault, SPEAKER)
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    assert raw.count(b"\n") == 2
    found = json.loads(raw.removeprefix(b"data: "))
    assert found["error"] == {"message": message, "type": kind, "code": code, "param": None, "provider": "p"}
    assert found["choices"] == [{"index": 0, "delta": {}, "finish_reason": "error"}]


def test_an_error_event_is_bounded() -> None:
    assert len(error_event(StreamFault("x", {"message": "m" * 100_000}), SPEAKER)) < 3000


def test_an_error_event_does_not_quote_our_credential() -> None:
    raw = error_event(StreamFault("x", {"message": 'key sk-"secret refused', "code": 'sk-"secret'}), SPEAKER)
    assert b"secret" not in raw
    assert b"key *** refused" in raw


async def test_a_stream_that_routerd_must_stop_ends_in_an_error_event_and_not_as_if_whole() -> None:
    rig = Rig().head().read(HI).commit()
    rig.relay.interrupt("routerd is shutting down")
    assert b"routerd is shutting down" in rig.client.body
    assert b"[DONE]" not in rig.client.body
    assert rig.ended is Ended.DEADLINE


@pytest.mark.parametrize(
    ("types", "kind", "taken"),
    [
        ((), b"text/event-stream; charset=utf-8", True),
        ((), b"application/x-ndjson", True),
        ((), b"application/json", False),
        ((), b"text/html; charset=utf-8", False),
        ((b"application/x-ndjson",), b"Application/X-NDJSON", True),
        ((b"application/x-ndjson",), b"text/event-stream", False),
    ],
)
async def test_a_stream_has_a_media_type_of_its_dialect(types: tuple[bytes, ...], kind: bytes, taken: bool) -> None:
    rig = Rig(types=types).head(kind=kind)
    assert (("abort" in rig.exchange.calls), rig.relay.ready.done()) == ((False, False) if taken else (True, True))
    if not taken:
        with pytest.raises(UpstreamError, match="answered a stream request with"):
            rig.relay.ready.result()
    rig.relay.stop()


# ── an exchange that is over: its connection may carry another request's ──


async def test_a_stream_that_ended_before_its_commit_no_longer_touches_the_exchange() -> None:
    for whole in ([ROLE, HI, STOP, DONE], [ROLE, HI]):
        rig = Rig().head().read(*whole).end()
        calls = [*rig.exchange.calls]
        rig.relay.pause()
        rig.relay.resume()
        rig.commit()
        rig.relay.pause()
        rig.relay.stop()
        assert rig.exchange.calls == calls


async def test_what_was_let_go_after_done_is_not_stopped_by_a_client_that_leaves() -> None:
    rig = Rig().head().read(ROLE, HI).commit().read(STOP, DONE)
    rig.relay.pause()
    rig.relay.stop()
    assert rig.exchange.calls == ["linger"]


async def test_a_refusal_that_came_whole_leaves_the_exchange_alone() -> None:
    rig = Rig().head(429, b"application/json").read(b"{}").end()
    assert isinstance(rig.relay.ready.exception(), Refused)
    rig.relay.stop()
    assert rig.exchange.calls == []


async def test_a_whole_answer_whose_request_is_cancelled_leaves_the_exchange_alone() -> None:
    clock, exchange = Clock(), Exchange()
    future = asyncio.get_running_loop().create_future()
    sink = Collect(future, exchange, TIMEOUTS, ticker_of(clock), NEVER, 1000)
    sink.on_head(200, [])
    sink.on_body(b"{}")
    sink.on_flush()
    sink.on_end()
    sink.leave()
    assert exchange.calls == []


async def test_a_passage_that_is_over_leaves_the_exchange_alone() -> None:
    clock, exchange = Clock(), Exchange()
    passage = Passage(exchange, TIMEOUTS, ticker_of(clock), NEVER)  # type: ignore[arg-type]
    passage.on_head(200, [])
    passage.on_body(b"x")
    passage.on_flush()
    passage.on_end()
    passage.commit(Client())
    passage.pause()  # the client's buffer is found full at the end of the turn
    passage.stop()
    assert exchange.calls == []


async def test_a_passage_to_a_client_that_is_full_already_is_not_resumed_by_its_commit() -> None:
    clock, exchange = Clock(), Exchange()
    passage = Passage(exchange, TIMEOUTS, ticker_of(clock), NEVER)  # type: ignore[arg-type]
    passage.on_head(200, [])
    passage.pause()
    passage.commit(Client())
    assert exchange.calls == ["pause"]
    passage.resume()
    assert exchange.calls == ["pause", "resume"]


async def test_content_that_came_in_time_is_not_too_late_because_the_commit_is() -> None:
    rig = Rig().head().read(ROLE, HI)
    rig.clock.advance(TIMEOUTS.first_token_s + LATE_S)
    rig.commit().read(STOP, DONE)
    assert rig.relay.finished.result() is Ended.OK
    assert rig.client.body.endswith(DONE)
