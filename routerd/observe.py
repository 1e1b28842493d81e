"""Metric cells, the table of metric families, the access record, and their text forms.

A worker counts in plain cells: no lock, no label lookup. Cells are resolved once per route and generation and then only added
to. Workers send what changed to the control process, which keeps one `Snapshot` a worker and adds them up for a scrape; this
module is the only one that knows prometheus_client, and imports it inside `render_metrics`, in the control process only.
Names, labels and buckets are those of the published table of metrics; a family is in FAMILIES once its behaviour exists.
A dead worker's counters are absorbed into a retired snapshot, so that a scrape never goes back.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = [
    "FAMILIES",
    "AccessRecord",
    "Cell",
    "Family",
    "HistogramCell",
    "Metrics",
    "Snapshot",
    "format_json",
    "format_text",
    "merge",
    "process_values",
    "render_metrics",
]

_Key = tuple[str, tuple[str, ...]]
_SAME_AS = {"request_model": "route", "from": "target", "to": "target"}  # labels whose values are names of another one's


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `merge` says how the live workers' gauges become one value: `sum` or `max`."""

    kind: str  # counter | gauge | histogram
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: str = "sum"


_CALL = ("operation", "provider", "request_model", "response_model")
_RELOAD_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENCY_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 600.0)
_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0,
           60.0, 120.0, 300.0)  # fmt: skip
