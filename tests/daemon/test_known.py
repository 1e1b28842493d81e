"""Which series a configuration makes known from the start."""

from __future__ import annotations

import pathlib

from routerd.config import load
from routerd.daemon.known import KEPT_S, MOST_SERIES, OUTCOMES, RESULTS, Known
from routerd.errors import ErrorType
from routerd.graph import Graph
from routerd.observe import Metrics

TEXT = """
version: 1
providers:
  demo: {dialect: simulator}
  open: {dialect: simulator, direct: true}
  off: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: "${NONE:-}", optional: true}
budgets:
  trial: {requests: 5, per: 1m, mode: shadow, scope: client}
clients:
  a: {key: sk-aaaaaaaaaaaaaaaaaaaa, models: [m]}
  b: {key: sk-bbbbbbbbbbbbbbbbbbbb}
models:
  m: {chain: [demo/echo, off/x], price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
  n: {chain: [demo/echo], enabled: false}
"""


def graph(tmp_path: pathlib.Path, text: str) -> Graph:
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    return load(path, {}).graph


def known(graph: Graph) -> dict[str, set[tuple[str, ...]]]:
    metrics = Metrics()
    Known(metrics, lambda _: None, lambda: 0.0).follow(graph)
    snapshot = metrics.snapshot()
    assert set(snapshot.values.values()) == {0.0}
    found: dict[str, set[tuple[str, ...]]] = {}
    for name, labels in snapshot.values:
        found.setdefault(name, set()).add(labels)
    return found


def test_what_the_configuration_names_stands_at_zero(tmp_path: pathlib.Path) -> None:
    found = known(graph(tmp_path, TEXT))
    pairs = [("m", "a"), ("m", "b"), ("n", "b"), ("open/*", "b")]  # a may not use n, nor open
    named = {(route, client, outcome) for route, client in pairs for outcome in OUTCOMES}
    nobody = {("_other", "_anonymous", "client_error"), ("_other", "_anonymous", "rejected")}
    assert found["routerd_requests_total"] == named | nobody
    targets = ("demo/echo", "open/{1}")  # off has no key
    assert found["routerd_attempts_total"] == {(target, result) for target in targets for result in RESULTS}
    assert found["routerd_cost_usd_total"] == {("m", client, "demo", kind) for client in "ab" for kind in ("input", "output")}
    assert ("open/*", "b", "open", "input") in found["routerd_tokens_total"]
    assert found["routerd_budget_rejections_total"] == {("trial", "client", "shadow")}


def test_every_result_of_an_attempt_is_of_the_closed_set() -> None:
    assert set(RESULTS) - {"ok"} <= {kind.value for kind in ErrorType}


def test_beyond_a_number_of_series_only_budgets_are_known_from_the_start(tmp_path: pathlib.Path) -> None:
    models = "".join(f"  m{i}: {{chain: [demo/m{i}]}}\n" for i in range(MOST_SERIES // 20))
    assert known(graph(tmp_path, TEXT + models)).keys() == {"routerd_budget_rejections_total"}


def test_what_is_counted_already_stays(tmp_path: pathlib.Path) -> None:
    metrics = Metrics()
    metrics.counter("routerd_attempts_total", "demo/echo", "ok").inc(3)
    Known(metrics, lambda _: None, lambda: 0.0).follow(graph(tmp_path, TEXT))
    assert metrics.counter("routerd_attempts_total", "demo/echo", "ok").value == 3


def test_the_series_of_what_is_removed_go_after_ten_minutes(tmp_path: pathlib.Path) -> None:
    metrics, now_s, told = Metrics(), [100.0], []
    known = Known(metrics, told.append, lambda: now_s[0])
    first = graph(tmp_path, TEXT)
    edited = TEXT.replace("  m: {chain: [demo/echo, off/x]", "  other: {chain: [demo/new]").replace("models: [m]", "models: [n]")
    other = graph(tmp_path, edited)
    known.follow(first)
    before = metrics.snapshot().values.keys()
    known.follow(other)
    assert before <= metrics.snapshot().values.keys()
    now_s[0] += KEPT_S - 1
    known.look()
    assert told == []
    now_s[0] += 1
    known.look()
    (gone,) = told
    assert gone == {("route", "m"), ("target", "off/x"), ("response_model", "x")}  # n still has demo/echo
    after = metrics.snapshot().values.keys()
    assert not [key for key in after if "m" in key[1]]
    assert ("routerd_attempts_total", ("demo/echo", "ok")) in after
    assert ("routerd_requests_total", ("other", "b", "ok")) in after


def test_what_comes_back_in_time_keeps_its_series(tmp_path: pathlib.Path) -> None:
    metrics, now_s, told = Metrics(), [0.0], []
    known = Known(metrics, told.append, lambda: now_s[0])
    first, less = graph(tmp_path, TEXT), graph(tmp_path, TEXT.replace("  trial:", "  other:"))
    for text in (first, less, first):
        known.follow(text)
        now_s[0] += KEPT_S / 2
    now_s[0] += KEPT_S
    known.look()
    assert told == [frozenset({("budget", "other")})]
    assert ("routerd_budget_rejections_total", ("trial", "client", "shadow")) in metrics.snapshot().values


def test_what_is_forgotten_goes_from_every_family_but_gauges() -> None:
    metrics = Metrics()
    metrics.counter("routerd_failovers_total", "m", "a/x", "b/y", "connect").inc()
    metrics.counter("routerd_failovers_total", "m", "b/y", "c/z", "connect").inc()
    metrics.histogram("gen_ai_client_token_usage", "chat", "a", "m", "x", "input").observe(1)
    metrics.histogram("gen_ai_client_token_usage", "chat", "a", "n", "x", "input").observe(1)
    metrics.gauge("routerd_discovery_models", "a").set(1)
    ended = metrics.snapshot()
    for _ in metrics.changes():
        pass
    for names, left in ((frozenset({("target", "a/x"), ("route", "n")}), 3), (frozenset({("route", "m"), ("provider", "a")}), 1)):
        metrics.forget(names)
        ended.forget(names)
        for one in (metrics.snapshot(), ended):
            assert len(one.values) + len(one.histograms) == left
    (told,) = metrics.changes()
    assert len(told.gone) == 4  # control forgets them as well
