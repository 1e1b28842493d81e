"""Rules of the `tests:` block: what each key pretends or expects, and what is told of a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from routerd.config import load
from routerd.daemon.load.cases import run_tests
from routerd.daemon.load.configuration import load_checked
from routerd.daemon.load.forecast import UNREACHABLE
from routerd.errors import AttemptsExhausted, ConfigError, Delivery, ErrorKind, Problem, UpstreamError
from routerd.server.http.render import exhausted_reply

BASE = """
version: 1
providers:
  gpu: {endpoints: [{name: gpu-a, url: "http://a/v1"}, {name: gpu-b, url: "http://b/v1"}]}
  cloud: {base_url: "https://cloud.example/v1", api_key: "${CLOUD_KEY:-}", optional: true, budgets: [free], body: {extra: 1}}
  other: {base_url: "https://other.example/v1", direct: true}
models:
  m:
    aliases: [fast]
    system_prompt: {text: be brief, mode: prepend}
    params: {defaults: {temperature: 0.6, seed: 1}, clamp: {max_tokens: {max: 100}}, drop: [logit_bias]}
    budgets: [tokens]
    chain: [gpu/x, {provider: cloud, model: y, params: {force: {seed: 2}}}]
  group: {chain: [{any_of: [gpu/x, {provider: cloud, model: y}, {provider: other, model: z, weight: 0}]}, other/last]}
  off: {enabled: false, chain: [gpu/x]}
  "at/*": {chain: ["cloud/{1}"]}
budgets:
  free: {requests: 20, per: 1m}
  tokens: {tokens: 20000, per: 1m, scope: client}
clients:
  mobile: {key: "${MOBILE_KEY:-}", optional: true, models: [group, "at/*"]}
tests:
"""

Run = Callable[..., list[Problem]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(given, expect)` returns the problems of one test of BASE."""

    def go(given: dict[str, Any], expect: dict[str, Any], **environ: str) -> list[Problem]:
        path = tmp_path / "routes.yaml"
        path.write_text(BASE + "  - " + json.dumps({"name": "it", "given": given, "expect": expect}) + "\n")
        (result,) = run_tests(load(path, environ))
        assert result.name == "it"
        return list(result.problems)

    return go


HOLDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the plan has optional providers without their key": ({"model": "m"}, {"plan": ["gpu/x", "cloud/y"], "target": "gpu/x"}),
    "an alias is its route": ({"model": "fast"}, {"route": "m"}),
    "a pattern fills the name": ({"model": "at/a/b"}, {"route": "at/*", "target": "cloud/a/b"}),
    "a direct name has a route of its own": ({"model": "other/q"}, {"route": "other/*", "plan": ["other/q"]}),
    "a provider that is down is out": ({"model": "m", "down": ["gpu"]}, {"target": "cloud/y", "plan": ["cloud/y"]}),
    "one endpoint of two down changes nothing": ({"model": "m", "down": ["gpu-b"]}, {"plan": ["gpu/x", "cloud/y"]}),
    "all endpoints down is the provider down": ({"model": "m", "down": ["gpu-a", "gpu-b"]}, {"target": "cloud/y"}),
    "everything down is 502": ({"model": "m", "down": ["gpu", "cloud"]}, {"status": 502, "plan": [], "route": "m"}),
    "a group in file order": ({"model": "group"}, {"plan": ["gpu/x", "cloud/y", "other/z", "other/last"]}),
    "a group in any order": ({"model": "group"}, {"plan": [["other/z", "cloud/y", "gpu/x"], "other/last"]}),
    "a group loses what is down": ({"model": "group", "down": ["cloud"]}, {"plan": [["other/z", "gpu/x"], "other/last"]}),
    "each member of a group may be the target": ({"model": "group"}, {"target": "cloud/y"}),
    "defaults are sent": ({"model": "m"}, {"params": {"temperature": 0.6, "seed": 1}}),
    "the client's own wins over a default": ({"model": "m", "params": {"temperature": 2}}, {"params": {"temperature": 2.0}}),
    "a clamp clamps": ({"model": "m", "params": {"max_tokens": 900}}, {"params": {"max_tokens": 100}}),
    "null is not sent": ({"model": "m", "params": {"logit_bias": {"1": 1}}}, {"params": {"logit_bias": None}}),
    "the target's own parameters and fields": ({"model": "m", "down": ["gpu"]}, {"params": {"seed": 2, "extra": 1}}),
    "the prompt is there": ({"model": "m"}, {"system_prompt": "be brief"}),
    "the prompt is joined": ({"model": "m", "system_prompt": "arr"}, {"system_prompt": "be brief\n\narr"}),
    "no prompt": ({"model": "group"}, {"system_prompt": ""}),
    "a client's list": ({"model": "m", "client": "mobile"}, {"status": 403, "code": "model_forbidden"}),
    "a client may": ({"model": "group", "client": "mobile"}, {"status": 200, "target": "gpu/x"}),
    "no such model": ({"model": "nope"}, {"status": 404, "code": "model_not_found"}),
    "a disabled model": ({"model": "off"}, {"status": 404, "code": "model_disabled"}),
    "a budget that is used up": ({"model": "m", "used": {"tokens": 1}}, {"status": 429, "code": "budget_exceeded"}),
    "a budget with room": ({"model": "m", "used": {"tokens": 0.9}}, {"status": 200}),
    "an estimate that does not fit": ({"model": "m", "used": {"tokens": 0.99}}, {"status": 429}),
    "a provider's budget makes it fail over": ({"model": "at/q", "used": {"free": 1}}, {"status": 429}),
    "and leaves the rest of the plan": ({"model": "m", "used": {"free": 1}}, {"plan": ["gpu/x"]}),
}  # fmt: skip