_TPOT_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_OVERHEAD_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
_LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_TOKENS = tuple(float(4**n) for n in range(14))  # 1 ... 67108864

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gen_ai_server_request_duration_seconds": Family(
            "histogram", "Time from the request's arrival to the end of its answer.", (*_CALL, "error_type"), _LATENCY_S
        ),
        "gen_ai_server_time_to_first_token_seconds": Family(
            "histogram", "Time from the request's arrival to the first content sent to the client.", _CALL, _TTFT_S
        ),
        "gen_ai_server_time_per_output_token_seconds": Family(
            "histogram", "Mean time between output tokens after the first.", _CALL, _TPOT_S
        ),
        "gen_ai_client_token_usage": Family("histogram", "Tokens of a request by type.", (*_CALL, "token_type"), _TOKENS),
        "routerd_requests_total": Family("counter", "Requests by how they ended.", ("route", "client", "outcome")),
        "routerd_attempts_total": Family("counter", "Attempts at targets by result.", ("target", "result")),
        "routerd_failovers_total": Family("counter", "Steps from one target to the next.", ("route", "from", "to", "reason")),
        "routerd_stream_interruptions_total": Family("counter", "Streams that did not reach their end.", ("target", "reason")),
        "routerd_stream_malformed_events_total": Family(
            "counter", "Events of streams that were no JSON and were left out.", ("target",)
        ),
        "routerd_overhead_seconds": Family(
            "histogram", "Time spent in the router itself, not waiting for others.", ("phase",), _OVERHEAD_S
        ),
        "routerd_inflight_requests": Family("gauge", "Requests at an endpoint now.", ("endpoint",)),
        "routerd_endpoint_cooldown_seconds": Family(
            "gauge", "What is left of the endpoint's cooldown, or 0.", ("endpoint",), merge="max"
        ),
        "routerd_endpoint_healthy": Family("gauge", "0 while the endpoint's active probe fails, else 1.", ("endpoint",)),
        "routerd_endpoint_drained": Family("gauge", "1 while the endpoint is drained by hand.", ("endpoint",)),
        "routerd_breaker_state": Family("gauge", "The endpoint's breaker: 0 closed, 1 half open, 2 open.", ("endpoint",)),
        "routerd_budget_rejections_total": Family("counter", "Requests refused by a budget.", ("budget", "scope", "mode")),
        "routerd_budget_used_ratio": Family(
            "gauge", "Largest share of the limit that is used, over all subjects seen.", ("budget", "scope", "mode"), merge="max"
        ),
        "routerd_budget_queue_depth": Family("gauge", "Requests that wait in line for a budget.", ("budget",)),
        "routerd_state_up": Family("gauge", "1 when the counters that hosts share answer.", ("worker",)),
        "routerd_state_losses_total": Family("counter", "Times the counters that hosts share went away.", ("worker",)),
        "routerd_budget_table_overflows": Family(
            "gauge", "Charges that passed uncounted because the table of budgets was full, on this host.", merge="max"
        ),
        "routerd_tokens_total": Family(
            "counter",
            "Tokens of answers as they are charged: reported by the upstream, else estimated.",
            ("route", "client", "provider", "token_type"),
        ),
        "routerd_cost_usd_total": Family(
            "counter", "What answers cost by the price of their target.", ("route", "client", "provider", "token_type")
        ),
        "routerd_config_last_reload_successful": Family("gauge", "1 when the last reload was applied or changed nothing."),
        "routerd_config_last_reload_success_timestamp_seconds": Family("gauge", "When a generation last began to serve."),
        "routerd_config_last_reload_attempt_timestamp_seconds": Family("gauge", "When a reload was last tried."),
        "routerd_config_reloads_total": Family(
            "counter", "Reloads by what caused them and how they ended.", ("trigger", "result")
        ),
        "routerd_config_info": Family("gauge", "1 for the configuration that serves.", ("digest", "generation", "source")),
        "routerd_config_drift": Family("gauge", "1 when the files differ from what serves."),
        "routerd_config_file_present": Family("gauge", "1 when the configuration file is there."),
        "routerd_config_watch_last_look_timestamp_seconds": Family("gauge", "When the inputs were last looked at."),
        "routerd_config_watch_errors_total": Family("counter", "Looks at the inputs that failed unexpectedly."),
        "routerd_config_generation_inflight": Family("gauge", "Requests in flight by generation.", ("generation",)),
        "routerd_config_reload_duration_seconds": Family("histogram", "Time of one phase of a reload.", ("phase",), _RELOAD_S),
        "routerd_config_detect_to_serve_seconds": Family(
            "histogram", "Time from the first look that saw a change until all workers serve it.", (), _RELOAD_S
        ),
        "routerd_discovery_models": Family("gauge", "Models of a provider that are offered.", ("provider",)),
        "routerd_discovery_last_success_timestamp_seconds": Family(
            "gauge", "When a provider's list of models last came.", ("provider",)
        ),
        "routerd_discovery_failures_total": Family("counter", "Questions for models that failed.", ("provider",)),
        "routerd_worker_up": Family("gauge", "1 when the worker serves.", ("worker",)),
        "routerd_worker_restarts_total": Family("counter", "Times the worker was started again.", ("worker",)),
        "routerd_event_loop_lag_seconds": Family(
            "histogram", "How late a timer of the worker's event loop fires.", ("worker",), _LAG_S
        ),
        "routerd_build_info": Family("gauge", "1 for the version that runs, and its Python.", ("version", "python")),
        "process_resident_memory_bytes": Family("gauge", "Resident memory of control and of each worker.", ("process",)),
        "process_virtual_memory_bytes": Family("gauge", "Virtual memory of control and of each worker.", ("process",)),
        "process_cpu_seconds_total": Family("counter", "CPU time, user and system; a restarted worker goes on.", ("process",)),
        "process_open_fds": Family("gauge", "Open files and sockets.", ("process",)),
        "process_max_fds": Family("gauge", "Most files and sockets that may be open.", ("process",)),
        "process_start_time_seconds": Family("gauge", "When the process was started, in seconds since 1970.", ("process",)),
        "routerd_ledger_written_total": Family("counter", "Entries written to the ledger."),
        "routerd_ledger_dropped_total": Family("counter", "Entries lost: too many waited, or the daemon ended meanwhile."),
        "routerd_ledger_pending": Family("gauge", "Entries that wait to be written to the ledger."),
        "routerd_ledger_up": Family("gauge", "1 when the ledger's database takes what is written."),
        "routerd_spans_total": Family(
            "counter", "Spans for the collector of traces: exported, dropped (too many waited), failed.", ("worker", "result")
        ),
        "routerd_access_records_dropped_total": Family(
            "counter", "Access records dropped because standard output was too slow.", ("worker",)
        ),
    }
)


