"""The loop as a conversation: what each target says, and what the loop does next. The clock moves only by sleeping."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from routerd.attempt.loop import MAX_COOLDOWN_S, Answer, Attempts, Setting
from routerd.attempt.queue import backoff_s
from routerd.errors import (
    AttemptsExhausted,
    BadRequest,
    BudgetExceeded,
    Delivery,
    ErrorKind,
    NoTarget,
    RequestError,
    UpstreamError,
)
from routerd.graph import Auth, Backoff, Budget, ColdRule, ColdStart, Failover, Graph, Params, Retry, Route, Secret, Timeouts
from routerd.health import Health, View
from routerd.messages import ModelRequest, Taken, Usage
from routerd.plan import Planned, RoutePlan
from routerd.policy import Bill, Charge, Lease
from routerd.state import Board
from routerd.upstream import Sink
from routerd.wire.openai.dialect import OpenAIDialect
from tests.attempt.fakes import START_S, Clock, Script, broken, whole
from tests.plan.build import graph, provider, route, target
from tests.support.answers import DONE, completion, delta, event

Play = Callable[[Sink], None] | None
STEADY = Backoff(first_s=1.0, factor=2.0, max_s=30.0, jitter_ratio=0.0)
GOOD = whole(200, json.dumps(completion("Hi")).encode())
DEAD = broken(lambda: UpstreamError(ErrorKind.CONNECT, "refused", delivery=Delivery.NOT_SENT))
STREAM = (b"content-type", b"text/event-stream")


def says(status: int, message: str = "it broke", *headers: tuple[bytes, bytes]) -> Callable[[Sink], None]:
    return whole(status, json.dumps({"error": {"message": message, "type": "t", "code": None}}).encode(), *headers)


def wait(seconds: str) -> tuple[bytes, bytes]:
    return (b"retry-after", seconds.encode())


def streams(*events: bytes) -> Callable[[Sink], None]:
    return whole(200, b"".join(events), STREAM)


TOKENS = Bill([Charge(Budget(name="t", kind="tokens", limit=1000, window_s=60.0), "")])
RESERVED = 99


class Held:
    """Counters of one lease on tokens: they note what of it stays when it is closed."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.lease = Lease(self, TOKENS, (RESERVED,), Taken(((1,),)))

    def settle(self, _charges: object, _handles: object, _taken: object, used: Sequence[int], _now_s: float, /) -> None:
        self.calls.append(used[0])


class Talk:
    """One request over a route: `plays` names, for each endpoint, what it answers to each attempt in turn."""

    def __init__(self, asked: Route, plays: dict[str, list[Play]], *, stream: bool = False, known: Graph | None = None) -> None:
        self.clock = Clock()
        self.graph = known or graph(asked)
        self.script = Script(asked, self.clock, asyncio.get_running_loop(), plays)
        self.health: View = Health(Board.private()).reconcile(self.graph, START_S)
        self.waits = False
        self.leases: list[Held] = []
        self.full: set[str] = set()  # providers whose own budget is used up
        self.slept: list[float] = []
        compiled, rng = RoutePlan(self.graph, asked), random.Random(1)
        self.attempts = Attempts(
            Setting(self.health, random.Random(1), 10_000, self.clock.time, lambda: 1.7e9),
            self.script,  # type: ignore[arg-type]
            ModelRequest(operation="chat", path="chat/completions", model="m", body={}, stream=stream, arrived_at_s=START_S),
            {"messages": []},
            compiled.order((), self.health, rng, START_S),
            overflow=lambda: compiled.order((), self.health, rng, START_S, overflow=True),
            reserve=self.reserve,  # type: ignore[arg-type]
        )

    def reserve(self, planned: Planned, deadline_at_s: float) -> Lease | Awaitable[Lease]:
        if planned.provider.name in self.full:
            raise BudgetExceeded(f"{planned.provider.name} is used up", retry_after_s=7.0)
        self.leases.append(Held())
        return self.later(self.leases[-1].lease) if self.waits else self.leases[-1].lease

    async def later(self, lease: Lease) -> Lease:
        await asyncio.sleep(0)
        return lease

    async def sleep(self, length_s: float) -> None:
        self.slept.append(length_s)
        self.clock.advance(length_s)

    async def fails(self) -> UpstreamError:
        with pytest.raises(AttemptsExhausted) as caught:
            await self.attempts.run()
        assert caught.value.attempts == tuple(self.attempts.records)
        return caught.value.last

    def nothing_is_held(self) -> bool:
        """Tell whether every lease was given back and no endpoint counts a request."""
        assert all(lease.calls in ([0], []) for lease in self.leases), [lease.calls for lease in self.leases]
        return all(lease.calls for lease in self.leases) and not any(state.inflight for _, state in self.health.items())


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Talk]:
    """Give a function that makes a Talk; the loop sleeps on its clock."""

    def make(*args: Any, **more: Any) -> Talk:
        made = Talk(*args, **more)
        monkeypatch.setattr("routerd.attempt.loop.asyncio.sleep", made.sleep)
        return made

    return make


