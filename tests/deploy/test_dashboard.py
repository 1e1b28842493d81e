"""Every query of the dashboard and every rule, answered by a real Prometheus that scrapes a real daemon under traffic."""

from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.daemon import Daemon
from tests.support.http import CHAT, ask, fetch
from tests.support.ports import closed_port
from tests.support.prometheus import Prometheus

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "routerd.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ROWS = ["Overview", "Traffic", "Latency", "Tokens and cost", "Budgets", "Health of endpoints", "Reloads", "Process"]
QUIET = {"routerd_state_up", "routerd_state_losses_total", "routerd_spans_total"}  # only with --state, --otel
ROUTES = """
version: 1
providers:
  demo: {dialect: simulator, direct: true}
  dead: {dialect: openai, base_url: "http://127.0.0.1:PORT/v1", auth: {type: none}}
budgets:
  few: {requests: 3, per: 1h}
  slots: {concurrency: 1, queue: {max: 9, wait: 5s}}
models:
  m: {chain: [dead/real, demo/echo], price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}, budgets: [slots]}
  limited: {chain: [demo/echo], budgets: [few]}
"""


def expressions(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a panel as Grafana sends them, with everything chosen."""
    chosen = {"$job": ".*", "$instance": ".*", "$route": ".*", "$__rate_interval": "30s"}
    found = []
    for target in panel["targets"]:
        expr = target["expr"]
        for name, value in chosen.items():
            expr = expr.replace(name, value)
        assert "$" not in expr
        found.append(expr)
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Give a Prometheus that has watched a daemon with two workers for some seconds of traffic, failures and reloads."""
    directory = tmp_path_factory.mktemp("watched")
    text = ROUTES.replace("PORT", str(closed_port()))
    daemon = Daemon(directory, text, args=["--workers", "2"])
    rules = (DEPLOY / "prometheus" / "rules.yaml", DEPLOY / "prometheus" / "alerts.yaml")
    try:
        prometheus = Prometheus(directory, daemon.admin, rules)
        try:
            prometheus.wait('routerd_requests_total{outcome="ok"} == 0')  # the zeros, before anything is counted
            asyncio.run(_traffic(daemon, text))
            prometheus.wait("sum(increase(routerd_failovers_total[30s])) > 0")
            yield prometheus
        finally:
            prometheus.stop()
    finally:
        daemon.stop()


async def _traffic(daemon: Daemon, text: str) -> None:
    ends_at_s = time.monotonic() + 4
    daemon.write(text + "  other: {chain: [demo/echo]}\n")
    await daemon.generation(2)
    while time.monotonic() < ends_at_s:
        await asyncio.gather(*(fetch(daemon, CHAT, ask(model, "several words", stream=stream)) for model, stream in ASKED))
    await fetch(daemon, CHAT, ask("nobody"))


ASKED = [(model, stream) for model in ("m", "m", "limited", "demo/x") for stream in (False, True)]


def test_the_dashboard_has_its_parts_and_every_panel_says_its_unit() -> None:
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == ROWS
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
    taken = [(p["gridPos"]["x"] + x, p["gridPos"]["y"]) for p in BOARD["panels"] for x in range(p["gridPos"]["w"])]
    assert len(set(taken)) == len(taken)  # nothing lies upon another
    assert max(x for x, _ in taken) == 23


def lost(told: Any, read: Any, path: str = "") -> list[str]:
    """Return the places of `told` that are not, or not so, in `read`."""
    if isinstance(told, dict) and isinstance(read, dict):
        return [p for key, one in told.items() for p in lost(one, read.get(key), f"{path}.{key}" if path else key)]
    if isinstance(told, list) and isinstance(read, list) and len(told) == len(read):
        return [p for one, other in zip(told, read, strict=True) for p in lost(one, other, path)]
    return [] if told == read else [path]


def test_the_dashboard_keeps_to_the_schema_of_grafana() -> None:
    """Read into the models that Grafana makes of its own schema, and written again: what they do not know would be gone."""
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(BOARD)))
    # Prometheus's own settings of an annotation and of a variable, which that schema leaves to the data source.
    of_prometheus = {"annotations.list.titleFormat", "annotations.list.textFormat", "templating.list.definition"}
    assert set(lost(BOARD, read)) == of_prometheus
    assert lost({**BOARD, "titel": "x"}, read)


def test_the_query_of_the_adapter_has_data(seen: Prometheus) -> None:
    """As prometheus-adapter fills it in for the HorizontalPodAutoscaler, with the labels that there are here."""
    values = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    series = rule["seriesQuery"].partition("{")[0]
    filled = {"<<.GroupBy>>": "instance", "<<.Series>>": series, "<<.LabelMatchers>>": 'job="routerd"'}
    query = rule["metricsQuery"]
    for word, value in filled.items():
        query = query.replace(word, value)
    assert len(seen.query(query)) == 1
    (wanted,) = yaml.safe_load((DEPLOY / "kubernetes" / "hpa.yaml").read_text())["spec"]["metrics"]
    assert wanted["pods"]["metric"]["name"] == series


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_every_query_of_a_panel_has_data(panel: dict[str, Any], seen: Prometheus) -> None:
    for expr in expressions(panel):
        found = seen.query(expr)
        if any(name in expr for name in QUIET):
            continue
        assert found, expr
        values = [float(series["value"][1]) for series in found]
        assert any(value == value for value in values), expr  # not only NaN


def test_the_variables_find_their_values(seen: Prometheus) -> None:
    assert seen.get("label/job/values", **{"match[]": "routerd_config_info"}) == ["routerd"]
    assert {"m", "limited", "demo/*", "_other"} <= set(seen.get("label/route/values", **{"match[]": "routerd_requests_total"}))
    for variable in BOARD["templating"]["list"][1:]:
        assert variable["query"]["query"].startswith("label_values(routerd_")


def test_every_rule_is_evaluated_without_an_error(seen: Prometheus) -> None:
    seen.wait("job:routerd_event_loop_lag_seconds:p99_5m")
    rules = [rule for group in seen.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == 33
    assert [rule for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []


def test_the_zeros_make_the_first_event_a_rate(seen: Prometheus) -> None:
    """Three requests of `limited` were let through; without a zero before them the first would be missing."""
    counter = 'routerd_requests_total{route="limited",outcome="ok"}[5m]'
    (series,) = seen.query(f"max_over_time({counter}) - min_over_time({counter})")
    assert float(series["value"][1]) == 3
