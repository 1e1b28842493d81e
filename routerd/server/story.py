"""What became of one request, and what is told of it when it ends: leases, metrics, the ledger's entry, the access record.

A request fills in what it learns while it runs (`chat.ModelCall`); at its end, however it ends, `close` is called once. Nothing
here decides where a request goes or what its client is answered.
"""

from __future__ import annotations

import time

from aiohttp import web

from routerd.attempt import Attempts
from routerd.errors import ErrorType
from routerd.graph import Client
from routerd.ledger import Entry
from routerd.messages import ModelRequest, Usage
from routerd.observe import AccessRecord
from routerd.plan import Planned
from routerd.policy import NOTHING, Lease, cost_nano_usd, spent
from routerd.server.generation import Generation, Permit
from routerd.server.http.render import attempts_text, safe
from routerd.server.operations import Operation
from routerd.server.shared import Shared
from routerd.server.tally import Tally
from routerd.server.used import guessed
from routerd.trace import Trace

__all__ = ["ANONYMOUS", "Story"]

OTHER = "_other"  # the label of whatever the configuration does not name
ANONYMOUS = "_anonymous"
_make = tuple.__new__  # a NamedTuple without its slow way in
_SILENT, _UNUSED = Usage(estimated=True), Usage()  # an answer whose engine says no tokens; no answer
_NO_TOKENS = frozenset({"file", "passage"})
_FAILED = frozenset({"upstream_error", "truncated"})


