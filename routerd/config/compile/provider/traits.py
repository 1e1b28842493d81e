"""What is special about one provider: what it offers, its quirks, what a cold model looks like there.

A regular expression of `cold_start` is checked here and compiled by the worker that uses it. It runs on text that an upstream
wrote, so one that can take exponential time (a repeat without bound inside another) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from routerd.config.compile import fields
from routerd.config.compile.context import Build
from routerd.config.tree import Path
from routerd.graph import Backoff, ColdRule, ColdStart, Discover, Provider, Quirks

# Featherless and HuggingFace load a model in half a minute to several: 5, 7.5, 11 ... 30 s between ten tries is 3.5 minutes.
_COLD = ColdStart(when=(), backoff=Backoff(first_s=5.0, factor=1.5, max_s=30.0, jitter_ratio=0.0))
SHORTEST_DISCOVERY_S = 1.0
_UNBOUNDED = re._constants.MAXREPEAT  # type: ignore[attr-defined]


def quirks(body: Mapping[str, Any]) -> Quirks:
    """Compile a `quirks` block."""
    given: dict[str, Any] = {key: value for key, value in body.get("quirks", {}).items() if not key.startswith("x-")}
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    plain["only_values"] = {name: tuple(values) for name, values in given.get("only_values", {}).items()}
    return Quirks(**plain)


# What dialects that translate can express (`operations` of each in `wire`); OpenAI's is not bounded here.
CAPABLE: Mapping[str, frozenset[str]] = {
    "anthropic": frozenset({"chat", "count_tokens"}),
    "gemini": frozenset({"chat", "completion", "embedding"}),
    "ollama": frozenset({"chat", "completion", "embedding"}),
    "cohere": frozenset({"chat", "completion", "embedding", "rerank"}),
    "template": frozenset({"chat", "completion"}),
}
_SIMULATED = {"chat": "chat/completions", "completion": "completions", "embedding": "embeddings"}
# Asked of a provider in its own words, never translated.
_NATIVE = frozenset({"message", "model", "file", "tokenize", "transcription"})


def offers(build: Build, path: Path, body: Mapping[str, Any], dialect: str) -> dict[str, str]:
    """Return operation -> path, without a slash in front; for a dialect that cannot express everything never empty."""
    out = {}
    capable = CAPABLE.get(dialect)
    for operation, where in body.get("offers", {}).items():
        if operation.startswith("x-"):
            continue
        out[operation] = where.strip("/")
        if not out[operation]:
            build.error((*path, "offers", operation), "bad-value", "a path is empty", "for example `chat: chat/completions`")
        elif capable is not None and operation not in capable | _NATIVE:
            message = f"`dialect: {dialect}` has no words for {operation}"
            hint = f"it can do {' and '.join(sorted(capable))}"
            build.error((*path, "offers", operation), "conflicting-keys", message, hint, at_key=True)
    if dialect == "simulator":
        return out or dict(_SIMULATED)
    return out or dict.fromkeys(sorted(capable or ()), "")


def discover(build: Build, path: Path, body: Mapping[str, Any], dialect: str) -> Discover | None:
    """Compile `discover`: a mapping, or `true` for all defaults."""
    spec = body.get("discover", False)
    if spec is False:
        return None
    path = (*path, "discover")
    if dialect in ("simulator", "template"):
        build.error(path, "conflicting-keys", f"`dialect: {dialect}` has no list of models", "remove it", at_key=True)
    elif body.get("offers") and "model" not in body["offers"]:
        hint = "add `model: models` to its `offers`, or remove this"
        build.error(path, "not-offered", "the provider does not offer a list of models", hint, at_key=True)
    plain, given = Discover(), spec if isinstance(spec, Mapping) else {}
    every_s = plain.every_s
    if "every" in given:
        every_s = build.seconds((*path, "every"), given["every"]) or plain.every_s
        if every_s < SHORTEST_DISCOVERY_S:
            build.error((*path, "every"), "out-of-range", f"a list is asked for every {SHORTEST_DISCOVERY_S:g}s at most")
    include = tuple(given["include"]) if "include" in given else plain.include
    return Discover(every_s=every_s, include=include, chat_only=given.get("chat_only", False))


def with_foreign(providers: Mapping[str, Provider]) -> dict[str, Provider]:
    """Return the providers, each knowing which parameters belong to others."""
    owned = {name: provider.quirks.own_params for name, provider in providers.items()}
    everyones = dict.fromkeys(param for params in owned.values() for param in params)
    out = {}
    for name, provider in providers.items():
        foreign = tuple(param for param in everyones if param not in owned[name])
        out[name] = replace(provider, foreign_params=foreign) if foreign else provider
    return out


def cold_start(build: Build, path: Path, body: Mapping[str, Any]) -> ColdStart | None:
    """Compile a `cold_start` block."""
    if "cold_start" not in body:
        return None
    path, spec = (*path, "cold_start"), body["cold_start"]
    when = tuple(ColdRule(status=rule.get("status"), body=rule.get("body", "")) for rule in spec["when"])
    for i, rule in enumerate(when):
        _check_expression(build, (*path, "when", i, "body"), rule.body)
    retry = fields.retry(build, path, {"backoff": spec.get("backoff", {})}, replace(fields.NO_RETRY, backoff=_COLD.backoff))
    lengths = fields.seconds_of(build, path, {key: spec[key] for key in ("fail_over_after",) if key in spec}, zero=True)
    return ColdStart(when=when, attempts=int(spec.get("attempts", _COLD.attempts)), backoff=retry.backoff, **lengths)


def _check_expression(build: Build, path: Path, text: str) -> None:
    try:
        parsed = re._parser.parse(text)  # type: ignore[attr-defined]
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as exc:
        build.error(path, "bad-expression", f"not a regular expression: {exc}", "for example (?i)cold|not ready")
        return
    if any(_repeats(inner) for inner in _unbounded(parsed)):
        build.error(path, "bad-expression", "a repeat without bound inside another could take for ever", "write it flat")


def _unbounded(parsed: Any) -> Iterator[Any]:
    """Yield what each unbounded repeat of an expression repeats."""
    for operator, argument in parsed:
        name = str(operator)
        if name in ("MAX_REPEAT", "MIN_REPEAT") and argument[1] == _UNBOUNDED:
            yield argument[2]
        for part in _parts(argument):
            yield from _unbounded(part)


def _repeats(parsed: Any) -> bool:
    return next(_unbounded(parsed), None) is not None or any(str(operator) == "BRANCH" for operator, _ in parsed)


def _parts(argument: Any) -> Iterator[Any]:
    if isinstance(argument, re._parser.SubPattern):  # type: ignore[attr-defined]
        yield argument
    elif isinstance(argument, tuple | list):
        for one in argument:
            yield from _parts(one)
