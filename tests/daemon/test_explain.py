"""`routerd explain`: one screen with the whole decision, the same facts as JSON, and never a prompt or a secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routerd.daemon.cli import main
from routerd.daemon.commands.explain_text import render

ROUTES = """version: 1
providers:
  gpu:
    endpoints: [{name: gpu-a, url: "http://a/v1"}, {name: gpu-b, url: "http://b/v1"}]
  cloud: {base_url: "https://cloud.example/v1", api_key: sk-secret, budgets: [free]}
  off: {base_url: "https://off.example/v1", api_key: "${OFF_KEY:-}", optional: true}
models:
  m:
    description: our best
    aliases: [fast]
    system_prompt: {text: "be brief", mode: prepend}
    params: {defaults: {temperature: 1.6}, clamp: {temperature: {max: 1.2}}, force: {seed: 7}, drop: [logit_bias]}
    chain: [gpu/x, cloud/y, {provider: off, model: z, params: {force: {seed: 8}}, timeouts: {connect: 9s}}]
    failover: {max_attempts: 3, deadline: 2m}
    retry: {attempts: 2}
    budgets: [tokens]
  long: {chain: [gpu/x], failover: {context_overflow: [cloud/big, off/z]}}
  "g-*": {chain: ["cloud/{1}"]}
budgets:
  free: {requests: 20, per: 1m}
  tokens: {tokens: 2000000, per: 1d, scope: client}
clients:
  mobile: {key: client-secret, models: [m, fast]}
  gone: {key: "${GONE:-}", optional: true}