Make = Callable[..., Talk]


def text_of(answer: Answer) -> str:
    return str(json.loads(answer.body)["choices"][0]["message"]["content"])


# ── order, and what is told of it ──


async def test_targets_are_asked_in_order_until_one_answers_and_each_try_is_told(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y", "c/z", "d/w"), {"a": [DEAD], "b": [says(500)], "c": [GOOD]})
    answer = await t.attempts.run()
    assert (text_of(answer), t.script.asked, t.slept) == ("Hi", ["a", "b", "c"], [])
    assert [(r.number, r.target, r.endpoint, r.model, r.result, r.reason, r.status) for r in t.attempts.records] == [
        (1, "a/x", "a", "x", "upstream_connect", "connect", None),
        (2, "b/y", "b", "y", "upstream_5xx", "server_error", 500),
        (3, "c/z", "c", "z", "ok", "", 200),
    ]
    assert t.script.results == [("a/x", "upstream_connect"), ("b/y", "upstream_5xx")]
    t.attempts.finish(answer, None)  # only now is it known whether it was whole
    assert t.script.results[2:] == [("c/z", "ok")]
    assert t.script.failovers == [("a/x", "b/y", "connect"), ("b/y", "c/z", "server_error")]
    assert answer.planned.target.label == "c/z"


async def test_a_whole_answer_tells_which_model_its_upstream_named(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [whole(200, json.dumps({**completion("Hi"), "model": "x-2025"}).encode())]})
    await t.attempts.run()
    assert [r.response_model for r in t.attempts.records] == ["x-2025"]


async def test_each_target_is_asked_for_its_own_model_with_its_own_parameters(talk: Make) -> None:
    forced = target("b/y", params=Params(force={"temperature": 0}))
    t = talk(route("m", "a/x", forced), {"a": [DEAD], "b": [GOOD]})
    await t.attempts.run()
    assert [json.loads(exchange.sent) for exchange in t.script.exchanges] == [
        {"model": "x", "messages": []},
        {"model": "y", "messages": [], "temperature": 0},
    ]


