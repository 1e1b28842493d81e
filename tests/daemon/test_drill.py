"""A rehearsal is the gateway that serves traffic, over upstreams that fail as told; what is not as expected is exit 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.config import load
from routerd.daemon.cli import main
from routerd.daemon.commands.rehearse import EXAMPLE
from routerd.daemon.drill.outcome import Seen, summary
from routerd.daemon.drill.scenario import Load, Phase, Scenario, ScenarioError, parse
from routerd.daemon.drill.stage import staged

ROUTES = """\
version: 1
providers:
  gpu:
    dialect: openai
    auth: {type: none}
    endpoints: [{name: gpu-a, url: "http://gpu-a.invalid/v1"}, {name: gpu-b, url: "http://gpu-b.invalid/v1"}]
  cloud: {preset: anthropic, api_key: "${NO_SUCH_KEY:-}", optional: true}
models:
  chat: {chain: [gpu/llama, cloud/claude], timeouts: {connect: 1s, first_byte: 2s}}
budgets:
  few: {requests: 20, per: 1h, scope: client}
clients:
  team: {key: sk-team, budgets: [few]}
"""


def rehearsed(tmp_path: Path, scenario: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "scenario.yaml").write_text(scenario)
    status = main(["rehearse", str(tmp_path / "scenario.yaml"), "--format", "json"])
    told = capsys.readouterr()
    assert told.err == ""
    return status, json.loads(told.out)["phases"]


HEAD = "routes: routes.yaml\nspeed: 20\nload: {model: chat, per_s: 4, stream: true}\nphases:\n"


def test_phases_play_in_turn_and_tell_what_clients_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = HEAD + (
        "  - {name: well, for: 4s, expect: {max_errors: 0, max_failed_over: 0, answered_by: [gpu-a, gpu-b]}}\n"
        "  - {name: a refuses, for: 4s, faults: {gpu-a: refuse}, expect: {min_ok: 100%, answered_by: [gpu-b]}}\n"
        "  - {name: gpu fails, for: 4s, faults: {gpu: 503}, expect: {min_failed_over: 1, answered_by: [cloud]}}\n"
        "  - {name: all cut, for: 2s, faults: {gpu: cut, cloud: cut}, expect: {max_errors: 0}}\n"
    )
    status, phases = rehearsed(tmp_path, scenario, capsys)
    assert status == 1
    assert [one["requests"] for one in phases] == [16, 16, 16, 8]
    assert [one["failed"] for one in phases[:3]] == [[], [], []]
    assert phases[1]["failed_over"] > 0
    assert phases[3]["errors_by"] == {"cut": 8}
    assert phases[3]["failed"] == ["errors is 8 of 8, max_errors is 0"]


def test_a_fault_that_ends_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = HEAD + (
        "  - {name: gone, for: 2s, faults: {gpu: refuse, cloud: refuse}, expect: {max_errors: 8}}\n"
        "  - {name: back, for: 4s, expect: {min_ok: 1}}\n"
    )
    status, phases = rehearsed(tmp_path, scenario, capsys)
    assert status == 0
    assert phases[0]["ok"] == 0
    assert phases[1]["ok"] == 16


def test_times_are_told_in_the_time_of_the_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = HEAD + "  - {name: late, for: 2s, faults: {gpu: {late: 1s}, cloud: {late: 1s}}, expect: {max_p50: 500ms}}\n"
    status, phases = rehearsed(tmp_path, scenario, capsys)
    assert status == 1
    assert phases[0]["p50_s"] >= 1.0
    assert "p50 is" in phases[0]["failed"][0]


def test_budgets_of_a_named_client_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = "routes: routes.yaml\nspeed: 20\nphases:\n  - {name: much, for: 8s, load: {model: chat, per_s: 4, client: team}}\n"
    status, phases = rehearsed(tmp_path, scenario, capsys)
    assert status == 0
    assert phases[0]["ok"] == 20
    assert phases[0]["errors_by"] == {"429": 12}


def test_the_table_has_a_line_for_each_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "scenario.yaml").write_text(HEAD + "  - {name: well, for: 1s}\n")
    assert main(["rehearse", str(tmp_path / "scenario.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["phase", "requests", "ok", "failed"]
    assert lines[1].split()[:3] == ["well", "4", "4"]


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("phases: []", "at least one phase"),
        ("phases: [{name: a, for: 1s}]", "nobody asks"),
        ("load: {model: m}\nphases: [{for: soon}]", "'soon' is no duration"),
        ("load: {model: m}\nphases: [{for: 1s, faults: {x: explode}}]", "refuse, reset, hang, cut"),
        ("load: {model: m}\nphases: [{for: 1s, expect: {max_errrors: 1}}]", "unknown key 'max_errrors'"),
        ("load: {model: m}\nphases: [{for: 1s, expect: {max_errors: few}}]", "neither a count nor a part"),
        ("load: {model: m, per_s: 5000}\nphases: [{for: 1h}]", "more than 100000 requests"),
        ("load: {model: m}\nphases: [{for: 1s, faults: {gpu-z: refuse}}]", "no endpoint or provider is called 'gpu-z'"),
        ("load: {model: m, client: nobody}\nphases: [{for: 1s}]", "no client is called 'nobody'"),
        ("[", "it is no YAML"),
    ],
)
def test_a_wrong_scenario_is_exit_2_and_says_why(
    scenario: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "scenario.yaml").write_text(scenario)
    argv = ["rehearse", str(tmp_path / "scenario.yaml"), "--config", str(tmp_path / "routes.yaml")]
    assert main(argv) == 2
    assert says in capsys.readouterr().err


def test_a_scenario_that_is_not_there_is_exit_3(tmp_path: Path) -> None:
    assert main(["rehearse", str(tmp_path / "none.yaml")]) == 3


def test_the_example_of_the_help_is_a_scenario() -> None:
    text = EXAMPLE.partition("a scenario:\n")[2].partition("expectations:")[0]
    found = parse(text)
    assert [phase.name for phase in found.phases] == ["all is well", "gpu-a is gone"]


@given(st.text(max_size=120))
def test_any_text_is_a_scenario_or_an_error(text: str) -> None:
    try:
        found = parse(text)
    except ScenarioError:
        return
    assert isinstance(found, Scenario)


def test_all_lengths_of_the_graph_are_compressed_and_no_credential_is_left(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    graph = load(tmp_path / "routes.yaml", {}).graph
    found = staged(graph, dict.fromkeys(graph.endpoints, 9), 10)
    target = found.routes["chat"].chain[0].targets[0]
    assert (target.timeouts.connect_s, target.timeouts.first_byte_s) == (0.1, 0.2)
    assert found.providers["gpu"].breaker.window_s == graph.providers["gpu"].breaker.window_s / 10
    assert found.budgets["few"].window_s == 360
    assert {one.url for one in found.endpoints.values()} <= {"http://127.0.0.1:9/v1", "http://127.0.0.1:9"}
    assert {(one.dialect, one.auth.type, one.disabled) for one in found.providers.values()} == {("openai", "none", "")}


def test_a_quantile_of_nothing_is_nothing_and_of_one_is_that() -> None:
    phase = Phase(name="p", for_s=1, load=(Load(model="m", per_s=1),))
    assert summary(phase, [])["p99_s"] == 0.0
    assert summary(phase, [Seen(ok=True, status=200, attempts=("a:ok",), took_s=2.0)])["p99_s"] == 2.0
