"""From text to Graph: what is disabled, what wins over what, where things were written, what the digest is over."""

# ruff: noqa: E501  (a document is one line of the test, not a paragraph)

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from routerd.config import Loaded, load
from routerd.errors import ConfigError
from routerd.graph import Timeouts

LoadText = Callable[..., Loaded]
HEAD = "version: 1\nproviders:\n  demo: {dialect: simulator}\n"
MODELS = "models:\n  demo: {chain: [demo/echo]}\n"
REPO = pathlib.Path(__file__).resolve().parents[2]


def test_the_shipped_file_works_without_key_and_without_a_word() -> None:
    loaded = load(REPO / "routes.yaml", {})
    assert not loaded.warnings
    assert loaded.graph.providers["demo"].dialect == "simulator"
    assert "demo" in loaded.graph.routes
    assert not loaded.graph.providers["demo"].disabled
    for route in loaded.graph.routes.values():
        owners = [loaded.graph.providers[target.provider] for step in route.chain for target in step.targets]
        assert any(not owner.disabled for owner in owners)


def test_the_shipped_file_with_its_examples_uncommented_compiles(tmp_path: pathlib.Path) -> None:
    lines = []
    for line in (REPO / "routes.yaml").read_text().splitlines():
        bare = line.lstrip()
        commented = bare.startswith("# ") and (
            line.startswith("  # ") or bare.split(":")[0] in ("# budgets", "# clients") or bare.startswith("#   ")
        )
        prose = bare.startswith(("# `", "# Our", "#   routerd", "#   curl", "#        -d"))
        lines.append(line.replace("# ", "", 1) if commented and not prose else line)
    text = "\n".join(lines)
    assert "\n  gpu:" in text
    assert "\nclients:" in text
    path = tmp_path / "routes.yaml"
    path.write_text(text)
    graph = load(path, {"TEAM_KEY": "k"}).graph
    assert {"gpu-a", "gpu-b"} <= set(graph.endpoints)
    assert "smart" in graph.routes
    assert graph.clients is not None
    assert set(graph.clients) == {"team", "mobile"}


# ── credentials ──

OPTIONAL = "  a: {base_url: 'http://a/v1', api_key: %s, optional: true}\n"


@pytest.mark.parametrize("spec", ["'${K:-}'", "''", "{env: K}", "{file: none}"])
def test_an_optional_provider_without_its_key_is_disabled_with_a_reason(load_text: LoadText, spec: str) -> None:
    provider = load_text(HEAD + OPTIONAL % spec + MODELS).graph.providers["a"]
    assert provider.disabled
    assert provider.auth.secret is None


@pytest.mark.parametrize(
    ("spec", "content"),
    [("'${K:-}'", ""), ("{env: K}", ""), ("{file: key}", "k\n"), ("{file: key}", "k\r\n"), ("{file: key}", "k")],
)
def test_a_key_is_found_where_the_file_says(load_text: LoadText, tmp_path: pathlib.Path, spec: str, content: str) -> None:
    (tmp_path / "key").write_text(content, newline="")
    provider = load_text(HEAD + OPTIONAL % spec + MODELS, K="k").graph.providers["a"]
    assert not provider.disabled
    assert provider.auth.secret is not None
    assert provider.auth.secret.reveal() == "k"


def test_a_missing_key_file_is_an_input(load_text: LoadText, tmp_path: pathlib.Path) -> None:
    loaded = load_text(HEAD + OPTIONAL % "{file: none}" + MODELS)
    assert (tmp_path / "none", "") in [(one.path, one.sha256) for one in loaded.inputs]


def test_optional_clients_without_a_key_are_left_out_and_the_door_stays_shut(load_text: LoadText) -> None:
    graph = load_text(
        HEAD + MODELS + "clients: {a: {key: '${K:-}', optional: true}, b: {key_sha256: '', optional: true}}\n"
    ).graph
    assert graph.clients == {}
    assert graph.disabled_clients == {"a": "K is not set or empty", "b": "key_sha256 is empty"}


def test_only_the_hash_of_a_client_key_is_kept(load_text: LoadText) -> None:
    graph = load_text(HEAD + MODELS + "clients: {a: {key: abc}}\n").graph
    assert graph.clients is not None
    assert graph.clients["a"].key_sha256 == hashlib.sha256(b"abc").digest()