async def test_max_attempts_ends_it_and_the_last_failure_is_told(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y", "c/z", failover=Failover(max_attempts=2)), {"a": [DEAD], "b": [says(503)], "c": [GOOD]})
    last = await t.fails()
    assert (last.status, last.endpoint, t.script.asked) == (503, "b", ["a", "b"])


@pytest.mark.parametrize("status", [400, 422])
async def test_a_clients_own_fault_is_told_at_once(talk: Make, status: int) -> None:
    t = talk(route("m", "a/x", "b/y", retry=Retry(attempts=3)), {"a": [says(status, "bad field")], "b": [GOOD]})
    last = await t.fails()
    assert (last.kind, last.message, t.script.asked) == (ErrorKind.BAD_REQUEST, "bad field", ["a"])
    assert t.health.cooling("a", START_S) == 0.0
    assert t.nothing_is_held()


async def test_a_kind_that_is_not_named_gives_up(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y", failover=Failover(on=frozenset({"connect"}))), {"a": [says(500)], "b": [GOOD]})
    assert (await t.fails()).status == 500
    assert t.script.asked == ["a"]


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": 1}', b'{"error": {"message": "no", "code": 502}}', b"x" * 10_001])
async def test_an_answer_that_is_none_goes_to_the_next_target(talk: Make, body: bytes) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [whole(200, body)], "b": [GOOD]})
    assert text_of(await t.attempts.run()) == "Hi"
    assert t.attempts.records[0].result != "ok"


async def test_an_empty_plan_says_that_no_target_can_be_used(talk: Make) -> None:
    t = talk(route("m", "a/x"), {})
    t.attempts.plan = ()
    assert (await t.fails()).kind is ErrorKind.CONNECT
    assert t.attempts.records == []


async def test_who_is_drained_while_another_is_tried_is_not_asked(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y", "c/z"), {"a": [says(500)], "c": [GOOD]})
    drained = t.health.get("b")
    assert drained is not None
    play = t.script.plays["a"].pop()
    assert play is not None

    def drains(sink: Sink) -> None:
        drained.drain(True, START_S)
        play(sink)

    t.script.plays["a"].append(drains)
    assert text_of(await t.attempts.run()) == "Hi"
    assert t.script.asked == ["a", "c"]


async def test_when_all_were_drained_meanwhile_the_client_hears_that(talk: Make) -> None:
    t = talk(route("m", "a/x"), {})
    drained = t.health.get("a")
    assert drained is not None
    drained.drain(True, START_S)
    with pytest.raises(NoTarget):
        await t.attempts.run()
    assert t.script.asked == []


# ── trying again ──


async def test_nobody_sleeps_while_another_target_can_answer(talk: Make) -> None:
    chain = route("m", "a/x", "b/y", retry=Retry(attempts=2, backoff=STEADY))
    t = talk(chain, {"a": [says(429, "slow", wait("20"))], "b": [GOOD]})
    assert text_of(await t.attempts.run()) == "Hi"
    assert t.slept == []


async def test_a_retry_waits_as_long_as_the_upstream_asked(talk: Make) -> None:
    t = talk(route("m", "a/x", retry=Retry(attempts=2, backoff=STEADY)), {"a": [says(429, "slow", wait("20")), GOOD]})
    assert text_of(await t.attempts.run()) == "Hi"
    assert t.slept == [20.0]


async def test_without_such_a_wish_the_backoff_grows(talk: Make) -> None:
    chain = route("m", "a/x", retry=Retry(attempts=4, backoff=STEADY))
    t = talk(chain, {"a": [says(500), says(500), says(500), GOOD]})
    assert text_of(await t.attempts.run()) == "Hi"
    assert t.slept == [1.0, 2.0, 4.0]


async def test_the_target_that_is_due_first_is_tried_again_first(talk: Make) -> None:
    chain = route("m", "a/x", "b/y", retry=Retry(attempts=2, backoff=STEADY))
    t = talk(chain, {"a": [says(429, "slow", wait("20"))], "b": [says(503, "busy", wait("5")), GOOD]})
    assert text_of(await t.attempts.run()) == "Hi"
    assert (t.script.asked, t.slept) == (["a", "b", "b"], [5.0])


async def test_retry_attempts_counts_the_tries_of_one_target(talk: Make) -> None:
    t = talk(route("m", "a/x", retry=Retry(attempts=3, backoff=STEADY)), {"a": [says(500)] * 4})
    await t.fails()
    assert t.script.asked == ["a"] * 3


async def test_a_fault_that_does_not_heal_is_not_tried_again(talk: Make) -> None:
    t = talk(route("m", "a/x", retry=Retry(attempts=3, backoff=STEADY)), {"a": [says(401)]})
    await t.fails()
    assert (t.script.asked, t.slept) == (["a"], [])


async def test_the_shortest_wish_of_all_is_passed_on(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [says(429, "slow", wait("5"))], "b": [says(429, "slow", wait("60"))]})
    assert (await t.fails()).retry_after_s == 5.0


