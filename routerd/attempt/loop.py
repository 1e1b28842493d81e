"""One request through one plan: the attempts, in order, until one answers or nothing is left.

Who is next after a failure is decided by `queue`. The attempts end when nobody is left, when the attempt budget or the deadline
is used up; a target whose `total` has passed is left out. Then the last error decides what the client sees; among several that
ask for time the shortest Retry-After is passed on.
An endpoint that asked for time, or whose rate limit a good answer used up, goes into cooldown for every request of all workers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from routerd.attempt.exchange import Cap, fetch, open_stream
from routerd.attempt.lane import Lane, Passing, Wire
from routerd.attempt.queue import Queue
from routerd.attempt.redaction import Redaction
from routerd.attempt.sink.passage import Passage, open_passage
from routerd.attempt.sink.pushed import Refused
from routerd.attempt.sink.relay import Relay
from routerd.attempt.speech import Inexpressible, Speech, say
from routerd.attempt.verdict import RULES
from routerd.errors import (
    ERROR_TYPE_OF_KIND,
    AttemptsExhausted,
    BudgetExceeded,
    Delivery,
    ErrorKind,
    ErrorType,
    NoTarget,
    RequestError,
    UpstreamError,
)
from routerd.health import View
from routerd.messages import AttemptRecord, ModelRequest, Usage, WireResponse
from routerd.plan import Planned
from routerd.policy import NOTHING, Lease, spent
from routerd.wire.client import ClientDialect
from routerd.wire.faults.classify import classify, fault_error
from routerd.wire.faults.ratelimit import Headers, used_up_s
from routerd.wire.openai.answer import UnaryAnswer

__all__ = ["Answer", "Attempts", "Reserve", "Setting"]

Once = Callable[[Planned, tuple[float, float]], Awaitable["Answer"]]

MAX_COOLDOWN_S = 3600.0  # what an upstream may ask for at most; a typing error in a header must not park an endpoint for a day


class Reserve(Protocol):
    """Takes the provider's own budgets for one attempt, or raises BudgetExceeded. None: there are none.

    Something to await: it has to wait, until `deadline_at_s` at most.
    """

    def __call__(self, planned: Planned, deadline_at_s: float, /) -> Lease | Awaitable[Lease] | None: ...


class Answer(msgspec.Struct):
    """What an attempt brought: a unary answer (`body` is for the client) or a relay that is ready to be committed."""

    planned: Planned
    body: bytes = b""
    decoded: UnaryAnswer | None = None
    dropped: tuple[str, ...] = ()  # parameters that the target has no word for
    relay: Relay | None = None
    passage: Passage | None = None
    lease: Lease | None = None
    started_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What the requests of one generation have in common. `now` is monotonic."""

    health: View
    rng: random.Random
    response_limit_bytes: int
    now: Callable[[], float] = time.monotonic
    now_unix: Callable[[], float] = time.time