def test_a_route_with_nobody_left_is_a_warning(load_text: LoadText) -> None:
    loaded = load_text(HEAD + OPTIONAL % "'${K:-}'" + "models: {m: {chain: [a/x]}, off: {chain: [a/x], enabled: false}}\n")
    assert [(p.code, p.path, p.severity) for p in loaded.warnings] == [("all-disabled", "models.m", "warning")]


# ── what wins ──


def test_timeouts_are_settled_field_by_field(load_text: LoadText) -> None:
    doc = (
        "version: 1\ndefaults: {timeouts: {connect: 11s, first_byte: 12s, first_token: 13s, idle: 14s}}\n"
        "providers:\n  a: {base_url: 'http://a/v1', timeouts: {first_byte: 22s, first_token: 23s, idle: 24s}}\n"
        "models:\n  m:\n    timeouts: {first_token: 33s, idle: 34s}\n    chain: [{provider: a, model: x, timeouts: {idle: 44s}}, a/y]\n"
    )
    graph = load_text(doc).graph
    first, second = (step.targets[0].timeouts for step in graph.routes["m"].chain)
    assert first == Timeouts(connect_s=11, first_byte_s=22, first_token_s=33, idle_s=44, total_s=900)
    assert second == Timeouts(connect_s=11, first_byte_s=22, first_token_s=33, idle_s=34, total_s=900)
    assert graph.providers["a"].timeouts == Timeouts(connect_s=11, first_byte_s=22, first_token_s=23, idle_s=24, total_s=900)


def test_defaults_reach_models_and_direct_requests(load_text: LoadText) -> None:
    doc = "defaults: {retry: {attempts: 3, backoff: {first: 2s}}, failover: {max_attempts: 7, deadline: 9s}}\n"
    graph = load_text(
        HEAD
        + doc
        + "models:\n  a: {chain: [demo/x]}\n  b: {chain: [demo/x], retry: {backoff: {factor: 5}}, failover: {deadline: 1s}}\n"
    ).graph
    a, b = graph.routes["a"], graph.routes["b"]
    assert (a.retry.attempts, a.retry.backoff.first_s, a.failover.max_attempts, a.failover.deadline_s) == (3, 2, 7, 9)
    assert (b.retry.attempts, b.retry.backoff.first_s, b.retry.backoff.factor) == (3, 2, 5)
    assert (b.failover.max_attempts, b.failover.deadline_s) == (7, 1)
    assert graph.providers["demo"].retry == a.retry
    assert graph.providers["demo"].failover == a.failover


def test_a_chain_text_splits_at_the_first_slash(load_text: LoadText) -> None:
    target = load_text(HEAD + "models: {m: {chain: [demo/a/b:c]}}\n").graph.routes["m"].chain[0].targets[0]
    assert (target.provider, target.model, target.label) == ("demo", "a/b:c", "demo/a/b:c")


def test_an_ipv6_host_and_a_slash_at_the_end_are_fine(load_text: LoadText) -> None:
    graph = load_text("version: 1\nproviders: {a: {base_url: 'HTTP://[::1]:8080/v1//', direct: true}}\n").graph
    assert graph.endpoints["a"].url == "http://[::1]:8080/v1"


# ── places ──


def test_origins_name_the_place_of_every_value(load_text: LoadText, tmp_path: pathlib.Path) -> None:
    doc = (
        HEAD
        + "x-p: &p\n  defaults: {temperature: 1}\nmodels:\n  gpt-4.1:\n    params: *p\n    chain:\n      - demo/x\n      - {provider: demo, model: y}\n"
    )
    origins = load_text(doc).origins
    file = tmp_path / "routes.yaml"
    assert str(origins["models.gpt-4.1.params.defaults.temperature"]) == f"{file}:5:27"
    assert str(origins["models.gpt-4.1.chain[1].model"]) == f"{file}:11:33"
    assert "models.gpt-4.1.chain[2]" not in origins
    assert len(origins) == len(list(origins))


# ── digest ──

SAME = [
    HEAD + "# a comment\n\n" + MODELS,
    "models: {'demo': {chain: [\"demo/echo\"]}}\nproviders: {demo: {dialect: simulator}}\nversion: 1\n",
    HEAD + "x-a: 1\nmodels:\n  demo: {chain: [{provider: demo, model: echo}]}\n",
    HEAD + MODELS + "defaults: {timeouts: {connect: 2000ms, first_byte: 1m}}\n",
]
OTHER = [
    HEAD + MODELS + "defaults: {timeouts: {connect: 3s}}\n",
    HEAD + "models:\n  demo: {chain: [demo/echo2]}\n",
    HEAD + "models:\n  demo: {chain: [demo/echo, demo/b]}\n",
    HEAD + "models:\n  demo: {chain: [demo/echo]}\n  b: {chain: [demo/echo]}\n",
]


