"""`providers:` to Provider and Endpoint records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from routerd.config.compile import fields
from routerd.config.compile.context import Build
from routerd.config.compile.provider import http, oauth, traits
from routerd.config.compile.provider.secrets import credential
from routerd.config.compile.provider.template import template
from routerd.config.tree import Path
from routerd.graph import (
    Auth,
    Balance,
    Breaker,
    Connections,
    Endpoint,
    Failover,
    LoadSource,
    Probe,
    Provider,
    Retry,
    Secret,
    Simulator,
    Timeouts,
)

# The simulator opens no connection; its one endpoint still needs an address for health and metrics.
SIMULATOR_URL = "simulator:"
_NOT_SIMULATED = (
    "base_url", "endpoints", "api_key", "auth", "headers", "balance", "quirks", "cold_start", "preset", "connections",
)  # fmt: skip


class Defaults:
    """The `defaults:` block: what providers and models start from."""

    def __init__(self, build: Build) -> None:
        body = build.section("defaults")
        self.timeouts = fields.timeouts(
            build, Timeouts(), fields.seconds_of(build, ("defaults", "timeouts"), body.get("timeouts", {}))
        )
        self.retry = fields.retry(build, ("defaults", "retry"), body.get("retry", {}), Retry())
        self.breaker = fields.breaker(build, ("defaults", "breaker"), body.get("breaker", {}), Breaker())
        self.failover = fields.failover(build, ("defaults", "failover"), body.get("failover", {}), Failover())
        self.context_overflow: tuple[Any, ...] = tuple(body.get("failover", {}).get("context_overflow", ()))


def compile_providers(build: Build, defaults: Defaults) -> dict[str, Provider]:
    """Compile all providers; endpoint names are unique over all of them."""
    out: dict[str, Provider] = {}
    owners: dict[str, Path] = {}
    for name, body in build.entries("providers"):
        out[name] = _provider(build, name, body, defaults)
        named = "endpoints" in body
        for i, endpoint in enumerate(out[name].endpoints):
            path: Path = ("providers", name, "endpoints", i, "name") if named else ("providers", name)
            if endpoint.name in owners:
                first = build.tree.place(owners[endpoint.name], at_key=True)
                what = f"the endpoint {endpoint.name!r} is also at {first}"
                hint = "a provider without `endpoints` has one of its own name"
                build.error(path, "duplicate-name", what, hint, at_key=not named)
            else:
                owners[endpoint.name] = path
    return traits.with_foreign(out)


def _provider(build: Build, name: str, body: Mapping[str, Any], defaults: Defaults) -> Provider:
    path: Path = ("providers", name)
    dialect = body.get("dialect", "openai")
    auth, disabled = _auth(build, path, body)
    _misplaced(build, path, body, dialect)
    overrides = fields.seconds_of(build, (*path, "timeouts"), body.get("timeouts", {}))
    in_header = auth.name if auth.type not in ("query", "none") else ""
    return Provider(
        name=name,
        dialect=dialect,
        endpoints=_endpoints(build, path, name, body, dialect),
        auth=auth,
        headers=http.headers(build, (*path, "headers"), body.get("headers", {}), in_header),
        body=dict(body.get("body", {})),
        direct=body.get("direct", False),
        discover=traits.discover(build, path, body, dialect),
        balance=Balance(body.get("balance", "round_robin")),
        budgets=build.names((*path, "budgets"), body.get("budgets", ()), "budgets"),
        offers=traits.offers(build, path, body, dialect),
        model_suffix=body.get("model_suffix", ""),
        quirks=traits.quirks(body),
        cold_start=traits.cold_start(build, path, body),
        simulator=_simulator(build, (*path, "simulator"), body.get("simulator", {})) if dialect == "simulator" else None,
        breaker=fields.breaker(build, (*path, "breaker"), body.get("breaker", {}), defaults.breaker),
        slow_start_s=_slow_start_s(build, path, body),
        probe=_probe(build, (*path, "health"), body["health"], dialect) if body.get("health") not in (None, False) else None,
        load=_load(build, (*path, "load"), body["load"]) if body.get("load") not in (None, False) else None,
        template=template(build, path, body) if dialect == "template" else None,
        timeouts=fields.timeouts(build, defaults.timeouts, overrides),
        retry=defaults.retry,
        failover=defaults.failover,
        disabled=disabled,
    )


def _misplaced(build: Build, path: Path, body: Mapping[str, Any], dialect: str) -> None:
    """Complain about keys that would be ignored."""
    if dialect == "simulator":
        for key in _NOT_SIMULATED:
            if key in body:
                build.error((*path, key), "conflicting-keys", f"the simulator has no {key}", "remove one of the two", at_key=True)
    elif "simulator" in body:
        build.error((*path, "simulator"), "conflicting-keys", "needs `dialect: simulator`", "add it, or remove this", at_key=True)
    if "template" in body and dialect != "template":
        build.error((*path, "template"), "conflicting-keys", "needs `dialect: template`", "add it, or remove this", at_key=True)
    if dialect != "openai" and dialect != "simulator" and "quirks" in body:
        message = "`quirks` are deviations from OpenAI's API: `dialect: openai` has them"
        build.error((*path, "quirks"), "conflicting-keys", message, "remove one of the two", at_key=True)
    if "balance" in body and dialect != "simulator" and "endpoints" not in body:
        build.error((*path, "balance"), "conflicting-keys", "there is one endpoint only: nothing to balance", at_key=True)


# ── credential ──


def _auth(build: Build, path: Path, body: Mapping[str, Any]) -> tuple[Auth, str]:
    """Return how to authenticate, and why the provider is disabled or an empty string."""
    spec = body.get("auth", {})
    kind = spec.get("type", "bearer")
    if kind == oauth.TYPE:
        return oauth.client_credentials(build, (*path, "auth"), spec, body)
    oauth.misplaced(build, (*path, "auth"), spec)
    for key in ("name", "prefix"):
        if kind == "none" and key in spec:
            build.error((*path, "auth", key), "conflicting-keys", f"`type: none` has no {key}", "remove it", at_key=True)
    if "api_key" not in body:
        if spec and kind != "none":
            hint = "add `api_key: ${NAME:-}`, or say `auth: {type: none}`"
            build.error((*path, "auth"), "missing-key", f"`auth` of type {kind} needs an api_key", hint, at_key=True)
        return Auth(type="none", name="", prefix=""), ""
    if kind == "none":
        message = "`auth: {type: none}` does not use it"
        build.error((*path, "api_key"), "conflicting-keys", message, "remove one of the two", at_key=True)
    value, reason = credential(build, (*path, "api_key"), body["api_key"], optional=body.get("optional", False))
    name, prefix = _auth_form(build, (*path, "auth"), spec, kind)
    return Auth(type=kind, name=name, prefix=prefix, secret=Secret(value) if value else None), reason if not value else ""


def _auth_form(build: Build, path: Path, spec: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Return the name of the header or query parameter, and the prefix."""
    if kind == "none":
        return "", ""
    name = spec.get("name", "" if kind == "query" else "authorization")
    prefix = spec.get("prefix", "Bearer " if kind == "bearer" else "")
    if kind == "query":
        if not name:
            build.error(path, "missing-key", "a query parameter needs a `name`", "for example `name: key`", at_key=True)
        if prefix:
            build.error((*path, "prefix"), "conflicting-keys", "a query parameter has no prefix", at_key=True)
        return name, ""
    http.header_text(build, (*path, "prefix"), prefix)
    http.token(build, (*path, "name"), name)
    return name.lower(), prefix


