"""Presets: data that the schema accepts, the base that a provider's own keys override."""

from __future__ import annotations

import ast
import json
import pathlib
from collections.abc import Callable

import pytest

import routerd
from routerd.config import Loaded, render, schema_json
from routerd.config.compile.provider.template import _PLACEHOLDER, PLACES
from routerd.config.compile.provider.traits import CAPABLE
from routerd.config.report import Report
from routerd.config.source import Limits, parse, preset_names, preset_text
from routerd.config.tree import Tree
from routerd.daemon.endpoints.probes import probe_question
from routerd.errors import ConfigError
from routerd.graph import Discover, LoadSource, Probe, Provider
from routerd.wire import make_dialect
from routerd.wire.address import path_below
from routerd.wire.anthropic import MessagesClient
from routerd.wire.template.request import _PLACES, PLACEHOLDER

LoadText = Callable[..., Loaded]
NAMES = preset_names()
NEEDS_URL = {"azure-openai"}


def provider(load_text: LoadText, body: str, **environ: str) -> Provider:
    return load_text(f"version: 1\nproviders: {{p: {body}}}\nmodels: {{m: {{chain: [p/x]}}}}", **environ).graph.providers["p"]


def test_the_schema_names_every_preset_and_no_other() -> None:
    assert json.loads(schema_json())["definitions"]["provider"]["properties"]["preset"]["enum"] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_valid_provider_with_a_dialect_that_can_be_built(load_text: LoadText, name: str) -> None:
    url = ", base_url: 'https://r.example/v1'" if name in NEEDS_URL else ""
    found = provider(load_text, f"{{preset: {name}, api_key: k{url}}}")
    assert found.endpoints[0].url.startswith("http")
    assert "chat" in found.offers
    assert "chat" in make_dialect(found).operations


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_where_its_facts_are_from_and_holds_no_secret(name: str) -> None:
    report = Report(Tree())
    text = preset_text(name).decode()
    body = parse(name, text.encode(), report, Limits())
    assert not report.problems
    assert text.startswith("# ")
    assert "ource" in text
    assert "api_key" not in body
    assert body["dialect"]


