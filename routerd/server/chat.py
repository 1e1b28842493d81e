"""A model request from head to end: chat completions, embeddings and whatever else `operations` names.

The order: client -> body -> route -> permission -> budgets -> edits -> attempts -> answer. Whatever happens, once: the
generation's count goes down, leases are given back, the outcome is counted, the access record is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec
from aiohttp import web

from routerd.attempt import Answer, Attempts, Ended, Lane, Passing
from routerd.errors import (
    AttemptsExhausted,
    ErrorKind,
    ErrorType,
    Forbidden,
    ModelNotFound,
    NoTarget,
    NotFound,
    RequestError,
    ShuttingDown,
)
from routerd.graph import Client, Graph, Provider
from routerd.ledger import Entry
from routerd.messages import ModelRequest, Usage
from routerd.observe import AccessRecord
from routerd.plan import SESSION, Planned, Resolved, RoutePlan, affinity_key
from routerd.policy import NOTHING, Lease, allowed, cost_nano_usd, estimate, spent
from routerd.server.budget.limits import limit_lines
from routerd.server.generation import Generation
from routerd.server.http.intake import key_of, read_json_body
from routerd.server.http.protocol import ClientProtocol, ClientStream, Reply
from routerd.server.http.render import EVENT_STREAM_FIELDS, JSON_FIELD, attempts_text, error_reply, exhausted_reply, safe
from routerd.server.operations import Operation
from routerd.server.shared import Shared
from routerd.server.tally import Tally
from routerd.server.used import guessed, used_by_answer, used_by_stream
from routerd.wire.openai.body import max_tokens_of, parse_request, prepare_body, take_provider

__all__ = ["ANONYMOUS", "ModelCall", "open_provider"]

OTHER = "_other"  # the label of whatever the configuration does not name
ANONYMOUS = "_anonymous"
NO_TARGET_RETRY_S = 30.0  # an operator's drain lasts minutes; a client that asks twice a minute is told soon enough


def open_provider(graph: Graph, name: str) -> Provider:
    """Return the provider that a path names. Raises NotFound where there is none that clients may address."""
    provider = graph.providers.get(name)
    if provider is None or not provider.direct:
        raise NotFound(f"There is no provider {name[:80]!r} that requests may be passed to; `direct: true` opens one.")
    return provider


def name_provider(request: ModelRequest, graph: Graph) -> None:
    """Let `"provider": "x"` mean what the model name `x/...` does. Raises ModelNotFound for one that clients may not address."""
    name = take_provider(request)
    if name is None:
        return
    provider = graph.providers.get(name)
    if provider is None or not provider.direct:
        message = f"There is no provider {name[:80]!r} that requests may name; `direct: true` opens one."
        raise ModelNotFound(message, code="provider_not_found", param="provider")
    request.model = f"{name}/{request.model}"


_OWN_FIELDS = ("anthropic-beta",)
_make = tuple.__new__  # a NamedTuple without its slow way in
_SILENT, _UNUSED = Usage(estimated=True), Usage()  # an answer whose engine says no tokens; no answer
_NO_TOKENS = frozenset({"file", "passage"})
_REJECTED = frozenset({ErrorType.POLICY_BUDGET, ErrorType.POLICY_FORBIDDEN})
_CLIENTS_FAULT = frozenset({ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_LENGTH})
_FAILED = frozenset({"upstream_error", "truncated"})


class ModelCall:
    """One request. `fields` are the header lines that every answer to it carries (request id, CORS)."""

    __slots__ = (
        "_answered_at_s",
        "_at_provider",
        "_attempts",
        "_client",
        "_client_dialect",
        "_dropped",
        "_error_type",
        "_fields",
        "_generation",
        "_lane",
        "_lease",
        "_operation",
        "_outcome",
        "_path",
        "_planned",
        "_queue_s",
        "_request",
        "_request_id",
        "_said",
        "_sent_bytes",
        "_shared",
        "_started_s",
        "_started_unix_s",
        "_status",
        "_stopped",
        "_tally",
        "_task",
        "_trace",
        "_ttft_s",
        "_usage",
        "_used",
        "_wire",
    )

    def __init__(
        self, shared: Shared, generation: Generation, request: web.BaseRequest, operation: Operation, provider: str = ""
    ) -> None:
        self._shared = shared
        self._generation = generation
        self._request = request
        self._at_provider = provider  # the one that the path names; empty: the model decides
        self._operation, self._path, speaks = operation
        self._client_dialect = speaks() if speaks is not None else None
        self._started_s = time.monotonic()
        self._started_unix_s = time.time()
        self._fields = ""
        self._request_id = ""
        self._client: Client | None = None
        self._trace = shared.context(request.headers)
        self._wire: ModelRequest | None = None
        self._lane: Lane | None = None
        self._lease: Lease | None = None
        self._attempts: Attempts | None = None
        self._planned: Planned | None = None
        self._tally: Tally | None = None
        self._dropped: tuple[str, ...] = ()  # parameters that the target has no word for
        self._said = ""  # the attempts, in words
        self._usage: Usage | None = None  # as the engine said it
        self._used: Usage | None = None  # the same, or an estimate: what is charged
        self._outcome = "ok"
        self._error_type = ""
        self._status = 200
        self._sent_bytes = 0
        self._ttft_s: float | None = None
        self._answered_at_s = 0.0
        self._queue_s: float | None = None  # what it waited for its budgets; None: it did not
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False  # by routerd, not by the client

    async def run(self, request_id: str, fields: str) -> web.StreamResponse:
        """Serve the request; every failure becomes an answer in OpenAI's shape. A cancel means that the client has gone."""
        self._request_id = request_id
        self._fields = fields
        generation = self._generation
        generation.inflight += 1
        self._task = asyncio.current_task(self._shared.loop)  # without it, the loop is found by a system call (3.11)
        self._shared.calls.add(self)
        try:
            return await self._serve()
        except RequestError as exc:
            rejected = exc.error_type in _REJECTED or exc.status >= 500
            self._failed(exc.status, exc.error_type, "rejected" if rejected else "client_error")
            return self._refusal(error_reply(exc, self._all_fields()))
        except AttemptsExhausted as exc:
            reply = exhausted_reply(exc, self._all_fields())
            clients_fault = exc.last.kind in _CLIENTS_FAULT or reply.status == 404
            self._failed(reply.status, exc.last.error_type, "client_error" if clients_fault else "upstream_error")
            return self._refusal(reply)
        except asyncio.CancelledError:
            if self._stopped and self._task is not None and self._task.uncancel() == 0:  # not the client's cancel as well
                return self._stopped_reply()
            self._failed(499, ErrorType.CALLER_GONE, "client_gone")
            raise
        except Exception:
            self._failed(500, ErrorType.ROUTER_INTERNAL, "upstream_error")
            raise
        finally:
            self._shared.calls.discard(self)
            generation.inflight -= 1
            self._settle()
            self._account()

    def interrupt(self) -> None:
        """Answer that routerd shuts down, unless a stream has begun: its relay ends that."""
        if self._ttft_s is None and self._task is not None:
            self._stopped = True
            if self._attempts is not None:
                self._attempts.stopped = True
            self._task.cancel()

    def _stopped_reply(self) -> web.StreamResponse:
        error = ShuttingDown("routerd is shutting down and could not wait for this answer.", retry_after_s=1.0)
        self._failed(error.status, error.error_type, "rejected")
        reply = error_reply(error, self._all_fields())
        reply.keep_alive = False
        return self._reply(reply)

    async def _serve(self) -> web.StreamResponse:
        generation = self._generation
        client = self._client = generation.clients.authenticate(key_of(self._request))
        raw = await read_json_body(self._request, generation.graph.limits.request_body_bytes)
        request = self._wire = self._parsed(raw)
        request.request_id = self._request_id
        request.arrived_at_s = self._started_s
        request.trace = self._trace
        request.client = client.name if client is not None else ""
        if "provider" in request.body:
            name_provider(request, generation.graph)
        resolved = self._resolve(request.model)
        route = resolved.route
        body = prepare_body(request, system_prompt=route.system_prompt, params=route.params)
        attempts = await self._admitted(resolved, request, body)
        answer = await attempts.run()
        self._answered_at_s = time.monotonic()
        self._planned = answer.planned
        self._dropped = answer.dropped
        self._tally = generation.tally(
            self._operation, route.name, client.name if client is not None else ANONYMOUS, answer.planned
        )
        if answer.relay is not None:
            return await self._stream(attempts, answer)
        return self._unary(attempts, answer)

    def _parsed(self, raw: bytes) -> ModelRequest:
        if self._client_dialect is None:
            return parse_request(raw, self._operation, self._path)
        request = self._client_dialect.parse(raw, self._operation, self._path)
        # What belongs to the client's own dialect, for a target that speaks it too.
        request.headers = {name: safe(self._request.headers[name]) for name in _OWN_FIELDS if name in self._request.headers}
        return request

    async def _admitted(
        self, resolved: Resolved, request: ModelRequest, body: Mapping[str, Any], passing: Passing | None = None
    ) -> Attempts:
        """Ask whether this client may, take its budgets, and return the attempts, ready to run."""
        generation, client, route = self._generation, self._client, resolved.route
        if client is not None and not allowed(client, self._asked_name(request.model), route.name):
            raise Forbidden(f"This key may not use the model '{request.model}'.", param="model")
        lane = self._lane = generation.lane(route)
        lease, now_s = self._reserve(lane, request, body), time.monotonic()
        waited_s = 0.0
        if lease is not None and not isinstance(lease, Lease):
            try:
                lease = await lease
            finally:
                waited_s = self._queue_s = time.monotonic() - now_s
        self._lease = lease
        attempts = self._attempts = Attempts(
            lane=lane,
            request=request,
            body=body,
            plan=self._planned_for(lane, resolved.captured, now_s + waited_s),
            health=generation.health,
            rng=self._shared.rng,
            reserve=self._reserve_at_provider if generation.has_provider_budgets else None,
            response_limit_bytes=generation.graph.limits.response_body_bytes,
            now=time.monotonic,
            now_unix=time.time,
            client_dialect=self._client_dialect,
            passing=passing,
            overflow=partial(self._overflow, lane, resolved.captured) if lane.plan.overflow is not None else None,
            timed=lane.plan.needs_latency,
        )
        self._shared.before_upstream.observe(time.monotonic() - self._started_s - waited_s)
        return attempts

    def _planned_for(self, lane: Lane, captured: tuple[str, ...], now_s: float) -> Sequence[Planned]:
        """Return the targets in the order to try them. Raises NoTarget when not one is left."""
        plan = lane.plan
        asked, key = self._asked_for(plan)
        planned = plan.order(captured, self._generation.health, self._shared.rng, now_s, asked, key)
        if not planned:
            why = "drained" if plan.entries else "disabled"
            raise NoTarget(f"Every target of the model '{lane.route.name}' is {why}.", retry_after_s=NO_TARGET_RETRY_S)
        return planned

    def _overflow(self, lane: Lane, captured: tuple[str, ...]) -> Sequence[Planned]:
        """Return the targets for a prompt that is too long for the others, in the order to try them."""
        asked, key = self._asked_for(lane.plan)
        now_s = time.monotonic()
        return lane.plan.order_overflow(captured, self._generation.health, self._shared.rng, now_s, asked, key)

    def _asked_for(self, plan: RoutePlan) -> tuple[str, int]:
        """Return the operation that a target must offer, and the key of what belongs together."""
        key = 0
        if plan.needs_key and self._wire is not None:
            key = affinity_key(self._request.headers.get(SESSION), self._wire.body)
        # What is below /providers/{provider}/ is that provider's business: whatever it offers.
        return self._operation if self._operation != "passage" else "", key

    def _resolve(self, model: str) -> Resolved:
        """Find the route: by the model's name, or at the provider that the path names."""
        client, resolver = self._client, self._generation.resolver
        if not self._at_provider:
            return resolver.resolve(model, None if client is None else lambda name: allowed(client, name))
        return resolver.direct(open_provider(self._generation.graph, self._at_provider), model)

    def _asked_name(self, model: str) -> str:
        """Return what a client's list of models is asked about: `provider/model` where the path names the provider."""
        return f"{self._at_provider}/{model}" if self._at_provider else model

    def _unary(self, attempts: Attempts, answer: Answer) -> web.StreamResponse:
        assert answer.decoded is not None
        used = self._usage = answer.decoded.usage
        if used is None and self._wire is not None and self._charges():
            used = used_by_answer(None, self._wire.size_bytes, answer.body)
        self._used = used
        attempts.finish(answer, used)
        return self._reply(Reply(200, self._all_fields() + JSON_FIELD, answer.body))

    async def _stream(self, attempts: Attempts, answer: Answer) -> web.StreamResponse:
        relay = answer.relay
        assert relay is not None
        self._ttft_s = self._answered_at_s - self._started_s
        protocol = cast(ClientProtocol, self._request.protocol)
        text, ended = None, None
        try:
            stream = ClientStream(self._request, self._all_fields() + EVENT_STREAM_FIELDS)
            protocol.feed(relay)
            self._shared.streams.add(relay)
            await protocol.taken(answer.planned.target.timeouts.idle_s)
            text = relay.commit(stream, attempts.lane.wire(answer.planned), count=self._charges())
            ended = await relay.finished
        except BaseException:
            relay.stop()
            self._shared.metrics.counter(
                "routerd_stream_interruptions_total", answer.planned.target.label, Ended.CLIENT_STALLED.value
            ).inc()
            raise
        finally:
            protocol.feeder = None
            self._shared.streams.discard(relay)
            self._usage = relay.scan.usage
            used = used_by_stream(self._usage, attempts.request.size_bytes, text, ended is Ended.OK)
            if used is None and self._charges():  # the client has gone before anything was sent
                used = guessed(attempts.request.size_bytes, 0)
            self._used = used
            if relay.scan.malformed:
                attempts.count_malformed(answer.planned.target.label, relay.scan.malformed)
            self._sent_bytes = relay.sent_bytes
            attempts.upstream_s = time.monotonic() - self._started_s
            attempts.finish(answer, used)
        if ended is not Ended.OK:
            self._interrupted(answer.planned, ended)
        if ended is Ended.CLIENT_STALLED and self._request.transport is not None:
            self._request.transport.abort()
        return stream.finished()

    def _charges(self) -> bool:
        """Whether somebody wants to know what the answer used even where its engine does not say."""
        lease = self._lease
        return (
            self._shared.ledger is not None
            or (lease is not None and bool(lease.bill.settled))
            or self._generation.has_provider_budgets
        )

    def _interrupted(self, planned: Planned, ended: Ended) -> None:
        gone = ended is Ended.CLIENT_STALLED
        self._outcome = "client_gone" if gone else "truncated"
        kinds = {Ended.CLIENT_STALLED: ErrorType.CALLER_GONE, Ended.ERROR_EVENT: ErrorType.UPSTREAM_STREAM_ERROR}
        self._error_type = str(kinds.get(ended, ErrorType.UPSTREAM_STREAM_CUT))
        self._shared.metrics.counter("routerd_stream_interruptions_total", planned.target.label, ended.value).inc()

    def _reserve(self, lane: Lane, request: ModelRequest, body: Mapping[str, Any]) -> Lease | Awaitable[Lease] | None:
        """Take what the request is charged before a target is chosen; None: nothing."""
        bill = self._generation.bill(self._client, lane.route, request.model)
        if not bill:
            return None
        need = NOTHING
        if bill.fixed is None:
            need = estimate(request.size_bytes, max_tokens_of(body), self._generation.dearest(lane))
        deadline_s = lane.route.failover.deadline_s
        deadline_at_s = self._started_s + deadline_s if deadline_s is not None else float("inf")
        return self._shared.admission.reserve(bill, need, deadline_at_s)

    def _reserve_at_provider(self, planned: Planned, deadline_at_s: float) -> Lease | Awaitable[Lease] | None:
        assert self._wire is not None and self._attempts is not None and self._lane is not None
        bill = self._generation.provider_bill(planned, self._client, self._lane.route)
        if not bill:
            return None
        need = estimate(self._wire.size_bytes, max_tokens_of(self._attempts.body), planned.target.price)
        return self._shared.admission.reserve(bill, need, deadline_at_s)

    def _all_fields(self) -> str:
        """Return the header lines of this answer: those of every answer, and what routerd did."""
        generation, lane, planned = self._generation, self._lane, self._planned
        if not generation.graph.response_headers:
            return self._fields
        if self._tally is not None and self._tally.fields:
            fields = self._tally.fields
        else:
            fields = generation.fields(lane.route.name if lane is not None else "", planned)
        if self._lease is not None and self._lease.bill.told:
            fields += limit_lines(self._lease.bill, self._lease.taken)
        if self._attempts is not None and self._attempts.records:
            fields += f"x-routerd-attempts: {self._attempts_text()}\r\n"
        if self._dropped:
            fields += f"x-routerd-dropped: {safe(','.join(self._dropped))}\r\n"
        return self._fields + fields

    def _attempts_text(self) -> str:
        if not self._said and self._attempts is not None:
            self._said = safe(attempts_text(self._attempts.records))
        return self._said

    def _refusal(self, reply: Reply) -> web.StreamResponse:
        """Answer with an error, in the client's own words."""
        if self._client_dialect is not None:
            error = msgspec.json.decode(reply.body)["error"]
            reply.body = self._client_dialect.error(reply.status, error, self._request_id)
        return self._reply(reply)

    def _reply(self, reply: Reply) -> web.StreamResponse:
        self._sent_bytes = len(reply.body)
        return cast(web.StreamResponse, reply)

    def _failed(self, status: int, error_type: ErrorType, outcome: str) -> None:
        self._status = status
        self._error_type = str(error_type)
        self._outcome = outcome

    def _settle(self) -> None:
        """Give the request's own lease back: what was used where that is known, nothing where nothing was answered.

        A client that left while an engine worked for it has used its prompt.
        """
        attempts, planned = self._attempts, self._planned
        if planned is None and attempts is not None and attempts.records and attempts.records[-1].result == ErrorType.CALLER_GONE:
            planned = attempts.at
            if attempts.passing is None and self._charges():
                self._used = guessed(attempts.request.size_bytes, 0)
        lease = self._lease
        if lease is None:
            return
        now_s = time.monotonic()
        if self._used is not None and planned is not None:
            lease.settle(spent(self._used, planned.target.price), now_s)
        elif self._planned is None or lease.bill.credited:  # credits are charged what the ledger says
            lease.settle(NOTHING, now_s)
        lease.release(now_s)

    def _account(self) -> None:
        """Count the request and write its access record."""
        ended_s = time.monotonic()
        shared, lane, tally = self._shared, self._lane, self._tally
        duration_s = ended_s - self._started_s
        if tally is not None and self._attempts is not None:
            shared.after_upstream.observe(max(0.0, duration_s - self._attempts.upstream_s))
            if self._usage is not None:
                tally.tokens(self._usage)
            if self._ttft_s is not None:
                tally.streamed(self._ttft_s, ended_s - self._answered_at_s, self._usage)
        if tally is not None and self._outcome == "ok":
            tally.ok(duration_s)
            self._generation.ended += 1
        else:
            self._count_failure(duration_s)
        if shared.ledger is not None and (self._client is not None or self._generation.graph.clients is None):
            shared.ledger(self._entry(duration_s))  # without a key that fits it is nobody's
        if shared.access is not None or shared.tracer is not None:
            record = self._record(lane.route.name if lane is not None else OTHER, ended_s)
            shared.told(record, self._trace, self._operation, self._attempts.records if self._attempts is not None else ())

    def _count_failure(self, duration_s: float) -> None:
        metrics, planned = self._shared.metrics, self._planned
        route = self._lane.route.name if self._lane is not None else OTHER
        client = self._client.name if self._client is not None else ANONYMOUS
        metrics.counter("routerd_requests_total", route, client, self._outcome).inc()
        if self._outcome in _FAILED:
            self._generation.ended += 1
            self._generation.failed += 1
        if self._attempts is not None:
            provider, model = (planned.provider.name, planned.target.model) if planned is not None else ("", "")
            metrics.histogram(
                "gen_ai_server_request_duration_seconds", self._operation, provider, route, model, self._error_type
            ).observe(duration_s)

    def _entry(self, duration_s: float) -> Entry:
        attempts, used = self._attempts, self._used
        planned = self._planned or (attempts.at if attempts is not None else None)
        provider = model = ""
        cost = 0
        if planned is not None:
            provider = planned.provider.name
            model = planned.model if self._planned is not None else planned.target.model  # an answer proves that a name is one
            if used is not None:
                cost = cost_nano_usd(used, planned.target.price)
        if used is None:
            used = _SILENT if self._planned is not None and self._operation not in _NO_TOKENS else _UNUSED
        return _make(
            Entry,
            (
                int(self._started_unix_s * 1000),
                self._request_id,
                self._client.name if self._client is not None else ANONYMOUS,
                self._lane.route.name if self._lane is not None else OTHER,
                provider,
                model,
                self._operation,
                self._outcome,
                self._status,
                self._error_type,
                int(self._wire is not None and self._wire.stream),
                len(attempts.records) if attempts is not None else 0,
                used.input_tokens,
                used.output_tokens,
                used.cached_tokens,
                used.reasoning_tokens,
                int(used.estimated),
                cost,
                int(duration_s * 1000),
            ),
        )

    def _record(self, route: str, ended_s: float) -> AccessRecord:
        wire, planned, attempts, usage = self._wire, self._planned, self._attempts, self._usage
        return AccessRecord(
            at_unix_s=self._started_unix_s,
            request_id=self._request_id,
            method=self._request.method,
            path=f"/v1/{self._path}",
            client=self._client.name if self._client is not None else "",
            route=route,
            model=wire.model if wire is not None else "",
            target=f"{planned.provider.name}/{planned.model}" if planned is not None else "",
            provider=planned.provider.name if planned is not None else "",
            attempts=self._attempts_text(),
            status=self._status,
            outcome=self._outcome,
            error_type=self._error_type,
            generation=self._generation.number,
            stream=wire.stream if wire is not None else False,
            input_tokens=usage.input_tokens if usage is not None else None,
            output_tokens=usage.output_tokens if usage is not None else None,
            duration_s=ended_s - self._started_s,
            queue_s=self._queue_s,
            upstream_s=attempts.upstream_s if attempts is not None else None,
            ttft_s=self._ttft_s,
            bytes_out=self._sent_bytes,
            remote=self._request.remote or "",
        )
