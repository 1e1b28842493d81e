"""What the page is drawn from: the graph without a secret, and rates out of counters."""

from __future__ import annotations

import json
from pathlib import Path

from routerd.config import load
from routerd.daemon.admin.picture import address, picture
from routerd.daemon.admin.rates import Rates
from routerd.observe import Snapshot

TEXT = """\
version: 1
providers:
  gpu:
    dialect: openai
    api_key: sk-very-secret
    headers: {x-org: secret-org}
    body: {token: secret-body}
    endpoints: [{name: a, url: "http://gpu.internal:8000/secret-path/v1"}, {name: b, url: "http://b/v1", weight: 2}]
models:
  big: {aliases: [gpt-4], chain: [{any_of: [{provider: gpu, model: x, weight: 3}, {provider: gpu, model: y}]}], budgets: [dear]}
  "many-*": {chain: ["gpu/{1}"]}
budgets:
  dear: {usd: 2.5, per: month}
clients:
  team: {key: sk-of-the-team}
"""


def test_the_graph_is_told_without_a_secret(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text(TEXT)
    told = picture(load(tmp_path / "routes.yaml", {}).graph)
    text = json.dumps(told)
    assert "secret" not in text
    assert "sk-" not in text
    assert told["clients"] == ["team"]
    assert [(one["name"], one["pattern"]) for one in told["models"]] == [("big", False), ("many-*", True)]
    assert [one["model"] for one in told["models"][0]["chain"][0]["targets"]] == ["x", "y"]
    assert [one["address"] for one in told["providers"][0]["endpoints"]] == ["http://gpu.internal:8000", "http://b"]
    assert told["budgets"][0]["limit"] == 2.5


def test_an_address_has_no_user() -> None:
    assert address("https://user:secret@host:8443/v1?key=secret") == "https://host:8443"
    assert address("") == ""


def looked(requests: float, tokens: float) -> Snapshot:
    return Snapshot(
        values={
            ("routerd_requests_total", ("big", "team", "ok")): requests,
            ("routerd_requests_total", ("big", "team", "upstream_error")): requests / 2,
            ("routerd_tokens_total", ("big", "team", "gpu", "output")): tokens,
            ("routerd_tokens_total", ("big", "team", "gpu", "input")): 1000 * tokens,
            ("routerd_tokens_total", ("still", "team", "gpu", "output")): 7.0,
            ("routerd_budget_used_ratio", ("dear", "client", "enforce")): 0.25,
            ("routerd_budget_used_ratio", ("dear", "client", "shadow")): 0.5,
        }
    )


def test_a_rate_is_what_grew_since_the_oldest_look_of_the_last_ten_seconds() -> None:
    now = [100.0]
    rates = Rates(lambda: now[0])
    first = rates.look(looked(10, 100))
    assert first["model_requests"] == {}
    assert first["budgets"] == {"dear": 0.5}
    now[0] = 104.0
    second = rates.look(looked(30, 500))
    assert second["model_requests"] == {"big": 7.5}
    assert second["model_errors"] == {"big": 2.5}
    assert second["model_tokens"] == {"big": 100.0}
    assert second["provider_tokens"] == {"gpu": 100.0}
    now[0] = 111.0
    third = rates.look(looked(30, 500))
    assert third["over_s"] == 7.0
    assert third["model_requests"] == {}


def test_looks_that_follow_each_other_fast_do_not_disturb() -> None:
    now = [100.0]
    rates = Rates(lambda: now[0])
    rates.look(looked(0, 0))
    for _ in range(100):
        now[0] += 0.01
        rates.look(looked(0, 0))
    now[0] = 102.0
    assert rates.look(looked(20, 0))["model_requests"] == {"big": 15.0}
