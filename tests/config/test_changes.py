"""Rules of the diff: every difference is a sentence, the ones that matter say what they mean, and none holds a secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from routerd.config import Change, Loaded, diff
from tests.config.test_schema import CHANGES, TESTS, changed

LoadText = Callable[..., Loaded]
BASE = """
version: 1
providers:
  gpu: {endpoints: [{name: gpu-a, url: "http://a/v1"}, {name: gpu-b, url: "http://b/v1"}]}
  cloud: {base_url: "https://cloud.example/v1", api_key: sk-one-secret, headers: {x-a: header-secret}, body: {a: body-secret}}
models:
  m: {aliases: [fast], chain: [cloud/y, gpu/x], system_prompt: {text: secret prompt}, budgets: [tokens]}
  n: {chain: [gpu/x]}
  "p-*": {chain: [gpu/x]}
budgets:
  tokens: {tokens: 2000000, per: 1d, scope: client}
  slots: {concurrency: 4}
clients:
  mobile: {key: client-secret-1, models: [m, fast, n]}
  web: {key: client-secret-2, budgets: [slots]}
"""


@pytest.fixture
def of(load_text: LoadText) -> Callable[..., list[tuple[str, str, str]]]:
    """`of(("old", "new"), ...)` returns kind, text and state of what these replacements in BASE change."""

    def run(*edits: tuple[str, str]) -> list[tuple[str, str, str]]:
        text = BASE
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        before, after = load_text(BASE).graph, load_text(text).graph
        return [(one.kind, one.text, one.state) for one in diff(before, after)]

    return run


SAID: dict[str, tuple[tuple[str, str], tuple[str, str, str]]] = {
    "alias dropped": (("aliases: [fast], ", ""), ("removed", "drops alias fast", "")),
    "chain": (
        ("chain: [cloud/y, gpu/x]", "chain: [gpu/x, cloud/y]"),
        ("changed", "m now goes to gpu/x first, then cloud/y", "prefix caches of the first targets start cold"),
    ),
    "group": (
        ("  n: {chain: [gpu/x]}", "  n: {chain: [{any_of: [gpu/x, cloud/z]}]}"),
        ("changed", "n now goes to gpu/x or cloud/z", ""),
    ),
    "overflow": (
        ("  n: {chain: [gpu/x]}", "  n: {chain: [gpu/x], failover: {context_overflow: [cloud/long, gpu/y]}}"),
        ("changed", "prompts that are too long for n now go to cloud/long first, then gpu/y", ""),
    ),
    "prompt": (
        ("secret prompt", "other secret"),
        ("changed", "system_prompt of m changed", "prefix caches of 3 endpoints go cold"),
    ),
    "limit": (
        ("tokens: 2000000", "tokens: 1000000"),
        ("changed", "budget tokens: limit 2,000,000 -> 1,000,000", "used is kept"),
    ),
    "window": (("per: 1d", "per: 1h"), ("changed", "budget tokens: per 1d -> 1h", "used is kept")),
    "scope": (
        ("scope: client", "scope: model"),
        ("changed", "budget tokens: scope client -> model", "counting starts from zero"),
    ),
    "concurrency": (
        ("concurrency: 4", "concurrency: 2"),
        ("changed", "budget slots: limit 4 -> 2", "running requests keep their place"),
    ),
    "endpoint removed": (
        (', {name: gpu-b, url: "http://b/v1"}', ""),
        ("removed", "endpoint gpu-b removed", "running streams finish; its cooldown is remembered for 10 minutes"),
    ),
    "endpoint renamed": (
        ("name: gpu-b", "name: gpu-c"),
        ("changed", "endpoint gpu-b is called gpu-c now", "cooldown, load and connections are kept"),
    ),
    "endpoint moved": (
        ("http://b/v1", "http://c/v1"),
        ("changed", "endpoint gpu-b: http://b/v1 -> http://c/v1", "cooldown and load start anew; running streams finish"),
    ),
    "credential": (
        ("sk-one-secret", "sk-two-secret"),
        ("changed", "credential of provider cloud changed", "endpoints: cooldown and load start anew; connections are kept"),
    ),
    "header": (("header-secret", "other-secret"), ("changed", "provider cloud: headers.x-a changed", "")),
    "header added": (("{x-a: header", "{x-b: my-secret, x-a: header"), ("changed", "provider cloud: headers.x-b added", "")),
    "body": (("body-secret", "other-secret"), ("changed", "provider cloud: body.a changed", "")),
    "client key": (
        ("client-secret-1", "client-secret-3"),
        ("changed", "credential of client mobile changed: the old key is refused", ""),
    ),
    "client models": (("models: [m, fast, n]", "models: [n]"), ("changed", "client mobile may not use m and fast any more", "")),
    "client wins": (("models: [m, fast, n]", "models: [m, fast, n, p-*]"), ("changed", "client mobile may use p-* now", "")),
    "client budget": (
        ("budgets: [slots]", "budgets: []"),
        ("removed", "client web does not count against budget slots any more", ""),
    ),
    "route budget": ((", budgets: [tokens]", ""), ("removed", "m does not count against budget tokens any more", "")),
    "disabled model": (("  n: {", "  n: {enabled: false, "), ("changed", "n is not offered any more: 404 model_disabled", "")),
    "direct": (("api_key: sk", "direct: true, api_key: sk"), ("added", "offers cloud/<any model>", "")),
    "setting": (("version: 1", "version: 1\nreload: {settle: 1s}"), ("changed", "reload.settle: 50ms -> 1s", "")),
    "price": (
        ("  n: {", "  n: {price: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}, "),
        ("changed", "n: price.input_usd_per_mtok not set -> 2.5", ""),
    ),
    "a default of many": (
        ("version: 1", "version: 1\ndefaults: {retry: {attempts: 3}}"),
        ("changed", "m, n and p-*: retry.attempts 1 -> 3", ""),
    ),
    "timeouts of many targets": (
        ("version: 1", "version: 1\ndefaults: {timeouts: {connect: 3s}}"),
        ("changed", "m, n and p-*: timeouts.connect 2s -> 3s", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_what_matters_is_said_in_one_sentence(of: Callable[..., list[tuple[str, str, str]]], what: str) -> None:
    edit, sentence = SAID[what]
    assert sentence in of(edit)
    assert len(of(edit)) == (3 if what == "price" else 1)


def test_a_dropped_model_names_who_could_use_it(of: Callable[..., list[tuple[str, str, str]]]) -> None:
    found = of(("  n: {chain: [gpu/x]}\n", ""), (", fast, n]", ", fast]"))
    assert ("removed", "drops n; every client could use it", "") in found
    assert ("removed", "drops p-*; web could use it", "") in of(('  "p-*": {chain: [gpu/x]}\n', ""))


def test_clients_that_lose_access_are_named(of: Callable[..., list[tuple[str, str, str]]]) -> None:
    web = "  web: {key: client-secret-2, budgets: [slots]}\n"
    assert ("removed", "client web loses access: its key is refused", "") in of((web, ""))
    optional = web.replace("client-secret-2", '"", optional: true')
    assert ("removed", "client web loses access: its key is refused (it is empty)", "") in of((web, optional))
    clients = BASE[BASE.index("clients:") :]
    assert of((clients, "")) == [("removed", "no key is asked for: anybody may call", "")]


def test_the_first_clients_are_named(load_text: LoadText) -> None:
    before = load_text(BASE[: BASE.index("clients:")]).graph
    assert [one.text for one in diff(before, load_text(BASE).graph)] == ["a key is asked for: only mobile and web may call"]


def test_an_order_that_decides_is_told(load_text: LoadText) -> None:
    text = 'version: 1\nproviders: {demo: {dialect: simulator}}\nmodels:\n  "a*": {chain: [demo/a]}\n  "*b": {chain: [demo/b]}\n'
    lines = text.splitlines()
    swapped = "\n".join([*lines[:3], lines[4], lines[3]])
    (one,) = diff(load_text(text).graph, load_text(swapped).graph)
    assert one.text == "patterns are tried in the order *b and a*"


def test_what_no_request_notices_is_called_that(load_text: LoadText) -> None:
    text = "version: 1\nproviders: {demo: {dialect: simulator}}\nallow_empty: true\n"
    (one,) = diff(load_text(text).graph, load_text(text + "defaults: {retry: {attempts: 2}}\n").graph)
    assert one.text == "nothing that a request would notice"


def graph_of(load_text: LoadText, doc: dict[str, Any], tmp: Any) -> Any:
    (tmp / "more.yaml").write_text("models: {more: {chain: [a/x]}}")
    (tmp / "key").write_text("from the file")
    (tmp / "prompt.md").write_text("a prompt")
    return load_text(json.dumps(doc), KEY="from the environment").graph


@pytest.mark.parametrize("key", [key for key in CHANGES if not key.startswith(("top.tests", *TESTS))])
def test_every_key_of_the_schema_makes_a_sentence(load_text: LoadText, tmp_path: Any, key: str) -> None:
    before, after = graph_of(load_text, changed({}), tmp_path), graph_of(load_text, changed(CHANGES[key]), tmp_path)
    for found in (diff(before, after), diff(after, before)):
        assert found, key
        assert all(isinstance(one, Change) and one.text and one.kind in ("added", "removed", "changed") for one in found)


def test_equal_graphs_have_no_difference_and_none_holds_a_secret(load_text: LoadText) -> None:
    before, nothing = load_text(BASE).graph, load_text("version: 1\nallow_empty: true\n").graph
    assert diff(before, load_text(f"# a comment\n{BASE}").graph) == ()
    edited = BASE.replace("secret", "other-word")
    for found in (diff(before, nothing), diff(nothing, before), diff(before, load_text(edited).graph)):
        assert found
        assert "secret" not in repr(found)
        assert "other-word" not in repr(found)


def test_what_follows_from_another_provider_is_not_told_of_this_one(load_text: LoadText) -> None:
    text = BASE.replace("  cloud: {", "  venice: {preset: venice, api_key: k}\n  cloud: {")
    told = [change.text for change in diff(load_text(BASE).graph, load_text(text).graph)]
    assert told == ["adds provider venice (1 endpoint)"]