def test_the_digest_is_over_what_it_means_not_how_it_is_written(load_text: LoadText) -> None:
    base = load_text(HEAD + MODELS).graph
    for text in SAME:
        graph = load_text(text).graph
        assert graph == base
        assert graph.digest == base.digest
    digests = {load_text(text).graph.digest for text in OTHER}
    assert len(digests | {base.digest}) == len(OTHER) + 1


def test_the_order_of_models_counts(load_text: LoadText) -> None:
    a, b = "  a: {chain: [demo/x]}\n", "  b: {chain: [demo/x]}\n"
    assert load_text(HEAD + "models:\n" + a + b).graph.digest != load_text(HEAD + "models:\n" + b + a).graph.digest


def test_a_rotated_secret_or_an_edited_prompt_changes_the_digest(load_text: LoadText, tmp_path: pathlib.Path) -> None:
    doc = HEAD + "  a: {base_url: 'http://a/v1', api_key: {file: key}}\nmodels: {m: {chain: [a/x], system_prompt: {file: p}}}\n"
    digests = set()
    for key, prompt in (("k1", "p1"), ("k2", "p1"), ("k1", "p2"), ("k1\n", "p1")):
        (tmp_path / "key").write_text(key)
        (tmp_path / "p").write_text(prompt)
        digests.add(load_text(doc).graph.digest)
    assert len(digests) == 3


