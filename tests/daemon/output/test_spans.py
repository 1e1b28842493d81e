"""The queue of spans is bounded, and a request that failed late is a failed attempt, too."""

from __future__ import annotations

from routerd.daemon.output.spans import MOST_MODEL_CHARS, QUEUE_MAX, Ended, SpanExporter, spans_of
from routerd.messages import AttemptRecord
from routerd.observe import AccessRecord, Metrics


def attempt(result: str = "ok", number: int = 1, after_s: float = 0.0) -> AttemptRecord:
    return AttemptRecord(
        number=number, target="p/m", provider="p", endpoint="e", model="m", result=result, after_s=after_s, duration_s=0.5
    )


def exporter() -> tuple[SpanExporter, Metrics]:
    metrics = Metrics()
    return SpanExporter("http://127.0.0.1:1", {}, 3, metrics), metrics


def ended(record: AccessRecord, *attempts: AttemptRecord) -> Ended:
    trace = exporter()[0].begin(None, None)
    assert trace is not None
    return Ended(trace, "embedding", record, attempts)


async def test_what_finds_no_room_is_dropped_and_counted_with_its_attempts() -> None:
    spans, metrics = exporter()
    one = ended(AccessRecord(1700000000.0), attempt())
    for _ in range(QUEUE_MAX + 2):
        spans.ended(one.trace, one.operation, one.record, one.attempts)
    assert metrics.counter("routerd_spans_total", "3", "dropped").value == 2 * 2


async def test_a_stream_that_was_cut_fails_its_request_and_its_attempt_and_lasts_to_the_end() -> None:
    cut = {"outcome": "truncated", "error_type": "upstream_stream_cut"}
    record = AccessRecord(1700000000.0, route="m", status=200, duration_s=9.0, **cut)
    request, first, last = spans_of(ended(record, attempt("upstream_5xx"), attempt(number=2, after_s=1.0)))
    assert (request.failed, first.failed, last.failed) == (True, True, True)
    assert request.name == "embeddings m"
    assert (first.start_unix_s, first.end_unix_s) == (1700000000.0, 1700000000.5)
    assert (last.start_unix_s, last.end_unix_s) == (1700000001.0, 1700000009.0)
    assert last.attributes["error.type"] == "upstream_stream_cut"
    assert len({request.span_id, first.span_id, last.span_id}) == 3


async def test_a_client_s_mistake_is_no_failure_of_the_request() -> None:
    (request,) = spans_of(ended(AccessRecord(1700000000.0, status=404, outcome="client_error", error_type="policy_no_route")))
    assert not request.failed
    assert request.attributes["error.type"] == "policy_no_route"


async def test_an_attempt_tells_the_model_that_its_upstream_named_cut_to_a_bounded_length() -> None:
    named, silent = attempt("upstream_5xx"), attempt(number=2)
    named.response_model = "m-2025" + "x" * 1000
    _, first, last = spans_of(ended(AccessRecord(1700000000.0), named, silent))
    told = first.attributes["gen_ai.response.model"]
    assert (told.startswith("m-2025x"), len(told)) == (True, MOST_MODEL_CHARS)
    assert not last.attributes["gen_ai.response.model"]