@pytest.mark.parametrize(("retry", "exact"), [(0, 0.5), (1, 1.5), (2, 4.0), (9, 4.0)])
def test_backoff_is_bounded_and_spread_around_its_value(retry: int, exact: float) -> None:
    backoff = Backoff(first_s=0.5, factor=3.0, max_s=4.0, jitter_ratio=0.2)
    rng = random.Random(3)
    waits = [backoff_s(backoff, retry, rng) for _ in range(200)]
    assert exact * 0.8 <= min(waits) < exact < max(waits) <= exact * 1.2


# ── the deadline ──


async def test_a_retry_that_would_pass_the_deadline_is_not_waited_for(talk: Make) -> None:
    chain = route("m", "a/x", retry=Retry(attempts=2, backoff=STEADY), failover=Failover(deadline_s=10.0))
    t = talk(chain, {"a": [says(429, "slow", wait("10")), GOOD]})
    assert (await t.fails()).status == 429
    assert t.slept == []


async def test_no_attempt_begins_after_the_deadline(talk: Make) -> None:
    t = talk(route("m", "a/x", failover=Failover(deadline_s=10.0)), {"a": [GOOD]})
    t.clock.advance(10.0)
    assert (await t.fails()).kind is ErrorKind.TIMEOUT
    assert t.script.asked == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_ends_an_attempt_that_hangs_and_asks_nobody_else(talk: Make, stream: bool) -> None:
    t = talk(route("m", "a/x", "b/y", failover=Failover(deadline_s=10.0)), {"a": [None], "b": [GOOD]}, stream=stream)
    running = asyncio.create_task(t.fails())
    await turns()
    t.clock.advance(10.1)
    last = await running
    assert (last.kind, t.script.asked) == (ErrorKind.TIMEOUT, ["a"])
    assert "deadline" in last.message
    assert t.script.exchanges[0].calls[0] == "abort"
    assert t.nothing_is_held()


async def test_total_bounds_a_whole_answer(talk: Make) -> None:
    t = talk(route("m", target("a/x", timeouts=Timeouts(total_s=3.0))), {"a": [None]})
    running = asyncio.create_task(t.fails())
    await turns()
    t.clock.advance(3.1)
    assert "total" in (await running).message


async def test_no_attempt_begins_when_total_has_passed(talk: Make) -> None:
    short, long = Timeouts(total_s=3.0), Timeouts(total_s=30.0)
    chain = (target("a/x", timeouts=short), target("b/y", timeouts=short), target("c/z", timeouts=long))
    t = talk(route("m", *chain), {"a": [None], "b": [GOOD], "c": [GOOD]})
    running = asyncio.create_task(t.attempts.run())
    await turns()
    t.clock.advance(3.1)
    assert text_of(await running) == "Hi"
    assert t.script.asked == ["a", "c"]


async def test_total_that_has_passed_before_the_first_attempt_is_a_timeout(talk: Make) -> None:
    t = talk(route("m", target("a/x", timeouts=Timeouts(total_s=3.0))), {"a": [GOOD]})
    t.clock.advance(3.0)
    last = await t.fails()
    assert (last.kind, last.delivery, t.script.asked) == (ErrorKind.TIMEOUT, Delivery.NOT_SENT, [])


async def test_a_retry_that_would_pass_total_is_not_waited_for(talk: Make) -> None:
    asked = route("m", target("a/x", timeouts=Timeouts(total_s=3.0)), retry=Retry(attempts=2, backoff=STEADY))
    t = talk(asked, {"a": [says(429, "slow", wait("5")), GOOD]})
    assert (await t.fails()).status == 429
    assert t.slept == []


