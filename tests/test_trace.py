"""The context of a trace, and spans as bytes: judged by OpenTelemetry's own messages."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from routerd.trace import SERVER, Span, export_request, passed_on, traced
from tests.support.collector import plain
from tests.support.process import clean_environ

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SHAPE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")
WRONG = [
    "", "x", PARENT[:-1], PARENT.upper(), "ff" + PARENT[2:], PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
    PARENT.replace("b7ad6b7169203331", "0" * 16), PARENT + "x", PARENT + "\r\nx: y", " " + PARENT,
]  # fmt: skip


@pytest.mark.parametrize("parent", [PARENT, "cc" + PARENT[2:] + "-more", PARENT[:-2] + "00"])
def test_a_context_is_handed_on_as_it_came(parent: str) -> None:
    trace = passed_on(parent, "vendor=1,other=2")
    assert trace is not None
    assert trace.fields(1) == trace.fields(2) == {"traceparent": parent, "tracestate": "vendor=1,other=2"}


@pytest.mark.parametrize("parent", WRONG)
def test_a_malformed_context_is_as_none(parent: str) -> None:
    assert passed_on(parent, "vendor=1") is None
    trace = traced(parent, "vendor=1", random.Random(1))
    assert trace is not None
    assert trace.parent_id == 0
    assert trace.fields(1).keys() == {"traceparent"}


@pytest.mark.parametrize("state", [None, "", "a" * 513, "a=b\r\nx: y", "ä=1"])
def test_a_state_that_cannot_stand_in_a_header_is_left_out(state: str | None) -> None:
    trace = passed_on(PARENT, state)
    assert trace is not None
    assert trace.fields(1) == {"traceparent": PARENT}


def test_a_recorded_request_is_a_child_of_the_clients_and_each_attempt_one_of_it() -> None:
    trace = traced(PARENT, "vendor=1", random.Random(1))
    assert trace is not None
    assert (trace.trace_id, trace.parent_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    seen = {trace.fields(number)["traceparent"] for number in range(1, 9)}
    assert len(seen) == 8
    assert all(SHAPE.fullmatch(one) and "0af7651916cd43dd8448eb211c80319c" in one for one in seen)
    assert f"{trace.attempt_id(1):016x}" in trace.fields(1)["traceparent"]
    assert trace.span_id not in {trace.attempt_id(number) for number in range(1, 9)}


def test_a_trace_that_the_client_sampled_out_is_not_recorded() -> None:
    parent = PARENT[:-2] + "00"
    trace = traced(parent, None, random.Random(1))
    assert trace is not None
    assert trace.span_id == 0
    assert trace.fields(3) == {"traceparent": parent}


def test_a_worker_without_a_collector_imports_nothing_for_it() -> None:
    code = (
        "import routerd.daemon.workers.worker, routerd.server, routerd.state, sys\n"
        "print('routerd.daemon.output.spans' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=clean_environ(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


VALUES = st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@given(
    name=st.text(),
    attributes=st.dictionaries(st.text(min_size=1), VALUES, max_size=5),
    times=st.tuples(st.floats(0, 4e9), st.floats(0, 4e9)),
    failed=st.booleans(),
    seed=st.integers(),
)
def test_what_is_encoded_is_decoded(
    name: str, attributes: dict[str, object], times: tuple[float, float], failed: bool, seed: int
) -> None:
    trace = traced(PARENT, "vendor=1", random.Random(seed))
    assert trace is not None
    span = Span(
        trace=trace, span_id=trace.span_id, parent_id=trace.parent_id, name=name, kind=SERVER, start_unix_s=times[0],
        end_unix_s=times[1], attributes=attributes, failed=failed,
    )  # fmt: skip
    message = ExportTraceServiceRequest.FromString(export_request({"service.name": "r"}, ("lib", "1"), [span.encoded()] * 2))
    (resource,) = message.resource_spans
    assert plain(resource.resource.attributes) == {"service.name": "r"}
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("lib", "1")
    first, second = scope.spans
    assert first == second
    assert first.trace_id == trace.trace_id.to_bytes(16, "big")
    assert first.parent_span_id == bytes.fromhex("b7ad6b7169203331")
    assert (first.kind, first.trace_state, first.flags) == (SERVER, "vendor=1", 1)
    assert first.end_time_unix_nano >= first.start_time_unix_nano == int(times[0] * 1e9)
    assert first.status.code == (2 if failed else 0)
    surrogates = any(0xD800 <= ord(c) < 0xE000 for text in (name, *attributes) for c in text)
    if not surrogates:
        assert first.name == name
        assert plain(first.attributes).keys() == {key for key, value in attributes.items() if value not in (None, "")}