class Attempts:
    """The attempts of one request. `body` is the request with the route's edits; `records` tells what happened, in order.

    `passing`: the request is passed on as it came, with this; `overflow`: the plan for a prompt that is too long.
    """

    __slots__ = (
        "_client_dialect", "_overflow", "_reserve", "_setting",
        "at", "body", "health", "lane", "passing", "plan", "records", "request", "stopped", "upstream_s",
    )  # fmt: skip

    def __init__(
        self,
        setting: Setting,
        lane: Lane,
        request: ModelRequest,
        body: Mapping[str, Any],
        plan: Sequence[Planned],
        *,
        client_dialect: ClientDialect | None = None,
        passing: Passing | None = None,
        reserve: Reserve | None = None,
        overflow: Callable[[], Sequence[Planned]] | None = None,
    ) -> None:
        self._setting = setting
        self.health = setting.health
        self.lane = lane
        self.request = request
        self.body = body
        self.plan = plan
        self._client_dialect = client_dialect
        self.passing = passing
        self._reserve = reserve
        self._overflow = overflow
        self.records: list[AttemptRecord] = []
        self.upstream_s = 0.0
        self.at: Planned | None = None  # the target that was tried last
        self.stopped = False  # a cancel is routerd's own doing, not the client's

    async def run(self) -> Answer:
        """Return the first good answer. Raises AttemptsExhausted, or RequestError where the request itself is at fault.

        The caller owns the endpoint's in-flight count and the lease of a streamed answer: `finish` gives both back.
        """
        route, now = self.lane.route, self._setting.now
        deadline_s, most = route.failover.deadline_s, route.failover.max_attempts
        deadline_at_s = self.request.arrived_at_s + deadline_s if deadline_s is not None else float("inf")
        deadline = (deadline_s or 0.0, deadline_at_s)
        queue = Queue(self.plan, route, self._setting.rng, self._overflow)
        last: UpstreamError | None = None
        refused: RequestError | None = None
        while len(self.records) - queue.uncounted < most and now() < deadline_at_s:
            entry = queue.next()
            if entry is None:
                break
            planned, at_s = entry
            if at_s:
                await asyncio.sleep(max(0.0, at_s - now()))
            until_s = self._until_s(planned, deadline_at_s)
            if now() >= until_s:  # its `total` has passed; another's may be longer
                continue
            if self.health.drained(planned.endpoint.name):  # since the plan was made
                refused = refused or NoTarget("Every target of the model is drained.", retry_after_s=1.0)
                continue
            lease: Lease | None = None
            if self._reserve is not None:
                try:
                    lease = await self._reserved(self._reserve, planned, deadline_at_s)
                except BudgetExceeded as exc:  # our own limit for this provider: as if it were not there
                    refused = exc
                    continue
            try:
                return await self._attempt(planned, lease, deadline)
            except Inexpressible as exc:
                refused = exc.refusal
            except UpstreamError as exc:
                last = _worth_telling(last, exc)
                goes_on = queue.failed(planned, exc, now(), until_s)
                lost = self.passing is not None and not self.passing.upload.replayable
                if lost or not goes_on:
                    raise AttemptsExhausted(self.records, exc) from exc
        raise self._nothing_left(last, refused)

    def _nothing_left(self, last: UpstreamError | None, refused: RequestError | None) -> AttemptsExhausted | RequestError:
        """Return what the client hears: the last failure of an upstream, else why none was asked."""
        if last is None:
            if refused is not None:
                return refused
            last = UpstreamError(
                ErrorKind.TIMEOUT if self.plan else ErrorKind.CONNECT,
                "the time for the answer was over before any attempt" if self.plan else "no target of this model can be used now",
                delivery=Delivery.NOT_SENT,
            )
        return AttemptsExhausted(self.records, last)

    async def _reserved(self, reserve: Reserve, planned: Planned, deadline_at_s: float) -> Lease | None:
        lease = reserve(planned, deadline_at_s)
        return lease if lease is None or isinstance(lease, Lease) else await lease

    def finish(self, answer: Answer, usage: Usage | None) -> None:
        """Give back what a good answer held, and count its attempt. `usage` None: not said, the reservation stands."""
        now_s, record = self._setting.now(), self.records[-1]
        endpoint = answer.planned.endpoint.name
        self.health.end(endpoint)
        sink = answer.relay or answer.passage
        if sink is not None and sink.broke:
            self.health.failed(endpoint, answer.started_s, now_s)
            ended = sink.finished.result()
            record.result, record.reason = str(ended.error_type), ended.value
            record.duration_s = now_s - answer.started_s
        else:
            self.health.succeeded(endpoint, answer.started_s, now_s)
        self.lane.count_attempt(record.target, record.result)
        if answer.lease is not None:
            answer.lease.close(spent(usage, answer.planned.target.price) if usage is not None else None, now_s)

    @property
    def client_dialect(self) -> ClientDialect | None:
        """How the client wants to be answered; None: in OpenAI's words."""
        return self._client_dialect

    def count_malformed(self, target: str, events: int) -> None:
        """Count events that a stream left out."""
        self.lane.count_malformed(target, events)

    async def _attempt(self, planned: Planned, lease: Lease | None, deadline: tuple[float, float]) -> Answer:
        """Try once. On any failure the lease and the in-flight count are given back before it is raised."""
        now, health, name = self._setting.now, self.health, planned.endpoint.name
        self.at = planned
        started_s = now()
        record = self._record(planned, started_s - self.request.arrived_at_s)
        health.begin(name)
        kept = False
        try:
            once = self._unary if not self.request.stream and self.passing is None else self._sunk
            if self.lane.wire(planned).tokens is not None:
                answer = await self._authorized(once, planned, deadline)
            else:
                answer = await once(planned, deadline)
            answer.lease = lease
            answer.started_s = started_s
            kept = True
            if self.lane.timed:
                health.timed(name, now() - started_s, now())
            record.result, record.status = "ok", 200
            return answer
        except UpstreamError as exc:
            self._failed(planned, record, exc, (started_s, self._until_s(planned, deadline[1])))
            raise
        except asyncio.CancelledError:
            record.result = str(ErrorType.ROUTER_INTERNAL if self.stopped else ErrorType.CALLER_GONE)
            raise
        except (RequestError, Inexpressible) as exc:
            refusal = exc.refusal if isinstance(exc, Inexpressible) else exc
            record.result = str(refusal.error_type)
            record.message = refusal.message
            raise
        finally:
            ended_s = now()
            record.duration_s = ended_s - started_s
            self.upstream_s += record.duration_s
            if not kept:
                self.lane.count_attempt(record.target, record.result)
                health.end(name)
                if lease is not None:
                    lease.close(NOTHING, ended_s)

    def _failed(self, planned: Planned, record: AttemptRecord, exc: UpstreamError, times: tuple[float, float]) -> None:
        """Tell the record and health of a failure, and make its words fit for clients. `times`: begun, and when it had to end."""
        exc.endpoint = planned.endpoint.name
        exc.named_by_client = planned.model != planned.target.model
        self._understand(planned, exc)
        record.result = str(exc.error_type)
        record.reason = str(exc.kind)
        record.status = exc.status
        record.message = exc.message
        self._blame(planned, exc, *times)

    def _record(self, planned: Planned, after_s: float) -> AttemptRecord:
        """Open the record of the next attempt, and count the step to it."""
        records = self.records
        record = AttemptRecord(
            number=len(records) + 1,
            target=planned.target.label,
            provider=planned.provider.name,
            endpoint=planned.endpoint.name,
            model=planned.model,
            result="router_internal",  # until it is known better
            after_s=after_s,
        )
        if records:
            before = records[-1]
            self.lane.count_failover(before.target, record.target, before.reason)
        records.append(record)
        return record

    async def _unary(self, planned: Planned, deadline: tuple[float, float]) -> Answer:
        wire = self.lane.wire(planned)
        total_s = planned.target.timeouts.total_s
        cap = self._cap(("total", self.request.arrived_at_s + total_s, total_s), deadline)
        speech = self._speech(wire, planned)
        response = await fetch(wire, speech.encoded, self.request.request_id, cap, self._setting.response_limit_bytes)
        if response.status != 200:
            raise self._refused(response)
        self._look_at_limits(planned, response.headers)
        body, decoded = speech.dialect.decode(response.body, speech.call)
        if decoded.error is not None:
            raise fault_error(decoded.error, response.status, response.body)
        self.records[-1].response_model = decoded.response_model
        if speech.client is not None:
            body = speech.client.answer(body, self.request)
        return Answer(planned, body=body, decoded=decoded, dropped=speech.encoded.dropped)

    async def _sunk(self, planned: Planned, deadline: tuple[float, float]) -> Answer:
        """Try what is answered piece by piece."""
        return await (self._stream(planned, deadline) if self.passing is None else self._pass(planned, deadline))

    async def _stream(self, planned: Planned, deadline: tuple[float, float]) -> Answer:
        wire = self.lane.wire(planned)
        cap = self._cap(("first_token", float("inf"), 0.0), deadline)
        speech = self._speech(wire, planned)
        try:
            relay = await open_stream(wire, speech, self, cap)
        except Refused as exc:
            raise self._refused(exc.response) from None
        self._look_at_limits(planned, relay.headers)
        return Answer(planned, relay=relay, dropped=speech.encoded.dropped)

    async def _authorized(self, once: Once, planned: Planned, deadline: tuple[float, float]) -> Answer:
        """Try with an access token. One that is refused may have been revoked: once more with a new one, as the same attempt."""
        wire = self.lane.wire(planned)
        connect_s = planned.target.timeouts.connect_s
        token = await wire.authorize("", min(connect_s, deadline[1] - self._setting.now()))
        try:
            return await once(planned, deadline)
        except UpstreamError as exc:
            if exc.status != 401 or (self.passing is not None and not self.passing.upload.replayable):
                raise
        await wire.authorize(token, min(connect_s, deadline[1] - self._setting.now()))
        return await once(planned, deadline)

    async def _pass(self, planned: Planned, deadline: tuple[float, float]) -> Answer:
        passing = self.passing
        assert passing is not None
        wire = self.lane.wire(planned)
        if wire.pool is None:
            raise UpstreamError(
                ErrorKind.MODEL_MISSING, f"the simulator has no {self.request.path}", delivery=Delivery.NOT_SENT, status=404
            )
        cap = self._cap(("total", float("inf"), 0.0), deadline)
        if self.request.trace is not None:
            passing.fields = {**passing.fields, **self.request.trace.fields(len(self.records))}
        try:
            passage = await open_passage(wire, passing, planned.model, self.request.request_id, cap)
        except Refused as exc:
            raise self._refused(exc.response) from None
        self._look_at_limits(planned, passage.headers)
        return Answer(planned, passage=passage)

    def _speech(self, wire: Wire, planned: Planned) -> Speech:
        speech = say(self, self.body, self.lane.route, wire, planned, self._setting.now_unix())
        if self.request.trace is not None:
            speech.encoded.fields = {**speech.encoded.fields, **self.request.trace.fields(len(self.records))}
        return speech

    def _cap(self, phase: Cap, deadline: tuple[float, float]) -> Cap:
        return phase if phase[1] <= deadline[1] else ("deadline", deadline[1], deadline[0])

    def _refused(self, response: WireResponse) -> UpstreamError:
        error = classify(response.status, response.headers, response.body, self._setting.now_unix()).as_error()
        own = self.passing is not None and not self.passing.operation  # method and path are the client's, and so is a mistake
        if own and response.status < 500 and RULES[error.kind].breaks:
            error.kind, error.error_type = ErrorKind.BAD_REQUEST, ERROR_TYPE_OF_KIND[ErrorKind.BAD_REQUEST]
        return error

    def _understand(self, planned: Planned, exc: UpstreamError) -> None:
        """Tell a model that is being loaded from a failure, and take out of the words what no client may read."""
        wire = self.lane.wire(planned)
        if wire.cold is not None:
            wire.cold.mark(exc)
        without_secrets(exc, wire.redaction)

    def _blame(self, planned: Planned, exc: UpstreamError, started_s: float, until_s: float) -> None:
        """Tell health of a failure: what the breaker counts, and how long the endpoint goes behind the others."""
        if exc.kind is ErrorKind.COLD and planned.provider.cold_start is not None:
            return  # a model that is being loaded is no fault of the endpoint
        rule, name, now_s = RULES[exc.kind], planned.endpoint.name, self._setting.now()
        # The request's time ran out while it answered, or those before it had used it up: that says nothing of this endpoint.
        late = exc.kind is ErrorKind.TIMEOUT and (exc.was_answering or (len(self.records) > 1 and now_s >= until_s))
        if rule.breaks and not late:
            self.health.failed(name, started_s, now_s)
        if self.lane.timed and exc.kind is ErrorKind.TIMEOUT and not late:
            self.health.timed(name, now_s - started_s, now_s)
        length_s = min(exc.retry_after_s or rule.cooldown_s, MAX_COOLDOWN_S)
        if length_s > 0 and not rule.gives_up:
            self.health.cool(name, now_s + length_s, exc.kind.value)

    def _look_at_limits(self, planned: Planned, headers: Headers) -> None:
        """Let an endpoint whose rate limit this good answer used up cool down until it is filled again."""
        length_s = used_up_s(headers, self._setting.now_unix())
        if length_s:
            self.health.cool(planned.endpoint.name, self._setting.now() + min(length_s, MAX_COOLDOWN_S), "used_up")

    def _until_s(self, planned: Planned, deadline_at_s: float) -> float:
        """Return when an attempt at this target must have ended: the deadline, or for a whole answer its `total`."""
        if self.request.stream:
            return deadline_at_s
        return min(deadline_at_s, self.request.arrived_at_s + planned.target.timeouts.total_s)


def without_secrets(error: UpstreamError, redaction: Redaction) -> None:
    """Take out of an upstream's words what no client may read: they may quote the credential that they refuse."""
    if error.kind in _OUR_ACCOUNT:
        error.message = _OUR_ACCOUNT[error.kind]
        error.body = None
    error.message = redaction.text(error.message)
    if error.body is not None:
        error.body = redaction.data(error.body)
    error.args = (error.message,)  # a traceback prints these


_OUR_ACCOUNT = {
    ErrorKind.AUTH: "the upstream refused routerd's credential",
    ErrorKind.CREDITS: "the upstream refused routerd's account: it is out of credit",
}


def _worth_telling(last: UpstreamError | None, new: UpstreamError) -> UpstreamError:
    """Of two failures, the one the client should hear of: the newer, but the shortest Retry-After of both."""
    if last is not None and last.retry_after_s is not None and new.retry_after_s is not None:
        new.retry_after_s = min(last.retry_after_s, new.retry_after_s)
    return new
