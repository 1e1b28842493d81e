"""Traces: the context goes through in any case; with a collector there is a span for each request and each attempt."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support import answers
from tests.support.collector import Collector, plain
from tests.support.daemon import Daemon, until
from tests.support.http import CHAT, ask, fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SENT = {"traceparent": PARENT, "tracestate": "vendor=1"}
TEXT = """
version: 1
providers:
  a: {dialect: openai, base_url: "FIRST", auth: {type: none}}
  b: {dialect: openai, base_url: "SECOND", auth: {type: none}, direct: true}
models:
  m: {chain: [a/one, b/two]}
"""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as running:
        yield running


def routes(first: Upstream, second: Upstream) -> str:
    return TEXT.replace("FIRST", first.url).replace("SECOND", second.url)


@pytest.mark.parametrize("path", [CHAT, "/providers/b/things"])
async def test_without_a_collector_the_context_goes_through_as_it_came(
    daemon: Start, upstreams: Callable[[], Any], path: str
) -> None:
    first, second = await upstreams(), await upstreams()
    first.always(answers.error(503))
    second.always(answers.reply())
    running = daemon(routes(first, second))
    assert (await fetch(running, path, ask(), headers=SENT)).status == 200
    assert (await fetch(running, path, ask())).status == 200
    with_it, without = second.requests
    assert (with_it.header("traceparent"), with_it.header("tracestate")) == (PARENT, "vendor=1")
    assert without.header("traceparent") is None


async def test_a_malformed_context_goes_no_further(daemon: Start, upstreams: Callable[[], Any]) -> None:
    first, second = await upstreams(), await upstreams()
    first.always(answers.reply())
    running = daemon(routes(first, second))
    assert (await fetch(running, CHAT, ask(), headers={"traceparent": "00-nonsense"})).status == 200
    assert first.requests[0].header("traceparent") is None


async def test_a_request_and_each_attempt_are_spans(daemon: Start, upstreams: Callable[[], Any], collector: Collector) -> None:
    first, second = await upstreams(), await upstreams()
    first.always(answers.error(503, "secret words of an upstream"))
    second.always(answers.stream())
    env = {"OTEL_SERVICE_NAME": "mine", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x"}
    running = daemon(routes(first, second), args=["--otel", collector.url], env=env)
    answer = await fetch(running, CHAT, ask(text="words of a prompt", stream=True), headers=SENT)
    assert answer.status == 200
    request, failed, good = await collector.wait(3)
    assert {span.trace_id.hex() for span in collector.spans} == {PARENT[3:35]}
    assert request.parent_span_id.hex() == PARENT[36:52]
    assert failed.parent_span_id == good.parent_span_id == request.span_id
    assert (request.name, failed.name, good.name) == ("chat m", "chat a/one", "chat b/two")
    assert (request.kind, failed.kind, good.kind) == (2, 3, 3)
    assert (request.status.code, failed.status.code, good.status.code) == (0, 2, 0)
    for upstream, span in ((first, failed), (second, good)):
        told = upstream.requests[0]
        assert told.header("traceparent") == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
        assert told.header("tracestate") == "vendor=1"
    asked, wrong = plain(request.attributes), plain(failed.attributes)
    assert asked["gen_ai.operation.name"] == "chat"
    assert (asked["gen_ai.request.model"], asked["gen_ai.response.model"], asked["gen_ai.provider.name"]) == ("m", "two", "b")
    assert (asked["gen_ai.usage.input_tokens"], asked["gen_ai.usage.output_tokens"]) == (11, 3)
    assert (asked["routerd.route"], asked["routerd.outcome"], asked["http.response.status_code"]) == ("m", "ok", 200)
    assert (wrong["error.type"], wrong["http.response.status_code"], wrong["routerd.attempt"]) == ("upstream_5xx", 503, 1)
    assert request.start_time_unix_nano <= failed.start_time_unix_nano <= failed.end_time_unix_nano
    assert failed.end_time_unix_nano <= good.start_time_unix_nano <= good.end_time_unix_nano <= request.end_time_unix_nano
    assert collector.resources[0]["service.name"] == "mine"
    assert collector.headers[0]["authorization"] == "Bearer x"
    for word in ("secret words", "words of a prompt", "Hel"):
        assert word not in str(collector.spans)


async def test_a_request_without_a_context_begins_a_trace(
    daemon: Start, upstreams: Callable[[], Any], collector: Collector
) -> None:
    first, second = await upstreams(), await upstreams()
    second.always(answers.reply())
    running = daemon(routes(first, second), env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert (await fetch(running, "/providers/b/things", ask())).status == 200
    assert (await fetch(running, CHAT, ask("none"))).status == 404
    passed, attempt, unknown = await collector.wait(3)
    assert passed.parent_span_id == unknown.parent_span_id == b""
    assert second.requests[0].header("traceparent") == f"00-{passed.trace_id.hex()}-{attempt.span_id.hex()}-01"
    assert plain(unknown.attributes)["error.type"] == "policy_no_route"


async def test_a_collector_that_is_away_costs_no_request_and_its_refusal_is_tried_again(
    daemon: Start, upstreams: Callable[[], Any], collector: Collector
) -> None:
    first, second = await upstreams(), await upstreams()
    first.always(answers.reply())
    collector.statuses = [503, 400]  # not now: sent again; never: given up
    running = daemon(routes(first, second), args=["--otel", collector.url])
    assert (await fetch(running, CHAT, ask())).status == 200

    async def gave_up() -> bool:
        return (await running.metrics())['routerd_spans_total{result="failed",worker="0"}'] == 2

    await until(gave_up, 15)
    answers_ok = await asyncio.gather(*(fetch(running, CHAT, ask()) for _ in range(5)))
    assert {answer.status for answer in answers_ok} == {200}
    assert len(await collector.wait(10)) == 10
    assert (await running.metrics())['routerd_spans_total{result="exported",worker="0"}'] == 10


async def test_what_waits_is_sent_when_the_daemon_ends(daemon: Start, upstreams: Callable[[], Any], collector: Collector) -> None:
    first, second = await upstreams(), await upstreams()
    first.always(answers.reply())
    running = daemon(routes(first, second), args=["--otel", collector.url])
    assert (await fetch(running, CHAT, ask())).status == 200
    running.process.signal(signal.SIGTERM)
    assert len(await collector.wait(2)) == 2