class Cell:
    """One counter or gauge series. No lock: it belongs to one event loop."""

    __slots__ = ("sent", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.sent: float | None = None  # what `Metrics.changes` reported last

    def inc(self, n: float = 1.0) -> None:
        """Add `n`."""
        self.value += n

    def set(self, v: float) -> None:
        """Set to `v`; for gauges only."""
        self.value = v


class HistogramCell:
    """One histogram series: a count per bucket (the last one is +Inf) and the sum."""

    __slots__ = ("bounds", "counts", "sent", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.sent: list[int] | None = None

    def observe(self, v: float) -> None:
        """Count `v` in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, v)] += 1
        self.sum += v


@dataclass(slots=True)
class Snapshot:
    """The values of many series at one moment. Picklable; histograms are (counts per bucket, sum)."""

    values: dict[_Key, float] = field(default_factory=dict)
    histograms: dict[_Key, tuple[list[int], float]] = field(default_factory=dict)
    gone: list[_Key] = field(default_factory=list)  # series that were dropped since the last report

    def update(self, newer: Snapshot) -> None:
        """Take over what `newer` holds; what it does not name stays."""
        for key in newer.gone:
            self.values.pop(key, None)
            self.histograms.pop(key, None)
        self.values.update(newer.values)
        self.histograms.update(newer.histograms)

    def absorb(self, other: Snapshot) -> None:
        """Add the counters and histograms of `other`; its gauges died with the worker."""
        for key, value in other.values.items():
            if FAMILIES[key[0]].kind == "counter":
                self.values[key] = self.values.get(key, 0.0) + value
        for key, (counts, total) in other.histograms.items():
            mine = self.histograms.get(key)
            if mine is None:
                self.histograms[key] = (list(counts), total)
            else:
                self.histograms[key] = ([a + b for a, b in zip(mine[0], counts, strict=True)], mine[1] + total)

    def forget(self, names: frozenset[tuple[str, str]]) -> None:
        """Drop the series of what is no longer configured: those with one of these pairs of label and value."""
        for key in [key for key in (*self.values, *self.histograms) if _is_of(key, names)]:
            self.values.pop(key, None)
            self.histograms.pop(key, None)

    def merge_gauges(self, other: Snapshot) -> None:
        """Add the gauges of one more live worker, each by its family's rule."""
        for key, value in other.values.items():
            family = FAMILIES[key[0]]
            if family.kind != "gauge":
                continue
            if key not in self.values:
                self.values[key] = value
            else:
                self.values[key] = max(self.values[key], value) if family.merge == "max" else self.values[key] + value


class Metrics:
    """The series of one process. Get a cell once and keep it; only adding to a cell belongs on the request path."""

    def __init__(self) -> None:
        self._cells: dict[_Key, Cell] = {}
        self._histograms: dict[_Key, HistogramCell] = {}
        self._gone: list[_Key] = []

    def counter(self, name: str, *label_values: str) -> Cell:
        """Return the counter cell of these label values, new ones at 0. KeyError: no such family."""
        return self._cell("counter", name, label_values)

    def gauge(self, name: str, *label_values: str) -> Cell:
        """Return the gauge cell of these label values."""
        return self._cell("gauge", name, label_values)

    def histogram(self, name: str, *label_values: str) -> HistogramCell:
        """Return the histogram cell of these label values."""
        key = (name, label_values)
        cell = self._histograms.get(key)
        if cell is None:
            cell = self._histograms[key] = HistogramCell(_family("histogram", name, label_values).buckets)
        return cell

    def drop(self, name: str, *label_values: str) -> None:
        """Forget a series. A later `snapshot` lacks it, and the next `changes` tell that it went."""
        key = (name, label_values)
        cell = self._cells.pop(key, None) or self._histograms.pop(key, None)
        if cell is not None and cell.sent is not None:
            self._gone.append(key)

    def forget(self, names: frozenset[tuple[str, str]]) -> None:
        """Drop the counters and histograms of what is no longer configured; a gauge is dropped by who sets it."""
        for key in [key for key in (*self._cells, *self._histograms) if _is_of(key, names)]:
            self.drop(key[0], *key[1])

    def snapshot(self) -> Snapshot:
        """Return every series as it is now."""
        return Snapshot(
            {key: cell.value for key, cell in self._cells.items()},
            {key: (list(cell.counts), cell.sum) for key, cell in self._histograms.items()},
        )

    def changes(self, limit: int = 500) -> Iterator[Snapshot]:
        """Yield what changed since the last call, at most `limit` series a piece.

        The caller may run other work between two pieces: series made meanwhile come with the next call.
        """
        gone, self._gone = self._gone, []
        piece = Snapshot(gone=gone)
        for key, cell in list(self._cells.items()):
            if cell.value != cell.sent:
                piece.values[key] = cell.sent = cell.value
                if len(piece.values) >= limit:
                    yield piece
                    piece = Snapshot()
        for key, histogram in list(self._histograms.items()):
            if histogram.counts != histogram.sent:
                histogram.sent = list(histogram.counts)
                piece.histograms[key] = (histogram.sent, histogram.sum)
                if len(piece.values) + len(piece.histograms) >= limit:
                    yield piece
                    piece = Snapshot()
        if piece.values or piece.histograms or piece.gone:
            yield piece

    def _cell(self, kind: str, name: str, label_values: tuple[str, ...]) -> Cell:
        key = (name, label_values)
        cell = self._cells.get(key)
        if cell is None:
            _family(kind, name, label_values)
            cell = self._cells[key] = Cell()
        return cell


def _is_of(key: _Key, names: frozenset[tuple[str, str]]) -> bool:
    family = FAMILIES[key[0]]
    pairs = ((_SAME_AS.get(label, label), value) for label, value in zip(family.labels, key[1], strict=True))
    return family.kind != "gauge" and any(pair in names for pair in pairs)


def _family(kind: str, name: str, label_values: tuple[str, ...]) -> Family:
    family = FAMILIES[name]
    if family.kind != kind:
        raise ValueError(f"{name} is a {family.kind}, not a {kind}")
    if len(label_values) != len(family.labels):
        raise ValueError(f"{name} has the labels {', '.join(family.labels) or 'none'}, got {label_values!r}")
    return family


def merge(live: Iterable[Snapshot], retired: Snapshot | None = None) -> Snapshot:
    """Return the series of all processes together.

    Counters and histograms are added up over `live` and `retired` (the dead); gauges over `live` only.
    """
    total = Snapshot()
    for snapshot in live:
        total.absorb(snapshot)
        total.merge_gauges(snapshot)
    if retired is not None:
        total.absorb(retired)
    return total


def render_metrics(live: Iterable[Snapshot], retired: Snapshot | None = None) -> bytes:
    """Return the Prometheus text exposition of what `merge` returns. 20,000 series take a second: not for an event loop."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    total = merge(live, retired)

    class Totals(Collector):
        def collect(self) -> Iterable[Metric]:
            return _families_of(total)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Totals())
    return generate_latest(registry)


def process_values(pid: int) -> dict[str, float]:
    """Return the `process_*` values of one process of this machine, those that /proc tells; empty when it is gone."""
    from prometheus_client import ProcessCollector

    collected = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {sample.name: sample.value for family in collected for sample in family.samples}


def _families_of(total: Snapshot) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    by_name: dict[str, list[tuple[str, ...]]] = {}
    for name, labels in (*total.values, *total.histograms):
        by_name.setdefault(name, []).append(labels)
    for name, family in FAMILIES.items():
        series = sorted(by_name.get(name, ()))
        if not series:
            continue
        if family.kind == "histogram":
            histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
            for labels in series:
                counts, value_sum = total.histograms[(name, labels)]
                histogram.add_metric(labels, _cumulative(family.buckets, counts), value_sum)
            yield histogram
            continue
        scalar: CounterMetricFamily | GaugeMetricFamily
        if family.kind == "counter":
            scalar = CounterMetricFamily(name, family.help, labels=family.labels)
        else:
            scalar = GaugeMetricFamily(name, family.help, labels=family.labels)
        for labels in series:
            scalar.add_metric(labels, total.values[(name, labels)])
        yield scalar


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    running = 0
    out: list[tuple[str, float]] = []
    for bound, count in zip((*(str(b) for b in bounds), "+Inf"), counts, strict=True):
        running += count
        out.append((bound, running))
    return out


class AccessRecord(NamedTuple):
    """What one request was and how it ended. Plain values only; empty or None where there is nothing to say."""

    at_unix_s: float
    request_id: str = ""
    method: str = ""
    path: str = ""
    client: str = ""
    route: str = ""
    model: str = ""  # as the client wrote it
    target: str = ""
    provider: str = ""
    attempts: str = ""  # gpu-a:connect/2ms,openrouter:ok
    status: int = 0
    outcome: str = ""
    error_type: str = ""
    generation: int = 0
    stream: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_s: float = 0.0
    queue_s: float | None = None  # in line for a budget
    upstream_s: float | None = None
    ttft_s: float | None = None
    bytes_out: int = 0
    remote: str = ""


def format_json(record: AccessRecord) -> str:
    """Return `record` as one line of JSON, without the empty fields."""
    values: tuple[Any, ...] = record
    times = [value if value is None else round(value, 6) for value in values[_TIMES]]
    return _encode(_Line(_moment(values[0]), *values[1 : _TIMES.start], *times, *values[_TIMES.stop :])).decode()


def format_text(record: AccessRecord) -> str:
    """Return `record` as one line of `key=value`. What a client wrote is quoted, so it cannot forge a line."""
    values: tuple[Any, ...] = record
    input_tokens, output_tokens, duration_s, queue_s, upstream_s, ttft_s, bytes_out, remote = values[_OWN]
    line = f"time={_moment(values[0])}"
    if values[1]:
        line += f" request_id={_text(values[1])}"
    line += _kind(values[_SHARED])
    if input_tokens is not None:
        line += f" input_tokens={input_tokens}"
    if output_tokens is not None:
        line += f" output_tokens={output_tokens}"
    line += f" duration_s={duration_s:.6f}"
    if queue_s is not None:
        line += f" queue_s={queue_s:.6f}"
    if upstream_s is not None:
        line += f" upstream_s={upstream_s:.6f}"
    if ttft_s is not None:
        line += f" ttft_s={ttft_s:.6f}"
    line += f" bytes_out={bytes_out}"
    return f"{line} remote={_text(remote)}" if remote else line


# Behind time and request_id stands what many requests have in common, then what belongs to one.
_SHARED = slice(2, 15)  # method to stream
_OWN = slice(15, None)
_SHARED_NAMES = AccessRecord._fields[_SHARED]
_TIMES = slice(17, 21)  # duration_s to ttft_s: microseconds say enough
_DEFAULTS = AccessRecord._field_defaults
# The same as an object of JSON: what is empty or None is left out, zeros and false are not.
_LINE = [("time", Any, None), *((name, Any, "" if _DEFAULTS[name] == "" else None) for name in AccessRecord._fields[1:])]
_Line = msgspec.defstruct("_Line", _LINE, omit_defaults=True)
_encode = msgspec.json.Encoder().encode


@functools.lru_cache(maxsize=1024)
def _kind(shared: tuple[Any, ...]) -> str:
    """Return the words that the requests of one client for one model have in common: made once, looked up for each."""
    return "".join([f" {name}={_text(value)}" for name, value in zip(_SHARED_NAMES, shared, strict=True) if value != ""])


def _moment(at_unix_s: float) -> str:
    second, milliseconds = divmod(int(at_unix_s * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=8)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if value.isprintable() and " " not in value and '"' not in value and "=" not in value:
        return value
    quoted = msgspec.json.encode(value).decode()
    return "".join([c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted])
