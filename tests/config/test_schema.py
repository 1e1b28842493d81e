"""The published schema: complete, true to its own examples, and no key of it is accepted and then ignored."""

from __future__ import annotations

import copy
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from routerd.config import Loaded, schema_json
from routerd.config.shape import Schema
from routerd.errors import ConfigError

REPO = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = json.loads(schema_json())
LoadText = Callable[..., Loaded]


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object schema with fixed keys, under the name of its definition."""
    yield "top", SCHEMA
    for name, node in SCHEMA["definitions"].items():
        if "properties" in node:
            yield name, node
        for branch in node.get("oneOf", ()):
            if "properties" in branch:
                yield name, branch


PROPERTIES = [(f"{name}.{key}", node, key) for name, node in objects() for key in node["properties"]]
IDS = [name for name, _, _ in PROPERTIES]


# Their default is what an absent key means; written out it would be an empty list, which says nothing and is refused.
EMPTY_DEFAULTS = ("provider.endpoints", "budget.models")


def checker(node: dict[str, Any]) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator({**node, "definitions": SCHEMA["definitions"]})


def test_it_is_draft_07_and_the_file_in_the_repository() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema_json() == (REPO / "schema" / "routes.schema.json").read_text()


def test_the_reference_is_made_from_it() -> None:
    place = importlib.util.spec_from_file_location("make_reference", REPO / "schema" / "make_reference.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    text = (REPO / "schema" / "README.md").read_text()
    assert module.reference(SCHEMA) == text, "run: python schema/make_reference.py"
    for name in IDS:
        assert f"`{name.partition('.')[2]}`" in text


def test_every_object_refuses_unknown_keys_and_takes_x_keys() -> None:
    for name, node in objects():
        assert node["additionalProperties"] is False, name
        assert list(node["patternProperties"]) == ["^x-"], name


@pytest.mark.parametrize(("name", "node", "key"), PROPERTIES, ids=IDS)
def test_every_property_says_what_it_is(name: str, node: dict[str, Any], key: str) -> None:
    prop = node["properties"][key]
    assert prop["description"].endswith(".")
    assert prop["examples"]
    for example in prop["examples"]:
        checker(prop).validate(example)
    if key in node.get("required", ()) and name != "top.version":
        assert "default" not in prop  # there is none: the object cannot be without it
    elif prop["default"] is not None and name not in EMPTY_DEFAULTS:  # null: not set
        checker(prop).validate(prop["default"])


def test_types_are_found_by_path() -> None:
    schema = Schema.published()
    assert schema.types_at(("models", "m", "chain", 0, "weight")) == {"integer"}
    assert schema.types_at(("models", "m", "chain", 0)) == {"string", "object"}
    assert schema.types_at(("models", "m", "params", "defaults", "seed")) == frozenset()
    assert schema.types_at(("version",)) == {"integer"}
    assert schema.types_at(("nowhere", "at", 5, "all")) == frozenset()


# ── every key does something ──

BASE: dict[str, Any] = {
    "version": 1,
    "providers": {
        "demo": {"dialect": "simulator"},
        "a": {"base_url": "http://a/v1", "api_key": "k"},
        "t": {
            "dialect": "template",
            "base_url": "http://t",
            "template": {"request": {}, "response": {"text": "/a"}, "stream": {"format": "sse", "text": "/a"}},
        },
        "gpu": {"endpoints": [{"name": "g1", "url": "http://g1/v1"}, {"name": "g2", "url": "http://g2/v1"}]},
    },
    "models": {"m": {"chain": [{"provider": "gpu", "model": "x"}, {"any_of": [{"provider": "a", "model": "x"}, "demo/x"]}]}},
    "budgets": {"b": {"requests": 5, "per": "1m"}},
    "clients": {"c": {"key": "abc"}},
}
A, GPU, M = ("providers", "a"), ("providers", "gpu"), ("models", "m")
TARGET, GROUP = (*M, "chain", 0), (*M, "chain", 1)
DROP = object()
TEST = {"name": "t", "given": {"model": "m"}, "expect": {"status": 404}}
GIVEN = {
    "model": "n", "client": "c", "down": ["gpu", "a"], "used": {"b": 0.5}, "params": {"seed": 1}, "system_prompt": "hello",
}  # fmt: skip
EXPECT = {
    "target": "gpu/x", "plan": ["gpu/x", ["a/x", "demo/x"]], "params": {"seed": 1}, "system_prompt": "x", "route": "m",
    "status": 200, "code": "model_not_found",
}  # fmt: skip
T = {"dialect": "template", "base_url": "http://t", "template": {"request": {}, "response": {"text": "/a"}}}
RESPONSE, STREAM = ("providers", "t", "template", "response"), ("providers", "t", "template", "stream")
POINTERS = ("text", "finish", "error", "input_tokens", "output_tokens")
TEMPLATE = {"request": {"a": 1}, "path": "/x", "response": {"text": "/b"}, "stream": {"format": "raw"}}
COLD = {"when": [{"status": 503}]}
DISCOVER = {"every": "7m", "include": ["x-*"], "chat_only": True}
OAUTH = {"type": "oauth_client_credentials", "token_url": "http://login/token", "client_id": "c", "client_secret": "s"}
QUIRKS = {
    "developer_role": "system",
    "rename_params": {"seed": "random_seed"},
    "param_values": {"tool_choice": {"required": "any"}},
    "drop_params": ["seed"],
    "own_params": ["plugins"],
    "drop_message_fields": ["name"],
    "response_format": "flat",
    "only_values": {"n": [1]},
    "tool_call_id_chars": 9,
    "split_content": True,
    "finish_reasons": {"model_length": "length"},
}
# Property -> what to set where in BASE (a mapping of paths to values).
CHANGES: dict[str, dict[tuple[Any, ...], Any]] = {
    "top.include": {("include",): ["more.yaml"]},
    "top.providers": {("providers", "new"): {"base_url": "http://n/v1"}},
    "top.models": {("models", "new"): {"chain": ["a/x"]}},
    "top.aliases": {("aliases",): {"n": "m"}},
    "top.budgets": {("budgets", "new"): {"concurrency": 1}},
    "top.clients": {("clients",): DROP},
    "top.defaults": {("defaults",): {"retry": {"attempts": 4}}},
    "top.cors": {("cors",): {"origins": ["*"]}},
    "top.reload": {("reload",): {"settle": "1s"}},
    "top.limits": {("limits",): {"request_body": "1MiB"}},
    "top.response_headers": {("response_headers",): False},
    "top.allow_empty": {("allow_empty",): True},
    "secret.env": {(*A, "api_key"): {"env": "KEY"}},
    "secret.file": {(*A, "api_key"): {"file": "key"}},
    **{f"timeouts.{key}": {("defaults",): {"timeouts": {key: "7s"}}} for key in SCHEMA["definitions"]["timeouts"]["properties"]},
    "params.defaults": {(*M, "params"): {"defaults": {"seed": 1}}},
    "params.force": {(*M, "params"): {"force": {"seed": 1}}},
    "params.clamp": {(*M, "params"): {"clamp": {"seed": {"min": 1}}}},
    "params.drop": {(*M, "params"): {"drop": ["seed"]}},
    "clamp.min": {(*M, "params"): {"clamp": {"seed": {"min": 1}}}},
    "clamp.max": {(*M, "params"): {"clamp": {"seed": {"max": 1}}}},
    "backoff.first": {(*M, "retry"): {"backoff": {"first": "7s"}}},
    "backoff.factor": {(*M, "retry"): {"backoff": {"factor": 7}}},
    "backoff.max": {(*M, "retry"): {"backoff": {"max": "7s"}}},
    "backoff.jitter": {(*M, "retry"): {"backoff": {"jitter": 0.7}}},
    "retry.attempts": {(*M, "retry"): {"attempts": 7}},
    "retry.backoff": {(*M, "retry"): {"backoff": {"first": "7s"}}},
    "failover.on": {(*M, "failover"): {"on": ["cold"]}},
    "failover.max_attempts": {(*M, "failover"): {"max_attempts": 7}},
    "failover.deadline": {(*M, "failover"): {"deadline": "7s"}},
    "failover.context_overflow": {("defaults",): {"failover": {"context_overflow": ["a/long"]}}},
    "endpoint.name": {(*GPU, "endpoints", 0, "name"): "other"},
    "endpoint.url": {(*GPU, "endpoints", 0, "url"): "http://other/v1"},
    "endpoint.weight": {(*GPU, "endpoints", 0, "weight"): 7},
    "endpoint.max_concurrent": {(*GPU, "endpoints", 0, "max_concurrent"): 7},
    "endpoint.labels": {(*GPU, "endpoints", 0, "labels"): {"a": "b"}},
    "endpoint.connections": {(*GPU, "endpoints", 0, "connections"): {"max": 7}},
    "provider.connections": {(*A, "connections"): {"max": 7}},
    "connections.max": {(*GPU, "connections"): {"max": 7}},
    "connections.max_idle": {(*GPU, "connections"): {"max_idle": 0}},
    "connections.idle": {(*GPU, "connections"): {"idle": "7s"}},
    "breaker.enabled": {(*A, "breaker"): {"enabled": False}},
    "breaker.failure_ratio": {(*A, "breaker"): {"failure_ratio": 0.7}},
    "breaker.min_requests": {(*A, "breaker"): {"min_requests": 7}},
    "breaker.window": {(*A, "breaker"): {"window": "7s"}},
    "breaker.open_for": {(*A, "breaker"): {"open_for": "7s"}},
    "breaker.ramp": {(*A, "breaker"): {"ramp": "7s"}},
    "auth.type": {(*A, "auth"): {"type": "header"}},
    "auth.name": {(*A, "auth"): {"name": "x-key"}},
    "auth.prefix": {(*A, "auth"): {"prefix": "Token "}},
    "auth.token_url": {(*A, "api_key"): DROP, (*A, "auth"): {**OAUTH, "token_url": "http://other/token"}},
    "auth.client_id": {(*A, "api_key"): DROP, (*A, "auth"): {**OAUTH, "client_id": "other"}},
    "auth.client_secret": {(*A, "api_key"): DROP, (*A, "auth"): {**OAUTH, "client_secret": "other"}},
    "auth.scope": {(*A, "api_key"): DROP, (*A, "auth"): {**OAUTH, "scope": "other"}},
    "auth.body": {(*A, "api_key"): DROP, (*A, "auth"): {**OAUTH, "body": "json"}},
    "simulator.first_token": {("providers", "demo", "simulator"): {"first_token": "7s"}},
    "simulator.tokens_per_s": {("providers", "demo", "simulator"): {"tokens_per_s": 7}},
    "simulator.fail_ratio": {("providers", "demo", "simulator"): {"fail_ratio": 0.7}},
    "simulator.reply": {("providers", "demo", "simulator"): {"reply": "seven"}},
    "provider.dialect": {("providers", "new"): {"dialect": "simulator"}},
    "provider.base_url": {(*A, "base_url"): "http://other/v1"},
    "provider.api_key": {(*A, "api_key"): "other"},
    "provider.auth": {(*A, "auth"): {"type": "query", "name": "key"}},
    "provider.optional": {(*A, "api_key"): "", (*A, "optional"): True},
    "provider.headers": {(*A, "headers"): {"x-a": "b"}},
    "provider.body": {(*A, "body"): {"a": 1}},
    "provider.preset": {("providers", "new"): {"preset": "vllm"}},
    "provider.offers": {(*A, "offers"): {"chat": "chat/completions"}},
    "provider.model_suffix": {(*A, "model_suffix"): ":free"},
    "provider.quirks": {(*A, "quirks"): {"developer_role": "system"}},
    "provider.cold_start": {(*A, "cold_start"): COLD},
    **{f"quirks.{key}": {(*A, "quirks"): {key: value}} for key, value in QUIRKS.items()},
    "cold_start.when": {(*A, "cold_start"): COLD},
    "cold_start.attempts": {(*A, "cold_start"): {**COLD, "attempts": 7}},
    "cold_start.backoff": {(*A, "cold_start"): {**COLD, "backoff": {"first": "7s"}}},
    "cold_start.fail_over_after": {(*A, "cold_start"): {**COLD, "fail_over_after": "7s"}},
    "cold_rule.status": {(*A, "cold_start"): COLD},
    "cold_rule.body": {(*A, "cold_start"): {"when": [{"body": "cold"}]}},
    "provider.template": {("providers", "new"): T},
    **{f"template.{key}": {("providers", "t", "template", key): value} for key, value in TEMPLATE.items()},
    **{f"template_response.{key}": {(*RESPONSE, key): "/other"} for key in POINTERS},
    **{f"template_stream.{key}": {(*STREAM, key): "/other"} for key in POINTERS},
    "template_stream.format": {(*STREAM, "format"): "ndjson"},
    "template_stream.done": {(*STREAM, "done"): "END"},
    "template_stream.end": {(*STREAM, "end"): "finish"},
    "provider.budgets": {(*A, "budgets"): ["b"]},
    "provider.direct": {(*A, "direct"): True},
    "provider.discover": {(*A, "discover"): True},
    **{f"discover.{key}": {(*A, "discover"): {key: value}} for key, value in DISCOVER.items()},
    "provider.endpoints": {(*GPU, "endpoints"): [{"name": "g1", "url": "http://g1/v1"}]},
    "provider.balance": {(*GPU, "balance"): "least_busy"},
    "provider.breaker": {(*A, "breaker"): {"min_requests": 7}},
    "health.path": {(*A, "health"): {"path": "/other"}},
    "health.probe": {(*A, "health"): {"probe": "models"}},
    "health.model": {(*A, "health"): {"probe": "chat", "model": "m"}},
    "health.every": {(*A, "health"): {"path": "/health", "every": "7s"}},
    "health.timeout": {(*A, "health"): {"path": "/health", "timeout": "1s"}},
    "health.fall": {(*A, "health"): {"path": "/health", "fall": 7}},
    "health.rise": {(*A, "health"): {"path": "/health", "rise": 7}},
    "load.metrics": {(*A, "load"): {"metrics": "/m"}},
    "load.every": {(*A, "load"): {"every": "7s"}},
    "provider.health": {(*A, "health"): {"path": "/health"}},
    "provider.load": {(*A, "load"): {}},
    "provider.slow_start": {(*A, "slow_start"): "7s"},
    "provider.simulator": {("providers", "demo", "simulator"): {"reply": "seven"}},
    "provider.timeouts": {(*A, "timeouts"): {"connect": "7s"}},
    "target.provider": {(*TARGET, "provider"): "demo"},
    "target.endpoint": {(*TARGET, "endpoint"): "g2"},
    "target.model": {(*TARGET, "model"): "other"},
    "target.weight": {(*TARGET, "weight"): 7},
    "target.params": {(*TARGET, "params"): {"drop": ["seed"]}},
    "target.timeouts": {(*TARGET, "timeouts"): {"connect": "7s"}},
    "group.any_of": {(*GROUP, "any_of"): ["a/x"]},
    "group.balance": {(*GROUP, "balance"): "round_robin"},
    "system_prompt.text": {(*M, "system_prompt"): {"text": "hello"}},
    "system_prompt.file": {(*M, "system_prompt"): {"file": "prompt.md"}},
    "system_prompt.mode": {(*M, "system_prompt"): {"text": "hello", "mode": "append"}},
    "model.description": {(*M, "description"): "text"},
    "model.aliases": {(*M, "aliases"): ["n"]},
    "model.enabled": {(*M, "enabled"): False},
    "model.system_prompt": {(*M, "system_prompt"): {"text": "hello"}},
    "model.params": {(*M, "params"): {"drop": ["seed"]}},
    "model.chain": {(*M, "chain"): ["a/x"]},
    "model.failover": {(*M, "failover"): {"max_attempts": 7}},
    "model.timeouts": {(*M, "timeouts"): {"connect": "7s"}},
    "model.retry": {(*M, "retry"): {"attempts": 7}},
    "model.price": {(*M, "price"): {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}},
    "target.price": {(*TARGET, "price"): {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}},
    "price.input_usd_per_mtok": {(*M, "price"): {"input_usd_per_mtok": 1, "output_usd_per_mtok": 0}},
    "price.output_usd_per_mtok": {(*M, "price"): {"input_usd_per_mtok": 0, "output_usd_per_mtok": 2}},
    "price.cached_input_usd_per_mtok": {
        (*M, "price"): {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0, "cached_input_usd_per_mtok": 0.1}
    },
    "model.budgets": {(*M, "budgets"): ["b"]},
    "budget.requests": {("budgets", "b", "requests"): 7},
    "budget.tokens": {("budgets", "b"): {"tokens": 5, "per": "1m"}},
    "budget.concurrency": {("budgets", "b"): {"concurrency": 5}},
    "budget.usd": {("budgets", "b"): {"usd": 5, "per": "1m"}},
    "budget.per": {("budgets", "b", "per"): "7m"},
    "budget.burst": {("budgets", "b", "burst"): 2},
    "budget.queue": {("budgets", "b", "queue"): {}},
    "budget.mode": {("budgets", "b", "mode"): "shadow"},
    "queue.max": {("budgets", "b", "queue"): {"max": 7}},
    "queue.wait": {("budgets", "b", "queue"): {"wait": "7s"}},
    "budget.scope": {("budgets", "b", "scope"): "client"},
    "budget.models": {("budgets", "b", "models"): ["m"]},
    "client.key": {("clients", "c", "key"): "other"},
    "client.key_sha256": {("clients", "c"): {"key_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}},
    "client.optional": {("clients", "c"): {"key": "", "optional": True}},
    "client.models": {("clients", "c", "models"): ["m"]},
    "client.budgets": {("clients", "c", "budgets"): ["b"]},
    "client.credits": {("clients", "c", "credits"): 1000},
    "credits.tokens": {("clients", "c", "credits"): {"tokens": 5}},
    "credits.usd": {("clients", "c", "credits"): {"usd": 5}},
    "credits.since": {("clients", "c", "credits"): {"tokens": 5, "since": "2026-01-01"}},
    "defaults.breaker": {("defaults",): {"breaker": {"min_requests": 7}}},
    "defaults.timeouts": {("defaults",): {"timeouts": {"connect": "7s"}}},
    "defaults.retry": {("defaults",): {"retry": {"attempts": 7}}},
    "defaults.failover": {("defaults",): {"failover": {"deadline": "7s"}}},
    "cors.origins": {("cors",): {"origins": ["https://a.example"]}},
    "reload.settle": {("reload",): {"settle": "7s"}},
    "reload.max_removal": {("reload",): {"max_removal": 0.7}},
    "reload.probation": {("reload",): {"probation": {}}},
    "probation.for": {("reload",): {"probation": {"for": "7s"}}},
    "probation.max_error_ratio": {("reload",): {"probation": {"max_error_ratio": 0.7}}},
    "probation.min_requests": {("reload",): {"probation": {"min_requests": 7}}},
    "limits.request_body": {("limits",): {"request_body": "7B"}},
    "top.tests": {("tests",): [TEST]},
    "test.name": {("tests",): [{**TEST, "name": "other"}]},
    "test.given": {("tests",): [{**TEST, "given": {"model": "other"}}]},
    "test.expect": {("tests",): [{**TEST, "expect": {"status": 200}}]},
    **{f"given.{key}": {("tests",): [{**TEST, "given": {"model": "m", key: value}}]} for key, value in GIVEN.items()},
    **{f"expect.{key}": {("tests",): [{**TEST, "expect": {key: value}}]} for key, value in EXPECT.items()},
    "limits.response_body": {("limits",): {"response_body": "7B"}},
    "limits.upload": {("limits",): {"upload": "7B"}},
}


def changed(changes: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    doc = copy.deepcopy(BASE)
    for path, value in changes.items():
        at: Any = doc
        for key in path[:-1]:
            at = at[key]
        if value is DROP:
            del at[path[-1]]
        else:
            at[path[-1]] = value
    return doc


@pytest.fixture
def graph_of(load_text: LoadText, tmp_path: pathlib.Path) -> Callable[[dict[str, Any]], object]:
    (tmp_path / "more.yaml").write_text("models: {more: {chain: [a/x]}}")
    (tmp_path / "key").write_text("from the file")
    (tmp_path / "prompt.md").write_text("a prompt")

    def run(doc: dict[str, Any]) -> object:
        loaded = load_text(json.dumps(doc), KEY="from the environment")
        return replace(loaded.graph, digest=""), loaded.tests

    return run


TESTS = ("test.", "given.", "expect.")
DISCOVER_KEYS = ("discover.every", "discover.include", "discover.chat_only")
OAUTH_KEYS = ("auth.token_url", "auth.client_id", "auth.client_secret", "auth.scope", "auth.body")


def test_the_table_below_has_every_property() -> None:
    assert set(CHANGES) == set(IDS) - {"top.version"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_that_is_accepted_changes_the_graph(graph_of: Callable[[dict[str, Any]], object], name: str) -> None:
    without_it = changed(CHANGES["top.tests"]) if name.startswith(TESTS) else BASE
    if name in OAUTH_KEYS:
        without_it = changed({(*A, "api_key"): DROP, (*A, "auth"): OAUTH})
    if name in DISCOVER_KEYS:
        without_it = changed({(*A, "discover"): True})
    assert graph_of(changed(CHANGES[name])) != graph_of(without_it)


def test_the_version_must_be_there(graph_of: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ConfigError):
        graph_of(changed({("version",): DROP}))