@pytest.mark.parametrize("rule", HOLDS)
def test_an_expectation_that_holds_says_nothing(run: Run, rule: str) -> None:
    assert run(*HOLDS[rule]) == []


FAILS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "target": ({"model": "m"}, {"target": "cloud/y"}, "expected target cloud/y, got gpu/x"),
    "a member without weight": ({"model": "group"}, {"target": "other/z"}, "expected target other/z, got gpu/x or cloud/y"),
    "plan": ({"model": "m"}, {"plan": ["cloud/y", "gpu/x"]}, "expected plan [cloud/y, gpu/x], got [gpu/x, cloud/y]"),
    "a plan that goes on": ({"model": "m"}, {"plan": ["gpu/x"]}, "expected plan [gpu/x], got [gpu/x, cloud/y]"),
    "a plan that ends": ({"model": "m", "down": ["cloud"]}, {"plan": ["gpu/x", "cloud/y"]}, "got [gpu/x]"),
    "a group that is none": ({"model": "m"}, {"plan": [["cloud/y", "gpu/x"]]}, "expected plan [[cloud/y, gpu/x]], got"),
    "part of a group": ({"model": "group"}, {"plan": [["gpu/x", "cloud/y"], "other/z", "other/last"]}, "got [[gpu/x, cloud/y, o"),
    "params": ({"model": "m"}, {"params": {"temperature": 0.5}}, "expected temperature 0.5, got 0.6"),
    "true is not 1": ({"model": "m"}, {"params": {"seed": True}}, "expected seed true, got 1"),
    "a parameter that is sent": ({"model": "m"}, {"params": {"seed": None}}, "expected seed not to be sent, got 1"),
    "a parameter that is not": ({"model": "m"}, {"params": {"top_p": 1}}, "expected top_p 1, got nothing"),
    "system_prompt": ({"model": "m"}, {"system_prompt": "rude"}, "expected system_prompt with rude, got \"be brief\""),
    "no system_prompt": ({"model": "m"}, {"system_prompt": ""}, 'expected system_prompt to be none, got "be brief"'),
    "route": ({"model": "at/q"}, {"route": "m"}, "expected route m, got at/*"),
    "status": ({"model": "m"}, {"status": 403}, "expected status 403, got 200"),
    "code": ({"model": "off"}, {"code": "model_not_found"}, "expected code model_not_found, got 404 model_disabled: "),
    "a refusal": ({"model": "m", "client": "mobile"}, {"target": "gpu/x"}, "expected an answer (target), got 403 model_forb"),
}  # fmt: skip


@pytest.mark.parametrize("rule", FAILS)
def test_an_expectation_that_fails_says_what_came_instead(run: Run, rule: str) -> None:
    given, expect, message = FAILS[rule]
    (problem,) = run(given, expect)
    assert problem.message.startswith("it: ")
    assert message in problem.message
    assert (problem.stage, problem.code, problem.severity) == ("tests", "test-failed", "error")


def test_a_failure_stands_at_its_expectation_with_the_plan(run: Run) -> None:
    problem, other = run({"model": "group"}, {"status": 404, "params": {"temperature": None, "seed": 1}})
    assert (problem.path, other.path) == ("tests[0].expect.status", "tests[0].expect.params.seed")
    assert problem.source[problem.column - 1 :].startswith("404")
    assert other.source[other.column - 1 :].startswith("1}")
    assert problem.hint == "the plan is [[gpu/x, cloud/y, other/z], other/last]"


def test_a_value_from_outside_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    test = "  - {name: t, given: {model: at/q}, expect: {params: {extra: 2}}}\n"
    path.write_text(BASE.replace("{extra: 1}", '{extra: "${TOKEN}"}') + test)
    (result,) = run_tests(load(path, {"TOKEN": "sk-very-secret"}))
    assert "sk-very" not in repr(result)
    assert "${TOKEN}" in result.problems[0].message


def test_the_credentials_at_hand_make_no_difference(run: Run) -> None:
    given, expect = {"model": "m", "down": ["gpu"]}, {"target": "cloud/y"}
    assert run(given, expect) == run(given, expect, CLOUD_KEY="sk", MOBILE_KEY="abc") == []


def test_everything_down_is_answered_as_the_server_does() -> None:
    gone = UpstreamError(ErrorKind.CONNECT, "gone", delivery=Delivery.NOT_SENT)
    reply = exhausted_reply(AttemptsExhausted([], gone), "")
    assert (reply.status, msgspec.json.decode(reply.body)["error"]["code"]) == UNREACHABLE


def test_a_failing_test_keeps_a_configuration_from_serving(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(BASE + "  - {name: t, given: {model: m}, expect: {status: 404}}\n")
    with pytest.raises(ConfigError) as caught:
        load_checked(path, {})
    assert caught.value.stage == "tests"
    assert path in caught.value.inputs
    path.write_text(BASE + "  - {name: t, given: {model: m}, expect: {status: 200}}\n")
    assert load_checked(path, {}).graph.digest == load(path, {}).graph.digest


def test_a_changed_test_is_no_change_of_what_serves(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    digests = set()
    for status in (200, 404):
        path.write_text(BASE + f"  - {{name: t, given: {{model: m}}, expect: {{status: {status}}}}}\n")
        digests.add(load(path, {}).graph.digest)
    assert len(digests) == 1


def test_many_failures_are_all_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(BASE + "".join(f"  - {{name: t{i}, given: {{model: m}}, expect: {{status: 404}}}}\n" for i in range(12)))
    with pytest.raises(ConfigError) as caught:
        load_checked(path, {})
    failed = [replace(problem, hint="") for problem in caught.value.problems if problem.stage == "tests"]
    assert [problem.path for problem in failed] == [f"tests[{i}].expect.status" for i in range(12)]