async def test_total_does_not_bound_a_stream(talk: Make) -> None:
    asked = route("m", target("a/x", timeouts=Timeouts(total_s=3.0)))
    t = talk(asked, {"a": [streams(event(delta("Hi")), DONE)]}, stream=True)
    t.clock.advance(3.1)
    assert (await t.attempts.run()).relay is not None


async def turns() -> None:
    """Let what is ready run."""
    for _ in range(5):
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(done.set_result, None)
        await done


# ── budgets of providers ──


async def test_a_provider_whose_budget_is_used_up_is_skipped_without_an_attempt(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {"b": [GOOD]})
    t.full = {"a"}
    assert text_of(await t.attempts.run()) == "Hi"
    assert (t.script.asked, [r.number for r in t.attempts.records]) == (["b"], [1])


async def test_when_every_provider_is_used_up_the_client_is_told_so(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {})
    t.full = {"a", "b"}
    with pytest.raises(BudgetExceeded, match="b is used up"):
        await t.attempts.run()


async def test_a_real_failure_is_worth_more_than_a_skipped_provider(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [says(500)]})
    t.full = {"b"}
    assert (await t.fails()).status == 500


# ── cooldowns ──


@pytest.mark.parametrize(
    ("play", "length_s"),
    [
        (says(429, "slow", wait("20")), 20.0),
        (says(429), 1.0),
        (says(503, "busy", wait("3")), 3.0),
        (says(401), 60.0),
        (says(402), 600.0),
        (says(429, "typo", wait("86400")), MAX_COOLDOWN_S),
        (says(500), 0.0),
        (DEAD, 0.0),
    ],
)
async def test_an_endpoint_cools_as_long_as_it_asked_or_the_table_says(talk: Make, play: Play, length_s: float) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [play], "b": [GOOD]})
    await t.attempts.run()
    assert t.health.cooling("a", START_S) == (START_S + length_s if length_s else 0.0)
    assert t.health.cooling("b", START_S) == 0.0


# ── streams ──


async def test_events_that_a_failed_stream_left_out_are_counted(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [streams(*[event("{no json")] * 3)]}, stream=True)
    assert (await t.fails()).kind is ErrorKind.STREAM_ERROR
    assert t.script.malformed == [("a/x", 3)]


# ── secrets ──


@pytest.mark.parametrize("status", [400, 401, 402, 429, 500])
async def test_no_credential_that_an_upstream_quotes_gets_out(talk: Make, status: int) -> None:
    known = graph(route("m", "a/x"), providers=(provider("a", auth=Auth(secret=Secret("sk-hidden"))),))
    t = talk(known.routes["m"], {"a": [says(status, "Incorrect API key: sk-hidden")]}, known=known)
    last = await t.fails()
    assert "sk-hidden" not in last.message + t.attempts.records[0].message + str(last)
    assert b"sk-hidden" not in (last.body or b"")


# ── what is held is given back ──


@pytest.mark.parametrize("play", [DEAD, says(500), says(400), says(401), whole(200, b"")])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_attempt_holds_nothing(talk: Make, play: Play, stream: bool) -> None:
    t = talk(route("m", "a/x"), {"a": [play]}, stream=stream)
    await t.fails()
    assert len(t.leases) == 1
    assert t.nothing_is_held()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancel_closes_the_upstream_and_holds_nothing(talk: Make, stream: bool) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [None], "b": [GOOD]}, stream=stream)
    running = asyncio.create_task(t.attempts.run())
    await turns()
    assert t.health.inflight("a") == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert t.script.exchanges[0].calls == ["abort"]
    assert (t.script.asked, t.script.results) == (["a"], [("a/x", "caller_gone")])
    assert t.nothing_is_held()
    t.clock.advance(1.0)
    assert t.clock.armed == 0


