"""Which series a configuration makes known from the start."""

from __future__ import annotations

import pathlib

from routerd.config import load
from routerd.daemon.known import MOST_SERIES, OUTCOMES, RESULTS, start_at_zero
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
    start_at_zero(metrics, graph)
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
    start_at_zero(metrics, graph(tmp_path, TEXT))
    assert metrics.counter("routerd_attempts_total", "demo/echo", "ok").value == 3