# ── endpoints ──


def _endpoints(build: Build, path: Path, provider: str, body: Mapping[str, Any], dialect: str) -> tuple[Endpoint, ...]:
    if dialect == "simulator":
        return (Endpoint(name=provider, provider=provider, url=SIMULATOR_URL),)
    if "endpoints" not in body:
        if "base_url" not in body:
            hint = "for example `base_url: https://api.example.com/v1`"
            build.error(path, "no-endpoint", "a provider needs a base_url or endpoints", hint, at_key=True)
            return ()
        url = _url(build, (*path, "base_url"), body["base_url"], (body, dialect))
        return (Endpoint(name=provider, provider=provider, url=url, connections=_connections(build, path, body, Connections())),)
    if "base_url" in body:
        message = "`endpoints` have URLs of their own"
        build.error((*path, "base_url"), "conflicting-keys", message, "keep one of the two", at_key=True)
    connections = _connections(build, path, body, Connections())
    out = []
    for i, one in enumerate(body["endpoints"]):
        here = (*path, "endpoints", i)
        out.append(
            Endpoint(
                name=one["name"],
                provider=provider,
                url=_url(build, (*here, "url"), one["url"], (body, dialect)),
                weight=int(one.get("weight", 1)),
                max_concurrent=int(one["max_concurrent"]) if "max_concurrent" in one else None,
                connections=_connections(build, here, one, connections),
                labels=dict(one.get("labels", {})),
            )
        )
    if not any(endpoint.weight for endpoint in out):
        build.error((*path, "endpoints"), "zero-weights", "all weights are 0: no endpoint would be asked", at_key=True)
    return tuple(out)


