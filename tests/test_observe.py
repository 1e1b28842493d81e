"""Metric cells, snapshots over workers, the exposition, the access record."""

from __future__ import annotations

import json
import pickle

import pytest
from prometheus_client.parser import text_string_to_metric_families

from routerd.errors import ErrorType
from routerd.observe import (
    FAMILIES,
    AccessRecord,
    Metrics,
    Snapshot,
    format_json,
    format_text,
    render_metrics,
)
from tests.metrics_table import CLOSED, TABLE

REQUESTS = "routerd_requests_total"
TTFT = "gen_ai_server_time_to_first_token_seconds"
INFLIGHT = "routerd_inflight_requests"


@pytest.mark.parametrize("name", TABLE)
def test_a_published_family_keeps_its_kind_labels_and_buckets(name: str) -> None:
    kind, labels, buckets = TABLE[name]
    family = FAMILIES[name]
    assert (family.kind, family.labels) == (kind, labels)
    if buckets is not None:
        assert family.buckets == buckets


def test_the_overhead_is_measured_from_50_us_to_250_ms() -> None:
    buckets = FAMILIES["routerd_overhead_seconds"].buckets
    assert (buckets[0], buckets[-1]) == (0.00005, 0.25)


def test_error_types_are_the_published_set() -> None:
    assert {kind.value for kind in ErrorType} == CLOSED[("routerd_attempts_total", "result")] - {"ok"}


