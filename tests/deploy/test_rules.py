"""The rules and alerts: promtool accepts them, each alert fires in its story and no other does, and they name what there is."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml

from routerd.observe import FAMILIES
from tests.support.prometheus import promtool

HERE = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
ALERTS = [rule for group in yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
RECORDED = [rule for group in yaml.safe_load((HERE / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
STORIES = (HERE / "tests.yaml").read_text()


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(HERE / "rules.yaml"), str(HERE / "alerts.yaml"))


def test_every_story_wakes_those_it_should() -> None:
    promtool("test", "rules", str(HERE / "tests.yaml"))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert all(len(text) > 20 for text in rule["annotations"].values())
    assert rule["annotations"]["runbook"].rstrip().endswith(".")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_fires_in_a_story(rule: dict[str, Any]) -> None:
    assert f'alertname="{rule["alert"]}"' in STORIES


@pytest.mark.parametrize("rule", ALERTS + RECORDED, ids=lambda rule: str(rule.get("alert") or rule.get("record")))
def test_a_rule_asks_for_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    recorded = {other["record"] for other in RECORDED}
    names = set(re.findall(r"(?<![:\w])(?:(?:\w+:)?(?:routerd|gen_ai|process)_\w+(?::\w+)?)", rule["expr"]))
    for name in names - recorded:
        family = name if name in FAMILIES else re.sub(r"_(bucket|count|sum)$", "", name)
        assert family in FAMILIES, name
    for name, matchers in re.findall(r"((?:routerd|process)_\w+)\{([^}]*)\}", rule["expr"]):
        for label in re.findall(r"(\w+)=", matchers):
            assert label in FAMILIES[name].labels, (name, label)