def _url(build: Build, path: Path, text: str, of: tuple[Mapping[str, Any], str]) -> str:
    body, dialect = of
    if dialect == "openai" and "offers" not in body:  # a preset knows its paths, and whoever writes `offers` does
        return http.api_url(build, path, text)
    return http.base_url(build, path, text, whole=dialect == "template")


def _connections(build: Build, path: Path, body: Mapping[str, Any], base: Connections) -> Connections:
    """Compile `connections` of a provider, or of an endpoint on top of its provider's."""
    path, spec = (*path, "connections"), body.get("connections", {})
    changes: dict[str, Any] = {key: int(spec[key]) for key in ("max", "max_idle") if key in spec}
    changes |= fields.seconds_of(build, path, {key: spec[key] for key in ("idle",) if key in spec})
    return replace(base, **changes)


def _probe(build: Build, path: Path, spec: Mapping[str, Any] | bool, dialect: str) -> Probe:
    body = spec if isinstance(spec, Mapping) else {}
    if "path" not in body and "probe" not in body:
        hint = "for example `path: /health`, or `probe: models`; presets know theirs"
        build.error(path, "missing-key", "a health check needs a `path` or a `probe`", hint, at_key=True)
        return Probe(kind="path")
    if "path" in body and "probe" in body:
        build.error((*path, "probe"), "conflicting-keys", "a health check has a path already", "keep one of the two", at_key=True)
    kind = body.get("probe", "path")
    if kind == "chat":
        if dialect != "openai":
            build.error((*path, "probe"), "conflicting-keys", f"`probe: chat` needs dialect openai, not {dialect}", "use models")
        if "model" not in body:
            build.error(path, "missing-key", "`probe: chat` needs a model", "for example `model: qwen3-32b`", at_key=True)
    elif "model" in body:
        build.error((*path, "model"), "conflicting-keys", "only `probe: chat` asks for a model", "remove one", at_key=True)
    lengths = fields.seconds_of(build, path, {key: body[key] for key in ("every", "timeout") if key in body})
    plain: dict[str, Any] = {key: body[key] for key in ("path", "model", "fall", "rise") if key in body}
    probe = Probe(kind=kind, **(plain | lengths))
    if probe.timeout_s > probe.every_s:
        build.error(path, "out-of-range", "`timeout` is longer than `every`", "an answer must be there before the next question")
    return probe


def _load(build: Build, path: Path, spec: Mapping[str, Any] | bool) -> LoadSource:
    body = spec if isinstance(spec, Mapping) else {}
    lengths = fields.seconds_of(build, path, {key: body[key] for key in ("every",) if key in body})
    plain: dict[str, Any] = {key: body[key] for key in ("metrics",) if key in body}
    return LoadSource(**(plain | lengths))


def _slow_start_s(build: Build, path: Path, body: Mapping[str, Any]) -> float:
    return build.seconds((*path, "slow_start"), body["slow_start"], zero=True) or 0.0 if "slow_start" in body else 0.0


def _simulator(build: Build, path: Path, body: Mapping[str, Any]) -> Simulator:
    plain = Simulator()
    first_s = plain.first_token_s
    if "first_token" in body:
        first_s = build.seconds((*path, "first_token"), body["first_token"], zero=True) or 0.0
    return Simulator(
        first_token_s=first_s,
        tokens_per_s=float(body.get("tokens_per_s", plain.tokens_per_s)),
        fail_ratio=float(body.get("fail_ratio", plain.fail_ratio)),
        reply=body.get("reply", plain.reply),
    )
