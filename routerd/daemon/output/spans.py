"""Spans of finished requests, sent to an OTLP/HTTP collector in batches, away from the requests.

A request that ends appends to a queue and nothing more. A timer takes batches from it, encodes them some at a time between other
callbacks, and posts them as `application/x-protobuf` (opentelemetry.io/docs/specs/otlp, section OTLP/HTTP). When the collector is
slow or away, at most QUEUE_MAX requests wait, further ones are dropped and counted; a batch that it refuses for the moment is
sent again twice. Imported only in a worker that has a collector. The attributes are those of the conventions for GenAI
and HTTP spans, and `routerd.*` for what they have no word for; none holds a word of a prompt or an answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple
from urllib.parse import unquote

import aiohttp

from routerd import __version__
from routerd.messages import AttemptRecord
from routerd.observe import AccessRecord, Metrics
from routerd.trace import CLIENT, SERVER, Span, Trace, export_request, traced

__all__ = ["SpanExporter", "spans_of"]

log = logging.getLogger("routerd.spans")

QUEUE_MAX = 2048  # these three are the defaults of OpenTelemetry's own batch processor, which has 5 s for the last
BATCH = 512
EVERY_S = 1.0
ENCODED_A_STEP = 10  # requests encoded before other callbacks run: below 1 ms
TIMEOUT_S = 10.0
TRIES = 3
MOST_MODEL_CHARS = 256  # of a name that an upstream gives; the longest public model ids are under 100
LAST_WORDS_S = 2.0  # for what waits when the worker ends
LATER = frozenset({429, 502, 503, 504})  # the collector may take it in a moment (OTLP/HTTP, section Retryable Response Codes)

_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}  # the conventions' words where they differ
_FAILED = frozenset({"upstream_error", "truncated"})


class Ended(NamedTuple):
    """A request that has ended."""

    trace: Trace
    operation: str
    record: AccessRecord
    attempts: Sequence[AttemptRecord]


class SpanExporter:
    """`server.shared.Tracer` of one worker. `url` is the collector's base address; `environ` may hold OTEL_* settings."""

    def __init__(self, url: str, environ: Mapping[str, str], worker: int, metrics: Metrics) -> None:
        self._url = url + "/v1/traces"
        self._headers = {**_headers(environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")), "content-type": "application/x-protobuf"}
        self._resource = {
            "service.name": environ.get("OTEL_SERVICE_NAME") or "routerd",
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getppid()}:{worker}",
            "process.pid": os.getpid(),
        }
        self._queue: deque[Ended] = deque()
        self._rng = Random()
        self._exported, self._dropped, self._failed = (
            metrics.counter("routerd_spans_total", str(worker), result) for result in ("exported", "dropped", "failed")
        )
        self._reachable = True
        self._session: aiohttp.ClientSession | None = None
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, parent: str | None, state: str | None) -> Trace | None:
        """Return the context of a request that came with these header fields."""
        return traced(parent, state, self._rng)

    def ended(self, trace: Trace, operation: str, record: AccessRecord, attempts: Sequence[AttemptRecord]) -> None:
        """Queue what became of a request, or drop and count it when too many wait."""
        if len(self._queue) >= QUEUE_MAX:
            self._dropped.inc(1 + len(attempts))
        else:
            self._queue.append(Ended(trace, operation, record, attempts))

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Send what waits, for a moment, and stop."""
        self._ending.set()
        if self._task is not None and not (await asyncio.wait((self._task,), timeout=LAST_WORDS_S))[0]:
            self._task.cancel()
            log.warning("the last spans were not told to the collector of traces in time")
        if self._session is not None:
            await self._session.close()

    async def _run(self) -> None:
        while not self._ending.is_set():
            try:
                await asyncio.wait_for(self._ending.wait(), EVERY_S)
            except TimeoutError:
                pass
            await self._send_all()

    async def _send_all(self) -> None:
        while self._queue:
            encoded: list[bytes] = []
            while self._queue and len(encoded) < BATCH:
                for _ in range(min(ENCODED_A_STEP, len(self._queue))):
                    encoded += [span.encoded() for span in spans_of(self._queue.popleft())]
                await asyncio.sleep(0)
            await self._send(encoded)

    async def _send(self, spans: list[bytes]) -> None:
        body = export_request(self._resource, ("routerd", __version__), spans)
        for number in range(1, TRIES + 1):
            trouble, again = await self._post(body)
            if not trouble:
                self._exported.inc(len(spans))
                if not self._reachable:
                    log.info("the collector of traces takes spans again")
                self._reachable = True
                return
            if not again or number == TRIES:
                break
            await asyncio.sleep(EVERY_S * number)
        self._failed.inc(len(spans))
        if self._reachable:
            log.warning("the collector of traces does not take spans: %s; requests are served as ever", trouble)
        self._reachable = False

    async def _post(self, body: bytes) -> tuple[str, bool]:
        """Send once; return what was wrong (empty: nothing), and whether it may be tried again."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        try:
            async with self._session.post(self._url, data=body, headers=self._headers, allow_redirects=False) as answer:
                return ("", False) if answer.status < 300 else (f"status {answer.status}", answer.status in LATER)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            return type(exc).__name__, True  # its words may quote the URL