"""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ROUTERD_ADMIN", "127.0.0.1:1")  # whatever runs on this machine
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES)

    def go(*argv: str) -> tuple[int, str]:
        status = main(["explain", "--config", str(path), *argv])
        said = capsys.readouterr()
        return status, (said.out + said.err).replace(f"{tmp_path}/", "")

    return go


def test_one_screen_has_the_whole_decision(run: Run) -> None:
    status, text = run("--model", "fast", "--client", "mobile", "--down", "gpu-a", "--used", "free=1", "--used", "tokens=0.5")
    assert status == 0
    for line in (
        "model    fast  [routes.yaml:10:15]",
        "answer   200",
        "route    m (by an alias)  [routes.yaml:9:5]",
        "about    our best",
        "client   mobile may use it (m, fast)  [routes.yaml:23:11]",
        "prompt   prepend, 8 characters  [routes.yaml:11:27]",
        "params   logit_bias  dropped  [routes.yaml:12:102]",
        "         temperature 1.6 by default  [routes.yaml:12:38]",
        "         temperature clamped to ..1.2  [routes.yaml:12:65]",
        "         seed        7 always  [routes.yaml:12:92]",
        "budgets  tokens 2,000,000 tokens in 1d for client mobile, of model m, 50% used: passes  [routes.yaml:21:11]",
        "         free   20 requests in 1m for all, of provider cloud, 100% used: refuses  [routes.yaml:20:9]",
        "failover at most 3 attempts within 2m  [routes.yaml:14:30, routes.yaml:14:43]",
        "         on auth, cold, connect, credits, protocol, rate_limited, server_error, timeout",
        "tries    up to 2 times at each target, waiting 1s to 30s  [routes.yaml:15:23]",
        "   1. gpu/x at gpu-b    step 1  [routes.yaml:13:13]",
        "   2. cloud/y at cloud  step 2  [routes.yaml:13:20]",
        "      budget free refuses: passed over",
        "   3. gpu/x at gpu-a    step 1  [routes.yaml:13:13]",
        "      thought away: goes last",
        "    - off/z             step 3  [routes.yaml:13:29]",
        "      provider 'off' is disabled: OFF_KEY is not set or empty",
        "sends    temperature 1.2  [routes.yaml:12:38]",
        "timeouts connect      2s  [built in]",
        "         stream_total none  [built in]",
    ):
        assert line in text.splitlines(), text
    assert text.count("\n") < 50
    assert "brief" not in text
    assert "secret" not in text


def test_json_has_what_the_text_has(run: Run) -> None:
    status, text = run("--model", "m", "--down", "gpu", "--format", "json")
    told = json.loads(text)
    assert (status, told["status"], told["client"]) == (0, 200, None)
    assert [(one["position"], one["target"]) for one in told["targets"]] == [
        (1, "cloud/y"), (2, "gpu/x"), (3, "gpu/x"), (0, "off/z"),
    ]  # fmt: skip
    assert {one["name"]: one["of"] for one in told["budgets"]} == {"tokens": "model m", "free": "provider cloud"}
    assert render(told, lambda _role, shown: shown).startswith("model    m\nanswer   200\n")
    assert "be brief" not in text


def test_targets_that_differ_are_told_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFF_KEY", "sk-there")
    lines = run("--model", "m")[1].splitlines()
    at = lines.index("         off/z:")
    assert lines[at - 3].startswith("sends    gpu/x, cloud/y:")
    assert lines[at + 2].strip().startswith("seed        8  [routes.yaml:13:")
    assert any(line.startswith("         connect      9s  [routes.yaml:13:") for line in lines)


REFUSED: dict[str, tuple[list[str], str]] = {
    "permission": (["--model", "g-x", "--client", "mobile"], "403 model_forbidden"),
    "budget": (["--model", "m", "--used", "tokens=1"], "429 budget_exceeded"),
    "all down": (["--model", "g-x", "--down", "cloud"], "502 upstream_connect"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refusal_is_1_and_still_explained(run: Run, why: str) -> None:
    argv, answer = REFUSED[why]
    status, text = run(*argv)
    assert status == 1
    assert f"answer   {answer}" in text
    assert "plan     tried in this order" in text


def test_without_a_client_it_says_that_a_key_is_needed(run: Run) -> None:
    assert "none named: without a key it is a 401" in run("--model", "m")[1]
    assert "none named" not in run("--model", "m", "--client", "mobile")[1]


def test_no_such_model_is_1_with_what_may_have_been_meant(run: Run) -> None:
    why = "routes.yaml has no model 'fats'; did you mean 'fast'? there are: m, long, fast"
    assert run("--model", "fats") == (1, f"routerd: 404 model_not_found: {why}\n")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--client", "nobody"], "no client is called 'nobody'; there are: mobile"),
        (["--client", "gone"], "the client 'gone' is disabled: GONE is not set or empty"),
        (["--down", "gpu-z"], "no endpoint is called 'gpu-z'; did you mean 'gpu-b'? there are: gpu-a, gpu-b, cloud, off, gpu"),
        (["--used", "free"], "--used 'free' is not BUDGET=PART"),
        (["--used", "free=much"], "--used 'free=much' is not BUDGET=PART"),
        (["--used", "free=nan"], "--used 'free=nan' is not BUDGET=PART"),
        (["--used", "fere=1"], "no budget is called 'fere'; did you mean 'free'? there are: free, tokens"),
    ],
)
def test_a_name_that_nothing_has_is_2(run: Run, argv: list[str], says: str) -> None:
    status, text = run("--model", "m", *argv)
    assert status == 2
    assert says in text
    assert text.count("\n") == 1


def test_a_terminal_gets_colours_that_change_no_text(run: Run) -> None:
    import re

    told: dict[str, Any] = json.loads(run("--model", "m", "--used", "free=1", "--format", "json")[1])
    coloured = render(told, lambda role, text: f"<{role}>{text}</{role}>")
    assert re.sub(r"</?(strong|place|good|bad|warning)>", "", coloured) == render(told, lambda _role, text: text)
    assert "<bad>refuses</bad>" in coloured


def test_the_chain_for_prompts_that_are_too_long_has_its_own_list(run: Run) -> None:
    lines = run("--model", "long")[1].splitlines()
    at = lines.index("overflow tried instead when the prompt is too long")
    assert lines[at + 1].startswith("   1. cloud/big at cloud  step 1  [routes.yaml:17:")
    assert lines[at + 2].startswith("    - off/z               step 2  [routes.yaml:17:")
    told = json.loads(run("--model", "long", "--used", "free=1", "--format", "json")[1])
    assert [(one["position"], one["target"]) for one in told["overflow"]] == [(1, "cloud/big"), (0, "off/z")]
    assert told["overflow"][0]["why"] == ["budget free refuses: passed over"]
    assert "overflow" not in run("--model", "m")[1]


HASHED = """version: 1
providers:
  gpu:
    endpoints: [{name: a, url: "http://a/v1"}, {name: b, url: "http://b/v1"}, {name: c, url: "http://c/v1"}]
    balance: prefix_hash
models:
  m: {chain: [gpu/x]}
"""


def test_a_header_says_where_a_session_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(HASHED)

    def first(session: str) -> str:
        argv = ["explain", "--config", str(path), "--model", "m", "--format", "json", "--header", f"X-Session-Id={session}"]
        assert main(argv) == 0
        told = json.loads(capsys.readouterr().out)
        return str(next(one["endpoint"] for one in told["targets"] if one["position"] == 1))

    went = {str(n): first(str(n)) for n in range(24)}
    assert set(went.values()) == {"a", "b", "c"}
    assert all(first(session) == endpoint for session, endpoint in went.items())
    assert main(["explain", "--config", str(path), "--model", "m", "--header", "x-session-id"]) == 2
    assert "is not NAME=VALUE" in capsys.readouterr().err
