"""A model request from head to end: chat completions, embeddings and whatever else `operations` names.

The order: client -> body -> route and permission -> edits -> budgets -> attempts -> answer. Whatever happens, once: the
generation's count goes down, and the story of the request is closed (`story`): leases, metrics, ledger, access record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec
from aiohttp import web

from routerd.attempt import Answer, Attempts, Ended, Passing
from routerd.errors import (
    AttemptsExhausted,
    ErrorKind,
    ErrorType,
    ModelNotFound,
    NoTarget,
    NotFound,
    RequestError,
    ShuttingDown,
)
from routerd.graph import Graph, Provider
from routerd.messages import ModelRequest
from routerd.plan import SESSION, Planned, RoutePlan, affinity_key
from routerd.policy import NOTHING, Bill, Lease, estimate
from routerd.server.budget.admission import Wanted
from routerd.server.generation import Generation, Permit
from routerd.server.http.intake import client_of, json_body
from routerd.server.http.protocol import ClientProtocol, ClientStream, Reply
from routerd.server.http.render import EVENT_STREAM_FIELDS, JSON_FIELD, error_reply, exhausted_reply, safe
from routerd.server.operations import Operation
from routerd.server.shared import Shared
from routerd.server.story import Story
from routerd.server.used import guessed, used_by_answer, used_by_stream
from routerd.wire.openai.body import max_tokens_of, parse_request, prepare_body, take_provider

__all__ = ["ModelCall", "open_provider"]

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
_REJECTED = frozenset({ErrorType.POLICY_BUDGET, ErrorType.POLICY_FORBIDDEN})
_CLIENTS_FAULT = frozenset({ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_LENGTH})


class ModelCall(Story):
    """One request. `fields` are the header lines that every answer to it carries (request id, CORS)."""

    __slots__ = ("_at_provider", "_client_dialect", "_dropped", "_fields", "_stopped", "_task")

    def __init__(
        self, shared: Shared, generation: Generation, request: web.BaseRequest, operation: Operation, provider: str = ""
    ) -> None:
        super().__init__(shared, generation, request, operation)
        self._at_provider = provider  # the one that the path names; empty: the model decides
        speaks = operation.client_dialect
        self._client_dialect = speaks() if speaks is not None else None
        self._fields = ""
        self._dropped: tuple[str, ...] = ()  # parameters that the target has no word for
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
            self.close()

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
        client = self._client = client_of(self._request, generation.clients)
        raw = json_body(self._request, generation.graph.limits.request_body_bytes)
        request = self._wire = self._parsed(raw if isinstance(raw, bytes) else await raw)
        request.request_id = self._request_id
        request.arrived_at_s = self._started_s
        request.trace = self._trace
        request.client = client.name if client is not None else ""
        if "provider" in request.body:
            name_provider(request, generation.graph)
        permit = self._permit = self._permitted(request.model)
        route = permit.route
        body = prepare_body(request, system_prompt=route.system_prompt, params=route.params)
        answer = await (await self._admitted(permit, request, body)).run()
        self._answered_at_s = time.monotonic()
        self._planned = answer.planned
        self._dropped = answer.dropped
        self._tally = self._tally_of(answer.planned)
        if answer.relay is not None:
            return await self._stream(answer)
        return self._unary(answer)

    def _permitted(self, model: str) -> Permit:
        """Find the route, by the model's name or at the provider that the path names, and whether this client may."""
        generation, name = self._generation, self._at_provider
        if not name:
            return generation.permit(self._client, model)
        resolved = generation.resolver.direct(open_provider(generation.graph, name), model)
        return generation.permit_of(self._client, resolved, model, f"{name}/{model}")

    def _parsed(self, raw: bytes) -> ModelRequest:
        if self._client_dialect is None:
            return parse_request(raw, self._operation, self._path)
        request = self._client_dialect.parse(raw, self._operation, self._path)
        # What belongs to the client's own dialect, for a target that speaks it too.
        request.headers = {name: safe(self._request.headers[name]) for name in _OWN_FIELDS if name in self._request.headers}
        return request

    async def _admitted(
        self, permit: Permit, request: ModelRequest, body: Mapping[str, Any], passing: Passing | None = None
    ) -> Attempts:
        """Take the client's budgets and return the attempts, ready to run."""
        generation, lane, plan = self._generation, permit.lane, None
        if generation.has_provider_budgets and self._shared.admission.asks_a_server:
            plan = self._planned_for(permit, time.monotonic())
        lease = self._reserve(permit, request, body, plan)
        if lease is not None and not isinstance(lease, Lease):
            began_s = time.monotonic()
            try:
                lease = await lease
            finally:
                self._queue_s = time.monotonic() - began_s
        self._lease = lease
        now_s = time.monotonic()
        if plan is None or self._ahead is None:  # it may have waited
            plan = self._planned_for(permit, now_s)
        attempts = self._attempts = Attempts(
            generation.setting,
            lane,
            request,
            body,
            plan,
            client_dialect=self._client_dialect,
            passing=passing,
            reserve=self._reserve_at_provider if generation.has_provider_budgets else None,
            overflow=partial(self._planned_overflow, permit) if lane.plan.overflow is not None else None,
        )
        self._shared.before_upstream.observe(now_s - self._started_s - (self._queue_s or 0.0))
        return attempts

    def _planned_for(self, permit: Permit, now_s: float) -> Sequence[Planned]:
        """Return the targets in the order to try them. Raises NoTarget when not one is left."""
        plan, shared = permit.lane.plan, self._shared
        operation, key = self._asked_for(plan)
        planned = plan.order(permit.captured, self._generation.health, shared.rng, now_s, operation, key)
        if not planned:
            why = "drained" if plan.entries else "disabled"
            raise NoTarget(f"Every target of the model '{permit.route.name}' is {why}.", retry_after_s=NO_TARGET_RETRY_S)
        return planned

    def _planned_overflow(self, permit: Permit) -> Sequence[Planned]:
        """Return the targets for a prompt that is too long for the others, in the order to try them."""
        plan, shared = permit.lane.plan, self._shared
        operation, key = self._asked_for(plan)
        return plan.order(permit.captured, self._generation.health, shared.rng, time.monotonic(), operation, key, overflow=True)

    def _asked_for(self, plan: RoutePlan) -> tuple[str, int]:
        """Return the operation that a target must offer, and the key of what belongs together."""
        key = 0
        if plan.needs_key and self._wire is not None:
            key = affinity_key(self._request.headers.get(SESSION), self._wire.body)
        # What is below /providers/{provider}/ is that provider's business: whatever it offers.
        return self._operation if self._operation != "passage" else "", key

    def _unary(self, answer: Answer) -> web.StreamResponse:
        attempts = self._attempts
        assert attempts is not None and answer.decoded is not None
        used = self._usage = answer.decoded.usage
        if used is None and self._charges():
            used = used_by_answer(None, attempts.request.size_bytes, answer.body)
        self._used = used
        attempts.finish(answer, used)
        return self._reply(Reply(200, self._all_fields() + JSON_FIELD, answer.body))

    async def _stream(self, answer: Answer) -> web.StreamResponse:
        relay, attempts = answer.relay, self._attempts
        assert relay is not None and attempts is not None
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

    def _interrupted(self, planned: Planned, ended: Ended) -> None:
        gone = ended is Ended.CLIENT_STALLED
        self._outcome = "client_gone" if gone else "truncated"
        self._error_type = str(ended.error_type)
        self._said = ""  # of the attempts: as they are now
        self._shared.metrics.counter("routerd_stream_interruptions_total", planned.target.label, ended.value).inc()

    def _reserve(
        self, permit: Permit, request: ModelRequest, body: Mapping[str, Any], plan: Sequence[Planned] | None
    ) -> Lease | Awaitable[Lease] | None:
        """Take what the request is charged before it is sent on; None: nothing. `plan`: its first target is reserved, too."""
        bill = permit.bill
        if not bill.charges:
            return None
        need = estimate(request.size_bytes, max_tokens_of(body), permit.dearest) if bill.settled else NOTHING
        deadline_s = permit.route.failover.deadline_s
        deadline_at_s = self._started_s + deadline_s if deadline_s is not None else float("inf")
        if plan is not None:
            first = plan[0]
            target = self._generation.provider_bill(first, self._client, permit.route)
            joint = self._generation.joint_bill(bill, target) if target else None
            if joint is not None:
                wanted = target, estimate(request.size_bytes, max_tokens_of(body), first.target.price)
                return self._reserve_ahead((bill, need), wanted, first, (joint, deadline_at_s))
        return self._shared.admission.reserve(bill, need, deadline_at_s)

    async def _reserve_ahead(self, request: Wanted, target: Wanted, first: Planned, how: tuple[Bill, float]) -> Lease:
        """Take for the request and its first target in one round trip."""
        lease, ahead = await self._shared.admission.reserve_both(request, target, *how)
        if ahead is not None:
            self._ahead = first, ahead
        return lease

    def _reserve_at_provider(self, planned: Planned, deadline_at_s: float) -> Lease | Awaitable[Lease] | None:
        if self._ahead is not None and self._ahead[0] is planned:
            (_, lease), self._ahead = self._ahead, None
            return lease
        assert self._wire is not None and self._attempts is not None and self._permit is not None
        bill = self._generation.provider_bill(planned, self._client, self._permit.route)
        if not bill:
            return None
        need = estimate(self._wire.size_bytes, max_tokens_of(self._attempts.body), planned.target.price)
        return self._shared.admission.reserve(bill, need, deadline_at_s)

    def _all_fields(self) -> str:
        """Return the header lines of this answer: those of every answer, and what routerd did."""
        generation, lease = self._generation, self._lease
        if not generation.graph.response_headers:
            return self._fields
        if self._tally is not None and self._tally.fields:
            fields = self._tally.fields
        else:
            fields = generation.fields(self._permit.route.name if self._permit is not None else "", self._planned)
        if lease is not None and lease.bill.lines is not None:
            fields += lease.bill.lines(lease.taken)
        if self._attempts is not None and self._attempts.records:
            fields += f"x-routerd-attempts: {self._attempts_text()}\r\n"
        if self._dropped:
            fields += f"x-routerd-dropped: {safe(','.join(self._dropped))}\r\n"
        return self._fields + fields

    def _refusal(self, reply: Reply) -> web.StreamResponse:
        """Answer with an error, in the client's own words."""
        if self._client_dialect is not None:
            error = msgspec.json.decode(reply.body)["error"]
            reply.body = self._client_dialect.error(reply.status, error, self._request_id)
        return self._reply(reply)

    def _reply(self, reply: Reply) -> web.StreamResponse:
        self._sent_bytes = len(reply.body)
        return cast(web.StreamResponse, reply)