def test_the_digest_is_the_same_in_every_process() -> None:
    code = "import pathlib, routerd.config as c; print(c.load(pathlib.Path('tests/config/data/reference.good.yaml'), {}).graph.digest)"
    found = set()
    for seed in ("0", "1", "77"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=environ, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


# ── the error as a whole ──


def test_a_schema_error_hides_its_entry_only(load_text: LoadText) -> None:
    doc = (
        HEAD
        + "  bad: {base_url: 5}\nmodels:\n  a: {chain: [bad/x]}\n  b: {chain: [nobody/x]}\n  c: {chain: 7}\naliases: {d: c, e: f}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_text(doc)
    assert [p.code for p in caught.value.problems] == ["wrong-type", "unknown-provider", "wrong-type", "unknown-model"]
    assert caught.value.stage == "schema"


def test_problems_are_sorted_by_place(load_text: LoadText) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(
            HEAD + "models:\n  b: {chain: [x/x]}\n  a: {chain: [x/x], aliases: [b]}\nbudgets: {z: {requests: 0, per: 1m}}\n"
        )
    places = [(p.line, p.column) for p in caught.value.problems]
    assert places == sorted(places)
    assert len(places) == 4


def test_a_worker_pays_nothing_for_validators_and_a_good_file_little() -> None:
    code = (
        "import sys, pathlib, routerd.config as c; assert not {'jsonschema', 'jsonschema_rs', 'msgspec'} & set(sys.modules);"
        "c.load(pathlib.Path('routes.yaml'), {}); assert 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_a_budget_in_dollars_warns_about_targets_without_a_price(load_text: LoadText) -> None:
    text = """
version: 1
providers: {a: {base_url: "http://a/v1"}, demo: {dialect: simulator}}
models:
  free: {budgets: [usd], chain: [a/x, a/y, demo/echo]}
  paid: {budgets: [usd], price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2.5}, chain: [a/z]}
  other: {chain: [a/w]}
budgets: {usd: {usd: 5, per: month}}
"""
    loaded = load_text(text)
    assert [(p.code, p.path, p.message) for p in loaded.warnings] == [
        ("no-price", "budgets.usd", "budget 'usd' counts nothing for what has no price: a/x, a/y")
    ]
    assert loaded.graph.budgets["usd"].limit == 5_000_000_000
    (step,) = loaded.graph.routes["paid"].chain
    price = step.targets[0].price
    assert price is not None
    assert (price.input_nano_usd, price.output_nano_usd, price.cached_input_nano_usd) == (10**9, 2_500_000_000, 10**9)


def test_a_target_has_its_own_price_or_its_models(load_text: LoadText) -> None:
    text = """
version: 1
providers: {a: {base_url: "http://a/v1"}}
models:
  m:
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
    chain: [a/x, {provider: a, model: y, price: {input_usd_per_mtok: 7, output_usd_per_mtok: 7}}, {provider: a, model: z}]
"""
    chain = load_text(text).graph.routes["m"].chain
    assert [step.targets[0].price.input_nano_usd // 10**9 for step in chain if step.targets[0].price] == [1, 7, 1]


# ── the chain for prompts that are too long ──


def test_the_default_overflow_is_of_models_that_say_nothing_and_has_their_timeouts(load_text: LoadText) -> None:
    routes = load_text(
        HEAD
        + "models:\n  a: {chain: [demo/x], timeouts: {idle: 5s}}\n"
        + "  b: {chain: [demo/x], failover: {context_overflow: []}}\n"
        + "  c: {chain: [demo/x], failover: {max_attempts: 2, context_overflow: [demo/own]}}\n"
        + "defaults: {failover: {context_overflow: [demo/long, {any_of: [demo/y, demo/z]}]}}\n"
    ).graph.routes
    labels = {name: [[target.label for target in step.targets] for step in route.overflow] for name, route in routes.items()}
    assert labels == {"a": [["demo/long"], ["demo/y", "demo/z"]], "b": [], "c": [["demo/own"]]}
    assert routes["a"].overflow[0].targets[0].timeouts.idle_s == 5.0


def test_a_preset_that_is_taken_for_a_dialect_is_told_its_key(hints_of: Callable[..., list[str]]) -> None:
    text = "version: 1\nproviders:\n  gpu: {dialect: vllm, base_url: 'http://a/v1'}\nmodels: {m: {chain: [gpu/x]}}\n"
    assert hints_of(text) == ["write `preset: vllm`, which has its dialect and more"]


def test_a_variable_that_a_running_daemon_cannot_see_is_told_so(hints_of: Callable[..., list[str]]) -> None:
    (hint,) = hints_of("version: 1\nproviders:\n  gpu: {base_url: '${NOT_SET}'}\nmodels: {m: {chain: [gpu/x]}}\n")
    assert hint == "set it where the daemon starts (a running one does not see it), or give it a default: ${NOT_SET:-}"


@pytest.mark.parametrize(
    ("provider", "warned"),
    [
        ("base_url: 'http://gpu:8000'", "write http://gpu:8000/v1; or http://gpu:8000/ if nothing is missing"),
        ("base_url: 'http://gpu:8000/', auth: {type: none}", ""),
        ("base_url: 'http://gpu:8000/v1'", ""),
        ("preset: vllm, base_url: 'http://gpu:8000'", ""),
        ("dialect: ollama, base_url: 'http://gpu:11434'", ""),
        ("base_url: 'http://gpu:8000', offers: {chat: v1/chat/completions}", ""),
        ("endpoints: [{name: a, url: 'http://gpu/v1'}, {name: b, url: 'http://gpu'}]", "write http://gpu/v1; or http://gpu/ if nothing is missing"),
    ],
)
def test_a_base_url_that_ends_at_the_host_is_a_warning(load_text: LoadText, provider: str, warned: str) -> None:
    loaded = load_text(f"version: 1\nproviders:\n  gpu: {{{provider}}}\nmodels: {{m: {{chain: [gpu/x]}}}}\n")
    assert [(one.code, one.hint) for one in loaded.warnings] == ([("no-path", warned)] if warned else [])


def test_two_targets_without_a_comma_are_no_model(hints_of: Callable[..., list[str]]) -> None:
    text = HEAD + "models: {m: {chain: [demo/echo demo/other]}}\n"
    assert hints_of(text) == ["is a comma missing? A name that has one is written {provider: demo, model: ...}"]


def test_the_long_form_takes_a_model_with_a_space(load_text: LoadText) -> None:
    graph = load_text(HEAD + "models: {m: {chain: [{provider: demo, model: my model}]}}\n").graph
    assert graph.routes["m"].chain[0].targets[0].model == "my model"


def test_a_key_of_digits_is_told_to_be_quoted_and_never_shown(hints_of: Callable[..., list[str]]) -> None:
    assert hints_of(HEAD + MODELS + "clients: {team: {key: 12345}}\n") == ["quote it"]