async def test_a_cancel_by_routerd_is_not_told_as_a_client_that_left(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [None]})
    running = asyncio.create_task(t.attempts.run())
    await turns()
    t.attempts.stopped = True
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert t.script.results == [("a/x", "router_internal")]


async def test_a_request_that_a_targets_parameters_refuse_holds_nothing(talk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise BadRequest("temperature must be a number", param="temperature")

    monkeypatch.setattr("routerd.attempt.speech.apply_params", refuse)
    t = talk(route("m", target("a/x", params=Params(force={"n": 1})), "b/y"), {"a": [GOOD], "b": [GOOD]})
    with pytest.raises(RequestError):
        await t.attempts.run()
    assert (t.script.asked, t.attempts.records[0].result) == ([], "caller_bad_request")
    assert t.nothing_is_held()


async def test_what_one_dialect_cannot_say_goes_to_the_next_target(talk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = OpenAIDialect.encode

    def mute(self: OpenAIDialect, body: Any, call: Any) -> Any:
        if call.model == "x":
            raise BadRequest("images must be data URIs here", param="messages")
        return encode(self, body, call)

    monkeypatch.setattr(OpenAIDialect, "encode", mute)
    t = talk(route("m", "a/x", "b/y"), {"a": [GOOD], "b": [GOOD]})
    assert text_of(await t.attempts.run()) == "Hi"
    assert (t.script.asked, [r.result for r in t.attempts.records]) == (["b"], ["caller_bad_request", "ok"])
    alone = talk(route("m", "a/x"), {"a": [GOOD]})
    with pytest.raises(BadRequest, match="data URIs"):
        await alone.attempts.run()
    assert alone.nothing_is_held()


@pytest.mark.parametrize(("tokens", "calls"), [(14, [14]), (None, [RESERVED])])
async def test_a_good_answer_keeps_its_lease_until_finish(talk: Make, tokens: int | None, calls: list[Any]) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [says(500)], "b": [GOOD]})
    answer = await t.attempts.run()
    assert [lease.calls for lease in t.leases] == [[0], []]
    assert (t.health.inflight("a"), t.health.inflight("b")) == (0, 1)
    t.attempts.finish(answer, Usage(input_tokens=4, output_tokens=tokens - 4) if tokens is not None else None)
    assert t.leases[1].calls == calls
    assert t.health.inflight("b") == 0


async def test_a_reservation_that_waits_is_waited_for(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [GOOD]})
    t.waits = True
    answer = await t.attempts.run()
    assert answer.lease is t.leases[0].lease


# ── streams ──


async def test_a_stream_fails_over_until_the_first_content(talk: Make) -> None:
    role, hi, stop = event(delta("", role="assistant")), event(delta("Hi")), event(delta(finish="stop"))
    plays = {"a": [streams(role)], "b": [streams(event({"error": {"message": "full", "code": 503}}))], "c": [says(529)]}
    t = talk(route("m", "a/x", "b/y", "c/z", "d/w"), {**plays, "d": [streams(role, hi, stop, DONE)]}, stream=True)
    answer = await t.attempts.run()
    assert (t.script.asked, answer.planned.endpoint.name) == (["a", "b", "c", "d"], "d")
    assert answer.relay is not None
    assert answer.relay.scan.content
    assert [r.result for r in t.attempts.records][-1] == "ok"
    assert json.loads(t.script.exchanges[0].sent)["stream_options"] == {"include_usage": True}


async def test_a_refused_stream_is_classified_as_its_status_says(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [says(429, "slow", wait("9"))]}, stream=True)
    last = await t.fails()
    assert (last.kind, last.status, last.retry_after_s) == (ErrorKind.RATE_LIMITED, 429, 9.0)
    assert t.script.exchanges[0].calls == []  # it was over: its connection may carry another's


# ── models that are being loaded ──

COLD = says(400, "the model is cold")