def series(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_cell_is_the_same_object_for_the_same_labels() -> None:
    metrics = Metrics()
    assert metrics.counter(REQUESTS, "a", "", "ok") is metrics.counter(REQUESTS, "a", "", "ok")
    assert metrics.counter(REQUESTS, "a", "", "ok") is not metrics.counter(REQUESTS, "b", "", "ok")


@pytest.mark.parametrize(
    ("kind", "name", "labels", "error"),
    [
        ("counter", "routerd_nothing", (), KeyError),
        ("counter", REQUESTS, ("one",), ValueError),
        ("gauge", REQUESTS, ("a", "b", "c"), ValueError),
        ("histogram", INFLIGHT, ("a",), ValueError),
    ],
)
def test_a_name_kind_or_label_count_that_is_not_in_the_table_is_refused(
    kind: str, name: str, labels: tuple[str, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        getattr(Metrics(), kind)(name, *labels)


def test_a_dropped_series_goes_from_what_was_reported() -> None:
    metrics, known = Metrics(), Snapshot()
    metrics.gauge(INFLIGHT, "old").set(1)
    metrics.gauge(INFLIGHT, "back").set(1)
    for piece in metrics.changes():
        known.update(piece)
    metrics.drop(INFLIGHT, "old")
    metrics.drop(INFLIGHT, "back")
    metrics.drop(INFLIGHT, "never")
    metrics.gauge(INFLIGHT, "back").set(2)
    for piece in metrics.changes():
        known.update(pickle.loads(pickle.dumps(piece)))
    assert known.values == {(INFLIGHT, ("back",)): 2.0}
    assert list(metrics.changes()) == []


def test_a_known_label_set_starts_at_zero() -> None:
    metrics = Metrics()
    metrics.counter(REQUESTS, "a", "", "ok")
    assert series(render_metrics([metrics.snapshot()]))[(REQUESTS, (("client", ""), ("outcome", "ok"), ("route", "a")))] == 0.0


def test_a_value_on_a_bound_counts_in_that_bucket_and_buckets_are_cumulative() -> None:
    metrics = Metrics()
    cell = metrics.histogram("routerd_overhead_seconds", "before_upstream")
    for value in (0.00005, 0.00006, 99.0):
        cell.observe(value)
    found = series(render_metrics([metrics.snapshot()]))

    def bucket(le: str) -> float:
        return found[("routerd_overhead_seconds_bucket", (("le", le), ("phase", "before_upstream")))]

    assert [bucket("5e-05"), bucket("0.0001"), bucket("0.25"), bucket("+Inf")] == [1, 2, 2, 3]
    assert found[("routerd_overhead_seconds_sum", (("phase", "before_upstream"),))] == pytest.approx(99.00011)


def test_workers_are_added_up_and_the_dead_keep_their_counts_but_not_their_gauges() -> None:
    workers = [Metrics(), Metrics(), Metrics()]
    for metrics in workers:
        metrics.counter(REQUESTS, "a", "", "ok").inc(2)
        metrics.gauge(INFLIGHT, "gpu").inc(3)
        metrics.gauge("routerd_endpoint_cooldown_seconds", "gpu").set(7)
        metrics.histogram(TTFT, "chat", "p", "m", "").observe(0.5)
    retired = Snapshot()
    retired.absorb(workers[2].snapshot())
    found = series(render_metrics([workers[0].snapshot(), workers[1].snapshot()], retired))
    assert found[(REQUESTS, (("client", ""), ("outcome", "ok"), ("route", "a")))] == 6
    assert found[(INFLIGHT, (("endpoint", "gpu"),))] == 6
    assert found[("routerd_endpoint_cooldown_seconds", (("endpoint", "gpu"),))] == 7
    labels = (("operation", "chat"), ("provider", "p"), ("request_model", "m"), ("response_model", ""))
    assert found[(TTFT + "_count", labels)] == 3


def test_absorbing_does_not_share_lists_with_the_worker() -> None:
    metrics = Metrics()
    cell = metrics.histogram("routerd_overhead_seconds", "before_upstream")
    snapshot = metrics.snapshot()
    retired = Snapshot()
    retired.absorb(snapshot)
    cell.observe(1.0)
    retired.absorb(snapshot)
    assert sum(retired.histograms[("routerd_overhead_seconds", ("before_upstream",))][0]) == 0


def test_the_pieces_of_changes_add_up_to_the_snapshot_and_then_only_changes_come() -> None:
    metrics = Metrics()
    for i in range(7):
        metrics.counter("routerd_attempts_total", f"t{i}", "ok").inc(i)
        metrics.histogram("routerd_overhead_seconds", f"p{i}").observe(0.0)
    kept = Snapshot()
    pieces = [pickle.loads(pickle.dumps(piece)) for piece in metrics.changes(limit=3)]
    assert all(len(piece.values) + len(piece.histograms) <= 3 for piece in pieces)
    for piece in pieces:
        kept.update(piece)
    assert kept == metrics.snapshot()
    assert list(metrics.changes()) == []
    metrics.counter("routerd_attempts_total", "t3", "ok").inc()
    metrics.histogram("routerd_overhead_seconds", "p2").observe(0.0)  # the sum does not move
    (piece,) = metrics.changes()
    assert list(piece.values) == [("routerd_attempts_total", ("t3", "ok"))]
    assert list(piece.histograms) == [("routerd_overhead_seconds", ("p2",))]


def test_a_dropped_series_is_gone_from_the_snapshot() -> None:
    metrics = Metrics()
    metrics.gauge("routerd_config_info", "abc", "1", "file").set(1)
    metrics.drop("routerd_config_info", "abc", "1", "file")
    assert metrics.snapshot() == Snapshot()


def test_every_family_renders_under_its_own_name_and_labels() -> None:
    metrics = Metrics()
    for name, family in FAMILIES.items():
        getattr(metrics, family.kind)(name, *(f"v-{label}" for label in family.labels))
    names = {(name, tuple(key for key, _ in labels)) for name, labels in series(render_metrics([metrics.snapshot()]))}
    for name, family in FAMILIES.items():
        suffix = "_count" if family.kind == "histogram" else ""
        assert (name + suffix, tuple(sorted(family.labels))) in names
        assert name.endswith("_total") == (family.kind == "counter")


RECORD = AccessRecord(
    at_unix_s=1700000000.25,
    request_id="r1",
    model='evil\n2026 status=200 "x"\u2028',
    status=200,
    stream=True,
    output_tokens=0,
    duration_s=0.1234567,
)


def test_a_text_record_is_one_line_whatever_the_client_wrote() -> None:
    line = format_text(RECORD)
    assert line == (
        'time=2023-11-14T22:13:20.250Z request_id=r1 model="evil\\n2026 status=200 \\"x\\"\\u2028" status=200 '
        "generation=0 stream=true output_tokens=0 duration_s=0.123457 bytes_out=0"
    )
    assert len(line.splitlines()) == 1


def test_a_text_record_names_its_fields_in_order_and_leaves_out_the_empty_ones() -> None:
    full = AccessRecord(
        1700000000.25, "r1", "POST", "/v1/chat/completions", "c", "route", "m", "p/m", "p", "e:ok", 200, "ok", "x", 3, True, 1, 2,
        0.5, 0.25, 0.125, 0.0625, 99, "::1",
    )  # fmt: skip
    assert format_text(full) == (
        "time=2023-11-14T22:13:20.250Z request_id=r1 method=POST path=/v1/chat/completions client=c route=route model=m "
        "target=p/m provider=p attempts=e:ok status=200 outcome=ok error_type=x generation=3 stream=true "
        "input_tokens=1 output_tokens=2 duration_s=0.500000 queue_s=0.250000 upstream_s=0.125000 "
        "ttft_s=0.062500 bytes_out=99 remote=::1"
    )
    assert format_text(AccessRecord(1700000000.0)) == (
        "time=2023-11-14T22:13:20.000Z status=0 generation=0 stream=false duration_s=0.000000 bytes_out=0"
    )


def test_a_json_record_keeps_values_and_leaves_out_what_is_absent() -> None:
    record = json.loads(format_json(RECORD))
    assert record["model"] == RECORD.model
    assert record["output_tokens"] == 0
    assert "ttft_s" not in record
    assert "client" not in record