class Story:
    """One request: where it came from, what it was, and how it ended."""

    __slots__ = (
        "_ahead",
        "_answered_at_s",
        "_attempts",
        "_client",
        "_error_type",
        "_generation",
        "_lease",
        "_operation",
        "_outcome",
        "_path",
        "_permit",
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
        "_tally",
        "_trace",
        "_ttft_s",
        "_usage",
        "_used",
        "_wire",
    )

    def __init__(self, shared: Shared, generation: Generation, request: web.BaseRequest, operation: Operation) -> None:
        self._shared = shared
        self._generation = generation
        self._request = request
        self._operation = operation.name
        self._path = operation.path
        self._started_s = time.monotonic()
        self._started_unix_s = time.time()
        self._request_id = ""
        self._trace: Trace | None = shared.context(request.headers)
        self._client: Client | None = None
        self._wire: ModelRequest | None = None
        self._permit: Permit | None = None
        self._lease: Lease | None = None
        self._ahead: tuple[Planned, Lease] | None = None  # at the target that is tried first, until it is
        self._attempts: Attempts | None = None
        self._planned: Planned | None = None  # the target that answered
        self._tally: Tally | None = None
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

    def _failed(self, status: int, error_type: ErrorType, outcome: str) -> None:
        self._status = status
        self._error_type = str(error_type)
        self._outcome = outcome

    def _attempts_text(self) -> str:
        if not self._said and self._attempts is not None:
            records = self._attempts.records
            if self._tally is not None and len(records) == 1 and records[0].result == "ok":
                self._said = self._tally.at_once
            else:
                self._said = safe(attempts_text(records))
        return self._said

    def _charges(self) -> bool:
        """Whether somebody wants to know what the answer used even where its engine does not say."""
        lease = self._lease
        return (
            self._shared.ledger is not None
            or (lease is not None and bool(lease.bill.settled))
            or self._generation.has_provider_budgets
        )

    def close(self) -> None:
        """Give the request's own lease back, count it, write it down."""
        ended_s = time.monotonic()
        at = self._planned
        if at is None and self._attempts is not None:
            at = self._attempts.at
            self._used = self._used_in_vain()
        if self._lease is not None:
            self._close_lease(self._lease, at, ended_s)
        if self._ahead is not None:
            self._ahead[1].close(NOTHING, ended_s)
        self._count(at, ended_s)
        shared = self._shared
        if shared.ledger is not None and (self._client is not None or self._generation.graph.clients is None):
            shared.ledger(self._entry(at, ended_s))  # without a key that fits it is nobody's
        if shared.access is not None or shared.tracer is not None:
            record = self._record(ended_s)
            shared.told(record, self._trace, self._operation, self._attempts.records if self._attempts is not None else ())

    def _used_in_vain(self) -> Usage | None:
        """Return what a request used that got no answer: a client that left while an engine worked for it has used its prompt."""
        attempts = self._attempts
        if self._used is not None or attempts is None or attempts.passing is not None or not self._charges():
            return self._used
        left = bool(attempts.records) and attempts.records[-1].result == ErrorType.CALLER_GONE
        return guessed(attempts.request.size_bytes, 0) if left else None

    def _close_lease(self, lease: Lease, at: Planned | None, now_s: float) -> None:
        """Put what was used in the place of the estimate where that is known; nothing where nothing was answered."""
        if self._used is not None and at is not None:
            lease.close(spent(self._used, at.target.price), now_s)
        else:  # credits are charged what the ledger says
            lease.close(NOTHING if self._planned is None or lease.bill.credited else None, now_s)

    def _count(self, at: Planned | None, ended_s: float) -> None:
        duration_s = ended_s - self._started_s
        tally, usage, used = self._tally, self._usage, self._used
        if tally is not None:
            if self._attempts is not None:
                self._shared.after_upstream.observe(max(0.0, duration_s - self._attempts.upstream_s))
            if usage is not None:
                tally.said(usage)
            if self._ttft_s is not None:
                tally.streamed(self._ttft_s, ended_s - self._answered_at_s, usage)
            if self._outcome == "ok":
                tally.ok(duration_s)
                self._generation.ended += 1
        if self._outcome != "ok":
            self._count_failure(duration_s)
        if used is not None and at is not None:  # what the ledger is told
            (tally or self._tally_of(at)).used(used)

    def _tally_of(self, planned: Planned) -> Tally:
        permit, client = self._permit, self._client
        route = permit.route.name if permit is not None else OTHER
        return self._generation.tally(self._operation, route, client.name if client is not None else ANONYMOUS, planned)

    def _count_failure(self, duration_s: float) -> None:
        metrics, planned = self._shared.metrics, self._planned
        route = self._permit.route.name if self._permit is not None else OTHER
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

    def _entry(self, at: Planned | None, ended_s: float) -> Entry:
        attempts, used = self._attempts, self._used
        provider = model = ""
        cost = 0
        if at is not None:
            provider = at.provider.name
            model = at.model if self._planned is not None else at.target.model  # an answer proves that a name is one
            if used is not None:
                cost = cost_nano_usd(used, at.target.price)
        if used is None:
            used = _SILENT if self._planned is not None and self._operation not in _NO_TOKENS else _UNUSED
        return _make(
            Entry,
            (
                int(self._started_unix_s * 1000),
                self._request_id,
                self._client.name if self._client is not None else ANONYMOUS,
                self._permit.route.name if self._permit is not None else OTHER,
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
                int((ended_s - self._started_s) * 1000),
            ),
        )

    def _record(self, ended_s: float) -> AccessRecord:
        wire, planned, attempts, usage = self._wire, self._planned, self._attempts, self._usage
        provider = planned.provider.name if planned is not None else ""
        return _make(
            AccessRecord,
            (
                self._started_unix_s,
                self._request_id,
                self._request.method,
                f"/v1/{self._path}",
                self._client.name if self._client is not None else "",
                self._permit.route.name if self._permit is not None else OTHER,
                wire.model if wire is not None else "",
                f"{provider}/{planned.model}" if planned is not None else "",
                provider,
                self._attempts_text(),
                self._status,
                self._outcome,
                self._error_type,
                self._generation.number,
                wire.stream if wire is not None else False,
                usage.input_tokens if usage is not None else None,
                usage.output_tokens if usage is not None else None,
                ended_s - self._started_s,
                self._queue_s,
                attempts.upstream_s if attempts is not None else None,
                self._ttft_s,
                self._sent_bytes,
                self._request.remote or "",
            ),
        )