def warming(**more: Any) -> Graph:
    """A provider whose models have to be loaded, and one beside it."""
    slowly = Backoff(first_s=5.0, factor=1.5, max_s=30.0, jitter_ratio=0.0)
    cold = ColdStart(when=(ColdRule(status=400, body="cold"),), backoff=slowly, **more)
    return graph(providers=(provider("a", cold_start=cold), provider("b")))


async def test_a_cold_model_is_tried_again_by_its_own_schedule_until_it_is_warm(talk: Make) -> None:
    t = talk(route("m", "a/x", failover=Failover(max_attempts=1)), {"a": [COLD] * 7 + [GOOD]}, known=warming())
    assert (await t.attempts.run()).planned.endpoint.name == "a"
    assert t.slept == [5.0, 7.5, 11.25, 16.875, 25.3125, 30.0, 30.0]
    assert {(record.reason, record.result) for record in t.attempts.records[:-1]} == {("cold", "upstream_cold")}


async def test_a_cold_model_is_no_fault_of_its_endpoint(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [says(400, "cold", wait("3")), GOOD]}, known=warming())
    await t.attempts.run()
    assert t.slept == [3.0]
    assert not t.health.cooling("a", t.clock.now_s)


async def test_a_model_that_stays_cold_ends_with_when_to_come_back(talk: Make) -> None:
    t = talk(route("m", "a/x"), {"a": [COLD] * 3}, known=warming(attempts=3))
    last = await t.fails()
    assert (last.kind, last.retry_after_s) == (ErrorKind.COLD, 11.25)
    assert t.slept == [5.0, 7.5]
    assert t.nothing_is_held()


async def test_nobody_waits_for_a_cold_model_while_another_target_can_answer(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [COLD], "b": [GOOD]}, known=warming())
    assert (await t.attempts.run()).planned.endpoint.name == "b"
    assert t.slept == []


async def test_a_client_waits_as_long_as_fail_over_after_allows_and_no_longer(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [COLD] * 3, "b": [GOOD]}, known=warming(fail_over_after_s=15.0))
    assert (await t.attempts.run()).planned.endpoint.name == "b"
    assert t.script.asked == ["a", "a", "a", "b"]
    assert t.slept == [5.0, 7.5]


async def test_a_cold_model_is_asked_again_when_the_others_have_failed(talk: Make) -> None:
    t = talk(route("m", "a/x", "b/y"), {"a": [COLD, GOOD], "b": [says(500)]}, known=warming())
    assert (await t.attempts.run()).planned.endpoint.name == "a"
    assert t.script.asked == ["a", "b", "a"]


async def test_tries_at_a_cold_model_are_not_among_the_attempts(talk: Make) -> None:
    asked = route("m", "a/x", "b/y", failover=Failover(max_attempts=2))
    t = talk(asked, {"a": [COLD] * 4, "b": [GOOD]}, known=warming(attempts=4, fail_over_after_s=99.0))
    assert (await t.attempts.run()).planned.endpoint.name == "b"
    assert t.script.asked == ["a", "a", "a", "a", "b"]


async def test_where_failover_does_not_name_cold_only_that_target_is_waited_for(talk: Make) -> None:
    asked = route("m", "a/x", "b/y", failover=Failover(on=frozenset({"connect"})))
    t = talk(asked, {"a": [COLD] * 2, "b": [GOOD]}, known=warming(attempts=2))
    assert (await t.fails()).kind is ErrorKind.COLD
    assert t.script.asked == ["a", "a"]


async def test_no_wait_for_a_cold_model_passes_the_deadline(talk: Make) -> None:
    t = talk(route("m", "a/x", failover=Failover(deadline_s=10.0)), {"a": [COLD] * 9}, known=warming())
    assert (await t.fails()).kind is ErrorKind.COLD
    assert t.slept == [5.0]