def spans_of(ended: Ended) -> Iterator[Span]:
    """Give the span of the request, then one for each attempt."""
    trace, operation, record, attempts = ended
    operation = _OPERATIONS.get(operation, operation)
    ended_unix_s = record.at_unix_s + record.duration_s
    yield Span(
        trace=trace,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        name=f"{operation} {record.route}",
        kind=SERVER,
        start_unix_s=record.at_unix_s,
        end_unix_s=ended_unix_s,
        attributes=_of_request(operation, record),
        failed=record.status >= 500 or record.outcome in _FAILED,
    )
    for attempt in attempts:
        began_unix_s = record.at_unix_s + attempt.after_s
        answers = attempt is attempts[-1] and attempt.result == "ok"  # a stream is relayed until the request ends
        yield Span(
            trace=trace,
            span_id=trace.attempt_id(attempt.number),
            parent_id=trace.span_id,
            name=f"{operation} {attempt.target}",
            kind=CLIENT,
            start_unix_s=began_unix_s,
            end_unix_s=ended_unix_s if answers else began_unix_s + attempt.duration_s,
            attributes=_of_attempt(operation, attempt, record if answers else None),
            failed=not answers or record.outcome in _FAILED,
        )


def _of_request(operation: str, record: AccessRecord) -> Mapping[str, Any]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.target.partition("/")[2],
        "gen_ai.provider.name": record.provider,
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "url.path": record.path,
        "error.type": record.error_type,
        "routerd.request_id": record.request_id,
        "routerd.route": record.route,
        "routerd.client": record.client,
        "routerd.target": record.target,
        "routerd.outcome": record.outcome,
        "routerd.generation": record.generation,
        "routerd.stream": record.stream,
        "routerd.attempts": record.attempts,
        "routerd.queue_s": record.queue_s,
        "routerd.upstream_s": record.upstream_s,
        "routerd.time_to_first_token_s": record.ttft_s,
    }


def _of_attempt(operation: str, attempt: AttemptRecord, record: AccessRecord | None) -> Mapping[str, Any]:
    """Return the attributes of an attempt; `record` is given for the one that brought the answer."""
    wrong = "" if attempt.result == "ok" else attempt.result
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": attempt.model,
        "gen_ai.response.model": (attempt.response_model or "")[:MOST_MODEL_CHARS],
        "gen_ai.provider.name": attempt.provider,
        "gen_ai.usage.input_tokens": record.input_tokens if record is not None else None,
        "gen_ai.usage.output_tokens": record.output_tokens if record is not None else None,
        "http.response.status_code": attempt.status,
        "error.type": wrong or (record.error_type if record is not None else ""),
        "routerd.attempt": attempt.number,
        "routerd.target": attempt.target,
        "routerd.endpoint": attempt.endpoint,
        "routerd.reason": attempt.reason,
    }


def _headers(text: str) -> dict[str, str]:
    """Read OTEL_EXPORTER_OTLP_HEADERS: `name=value,name=value`, values percent-encoded."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip().lower(): unquote(value.strip()) for name, found, value in pairs if found and name.strip()}