ENGINES = {"vllm", "sglang", "llamacpp"}
MIXED_LISTS = {
    "azure-openai", "cohere", "deepinfra", "gemini", "groq", "lmstudio", "mistral", "nebius", "novita", "ollama", "openai",
    "openrouter", "portkey", "together", "venice", "xai",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_health_load_and_discovery_need_no_more_than_true_with_a_preset(load_text: LoadText, name: str) -> None:
    url = ", base_url: 'https://r.example/v1'" if name in NEEDS_URL else ""
    found = provider(load_text, f"{{preset: {name}, api_key: k{url}, health: true, load: true, discover: true}}")
    assert found.probe is not None
    where = dict.fromkeys(ENGINES, ("path", "/health")) | {"ollama": ("path", "/api/version")}
    assert (found.probe.kind, found.probe.path) == where.get(name, ("models", ""))
    question = probe_question(found, found.endpoints[0], found.probe)
    assert not question.body  # nothing that could cost money
    assert found.load is not None
    assert found.load.metrics == "/metrics"
    assert found.discover is not None
    assert found.discover.chat_only == (name in MIXED_LISTS)
    quiet = provider(load_text, f"{{preset: {name}, api_key: k{url}}}")
    assert (quiet.probe, quiet.load, quiet.discover) == (None, None, None)


@pytest.mark.parametrize("name", sorted(ENGINES | {"lmstudio"}))
def test_the_base_url_of_an_engine_may_lack_its_v1(load_text: LoadText, name: str) -> None:
    for base in ("", "/v1", "/gpu", "/gpu/v1"):
        found = provider(load_text, f"{{preset: {name}, base_url: 'http://r.example{base}'}}")
        root = base.removesuffix("/v1")
        assert path_below(base, found.offers["chat"]) == f"{root}/v1/chat/completions"
        question = probe_question(found, found.endpoints[0], Probe(kind="models"))
        assert question.url == f"http://r.example{root}/v1/models"
        if found.offers.get("tokenize", "").startswith("../"):
            assert path_below(f"{root}/v1", found.offers["tokenize"]) == f"{root}/tokenize"


def test_a_block_is_joined_with_what_the_preset_starts_it_from(load_text: LoadText) -> None:
    found = provider(load_text, "{preset: vllm, health: {every: 5s}, load: {every: 1s}, discover: {every: 1m}}")
    assert found.probe == Probe(kind="path", path="/health", every_s=5.0)
    assert found.load == LoadSource(metrics="/metrics", every_s=1.0)
    found = provider(load_text, "{preset: vllm, health: {probe: models}}")
    assert found.probe == Probe(kind="models")
    blocks = "health: {path: /up}, discover: {chat_only: false, include: [gpt-*]}"
    found = provider(load_text, f"{{preset: openai, api_key: k, {blocks}}}")
    assert found.probe == Probe(kind="path", path="/up", every_s=60.0, timeout_s=10.0)
    assert found.discover == Discover(include=("gpt-*",), chat_only=False)
    off = provider(load_text, "{preset: vllm, health: false, load: false, discover: false}")
    assert (off.probe, off.load, off.discover) == (None, None, None)


def test_what_a_block_starts_from_is_no_key_of_a_file(load_text: LoadText) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text("version: 1\nproviders: {p: {base_url: 'http://a/v1', defaults: {}}}\nmodels: {m: {chain: [p/x]}}")
    assert "unknown key 'defaults'" in render(caught.value.problems)


def test_an_anchor_for_two_presets_is_filled_for_each(load_text: LoadText) -> None:
    text = """
version: 1
x-h: &h {every: 30s}
providers:
  a: {preset: vllm, health: *h}
  b: {preset: ollama, health: *h}
models: {m: {chain: [a/x, b/x]}}
"""
    found = load_text(text).graph.providers
    assert [one.probe.path for one in found.values() if one.probe is not None] == ["/health", "/api/version"]


def test_what_a_provider_says_itself_wins(load_text: LoadText) -> None:
    found = provider(
        load_text,
        "{preset: groq, api_key: k, base_url: 'http://proxy/v1', quirks: {drop_params: []}, offers: {embedding: embed}, "
        "auth: {type: header, name: x-key}}",
    )
    assert found.endpoints[0].url == "http://proxy/v1"
    assert found.quirks.drop_params == ()
    assert found.quirks.drop_message_fields == ("name",)  # joined key by key
    assert found.offers["embedding"] == "embed"
    assert found.offers["chat"] == "chat/completions"
    assert (found.auth.type, found.auth.name) == ("header", "x-key")  # replaced whole


def test_endpoints_take_the_place_of_the_base_url(load_text: LoadText) -> None:
    found = provider(load_text, "{preset: vllm, endpoints: [{name: a, url: 'http://a/v1'}, {name: b, url: 'http://b/v1'}]}")
    assert [one.url for one in found.endpoints] == ["http://a/v1", "http://b/v1"]


def test_an_anchor_in_two_providers_takes_nothing_from_one_to_the_other(load_text: LoadText) -> None:
    text = """
version: 1
x-quirks: &q {response_format: flat}
providers:
  a: {preset: groq, api_key: k, quirks: *q}
  b: {preset: cerebras, api_key: k, quirks: *q}
  c: {base_url: 'http://c/v1', quirks: *q}
models: {m: {chain: [a/x, b/x, c/x]}}
"""
    found = load_text(text).graph.providers
    assert found["a"].quirks.drop_message_fields == ("name",)
    assert found["b"].quirks.drop_message_fields == ("refusal", "annotations", "audio", "reasoning_content")
    assert found["c"].quirks.drop_message_fields == ()
    assert {one.quirks.response_format for one in found.values()} == {"flat"}


def test_a_replaced_value_keeps_its_type_under_a_preset(load_text: LoadText) -> None:
    found = provider(load_text, '{preset: openai, api_key: k, body: {n: "${N}", m: "${M}"}}', N="2", M="text")
    assert found.body == {"n": "2", "m": "text"}


def test_origins_name_the_preset(load_text: LoadText) -> None:
    loaded = load_text("version: 1\nproviders: {p: {preset: openai, api_key: k}}\nmodels: {m: {chain: [p/x]}}")
    assert str(loaded.origins["providers.p.base_url"]).startswith("preset openai:")
    assert loaded.origins["providers.p.api_key"].file.endswith("routes.yaml")


def test_a_complaint_about_a_preset_stands_at_the_provider(load_text: LoadText) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text("version: 1\nproviders:\n  p: {preset: openai}\nmodels: {m: {chain: [p/x]}}")
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (3, 3)
    assert "preset openai" not in render([problem])


def test_parameters_of_one_vendor_are_foreign_to_the_others(load_text: LoadText) -> None:
    text = """
version: 1
providers:
  or: {preset: openrouter, api_key: k}
  venice: {preset: venice, api_key: k}
  mine: {base_url: 'http://mine/v1'}
models: {m: {chain: [or/x, venice/x, mine/x]}}
"""
    found = load_text(text).graph.providers
    assert found["or"].foreign_params == ("venice_parameters",)
    assert found["venice"].foreign_params == found["or"].quirks.own_params
    assert set(found["mine"].foreign_params) == {"venice_parameters", *found["or"].quirks.own_params}


def test_a_cold_start_without_a_schedule_has_the_usual_one(load_text: LoadText) -> None:
    cold = provider(load_text, "{base_url: 'http://a/v1', cold_start: {when: [{status: 503}]}}").cold_start
    assert cold is not None
    assert (cold.attempts, cold.fail_over_after_s) == (10, 0.0)
    waits = [min(cold.backoff.max_s, cold.backoff.first_s * cold.backoff.factor**n) for n in range(6)]
    assert waits == [5.0, 7.5, 11.25, 16.875, 25.3125, 30.0]


def test_what_a_dialect_can_do_is_the_same_for_the_configuration_and_the_wire(load_text: LoadText) -> None:
    for name, operations in CAPABLE.items():
        block = ", template: {request: {}, response: {text: /a}}" if name == "template" else ""
        found = provider(load_text, f"{{dialect: {name}, base_url: 'http://t'{block}}}")
        speaker = make_dialect(found)
        own = MessagesClient().passes(speaker, "count_tokens")  # what a client of its own API may ask for besides
        speaks = speaker.operations | own.operations if own is not None else speaker.operations
        assert (speaker.name, speaks, set(found.offers)) == (name, operations, set(operations))
    assert set(PLACES) == set(_PLACES)
    assert PLACEHOLDER.pattern == _PLACEHOLDER.pattern


def test_no_code_decides_by_the_name_of_a_preset() -> None:
    """What is special about a provider is said in YAML; dialects are the only names that code knows."""
    vendors = set(preset_names()) - set(CAPABLE) - {"openai"}
    assert len(vendors) >= 15
    for path in sorted(pathlib.Path(routerd.__file__).parent.rglob("*.py")):
        if "daemon/commands" in str(path) or "daemon/imports" in str(path):  # `init` has examples, `import` reads other names
            continue
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not texts & vendors, path


def test_the_simulator_offers_what_it_answers(load_text: LoadText) -> None:
    text = "version: 1\nproviders:\n  demo: {dialect: simulator}\nmodels: {m: {chain: [demo/x]}}\n"
    offered = load_text(text).graph.providers["demo"].offers
    assert dict(offered) == {"chat": "chat/completions", "completion": "completions", "embedding": "embeddings"}