async def test_an_error_event_in_front_of_a_stream_can_say_cold(talk: Make) -> None:
    cold = streams(event({"error": {"message": "the model is cold", "code": "no_executor"}}))
    good = streams(event(delta("Hi")), event(delta(finish="stop")), DONE)
    t = talk(route("m", "a/x"), {"a": [cold, good]}, known=warming(), stream=True)
    assert (await t.attempts.run()).planned.endpoint.name == "a"
    assert t.slept == [5.0]


# ── a prompt that is too long ──

TOO_LONG = says(400, "This model's maximum context length is 8192 tokens")


def overflowing(*overflow: str, **more: Any) -> Route:
    return route("m", "a/x", "b/y", overflow=route("o", *overflow).chain, **more)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_goes_to_the_chain_for_that(talk: Make, stream: bool) -> None:
    good = streams(event(delta("Hi")), event(delta(finish="stop")), DONE) if stream else GOOD
    t = talk(overflowing("long/z"), {"a": [TOO_LONG], "long": [good]}, stream=stream)
    answer = await t.attempts.run()
    assert (answer.planned.endpoint.name, answer.planned.index) == ("long", 2)
    assert t.script.asked == ["a", "long"]
    assert t.script.failovers == [("a/x", "long/z", "context_length")]
    assert t.health.standing("a", t.clock.now_s) is None


async def test_too_long_for_that_chain_too_is_the_clients_error(talk: Make) -> None:
    t = talk(overflowing("long/z", "b/y"), {"a": [TOO_LONG], "long": [TOO_LONG]})
    assert (await t.fails()).kind is ErrorKind.CONTEXT_LENGTH
    assert t.script.asked == ["a", "long"]
    assert t.nothing_is_held()


async def test_that_chain_fails_over_and_its_failure_is_told(talk: Make) -> None:
    t = talk(overflowing("long/z", "longer/z"), {"a": [TOO_LONG], "long": [DEAD], "longer": [says(503)]})
    assert (await t.fails()).status == 503
    assert t.script.asked == ["a", "long", "longer"]


async def test_that_chain_is_within_the_attempts_and_the_deadline_of_the_request(talk: Make) -> None:
    t = talk(overflowing("long/z", failover=Failover(max_attempts=1)), {"a": [TOO_LONG]})
    assert (await t.fails()).kind is ErrorKind.CONTEXT_LENGTH
    two = talk(overflowing("long/z", failover=Failover(max_attempts=2)), {"a": [DEAD], "b": [TOO_LONG]})
    assert (await two.fails()).kind is ErrorKind.CONTEXT_LENGTH
    assert two.script.asked == ["a", "b"]


async def test_retries_of_the_others_are_forgotten(talk: Make) -> None:
    asked = overflowing("long/z", retry=Retry(attempts=2, backoff=STEADY))
    t = talk(asked, {"a": [says(503)], "b": [TOO_LONG], "long": [says(404)]})
    assert (await t.fails()).kind is ErrorKind.MODEL_MISSING
    assert t.script.asked == ["a", "b", "long"]
    assert t.slept == []


# ── who is to blame ──


async def test_time_that_others_used_up_is_no_fault_of_the_last_endpoint(talk: Make) -> None:
    late = broken(lambda: UpstreamError(ErrorKind.TIMEOUT, "the deadline has passed", delivery=Delivery.MAYBE_PROCESSED))
    t = talk(route("m", "a/x", "b/y", failover=Failover(deadline_s=10.0)), {"a": [late], "b": [late]})

    def slowly(play: Callable[[Sink], None], length_s: float) -> Callable[[Sink], None]:
        def run(sink: Sink) -> None:
            t.clock.advance(length_s)
            play(sink)

        return run

    t.script.plays = {"a": [slowly(late, 9.0)], "b": [slowly(late, 1.0)]}
    assert (await t.fails()).kind is ErrorKind.TIMEOUT
    now_s = t.clock.now_s
    counted = {name: state.outcomes(now_s) for name, state in t.health.items()}
    assert counted["a"] == (1, 1)
    assert counted["b"] == (0, 0)
