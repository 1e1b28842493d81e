"""llama-swap: config.yaml to routes.yaml. Source of the keys: config.example.yaml of github.com/mostlygeek/llama-swap.

routerd starts no engine: each model becomes a provider at the address where its engine listens, and its command is reported, to
be run by a service manager. `${PORT}` counts from `startPort` over the model names in order, as llama-swap counts.
"""

from __future__ import annotations

import re
from typing import Any

from routerd.daemon.imports.source import Left, Section, env_name
from routerd.daemon.imports.write import Taken, credential

__all__ = ["from_llama_swap"]

START_PORT = 5800
ENGINE = "routerd starts no engine; let a service manager run it"
SWAP = "routerd swaps no engines: all that are named must run"
REASONS = {
    "cmd": ENGINE, "cmdStop": ENGINE, "env": ENGINE, "healthCheckTimeout": ENGINE, "macros": ENGINE, "hooks": ENGINE,
    "ttl": SWAP, "groups": SWAP, "matrix": SWAP, "sendLoadingState": SWAP, "unlisted": "what is offered is listed",
    "logLevel": "see `routerd serve --log-format`", "metadata": "routerd takes no notice of it",
    "metricsMaxInMemory": "see the metrics", "captureBuffer": "routerd keeps no prompts",
}  # fmt: skip


def from_llama_swap(config: Section, left: Left) -> dict[str, Any]:
    """Return the document."""
    taken = Taken()
    models: dict[str, Any] = {}
    found = dict(config.section("models").sections())
    port = int(config.number("startPort")) or START_PORT
    for name in sorted(found):
        one = found[name]
        used = one.text("proxy", "http://localhost:${PORT}")
        command = one.text("cmd")
        if "${PORT}" in used or "${PORT}" in command:
            used, port = used.replace("${PORT}", str(port)), port + 1
        left.add(one.line_of("cmd"), f"models.{name}.cmd", f"{ENGINE}, at {used}")
        models[name] = _model(name, one, used, taken, left)
    for name, peer in config.section("peers").sections():
        _peer(name, peer, taken, models, left)
    keys = [str(key) for key in config.list("apiKeys")]
    clients = {f"client-{i}": credential(key, env_name(key)) for i, key in enumerate(keys, start=1)}
    config.report(left, REASONS)
    ordered = {name: models[name] for name in (*found, *models)}
    return {"version": 1, "providers": taken.providers, "models": ordered, "clients": clients}


def _model(name: str, one: Section, url: str, taken: Taken, left: Left) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"preset": "llamacpp", "base_url": f"{url.rstrip('/')}/v1"}
    check = one.text("checkEndpoint")
    if check and check != "none":
        endpoint["health"] = {"path": check}
    if limit := int(one.number("concurrencyLimit")):
        endpoint["endpoints"] = [{"name": name, "url": endpoint.pop("base_url"), "max_concurrent": limit}]
    body: dict[str, Any] = {}
    if text := one.text("description", one.text("name")):
        body["description"] = text
    one.take("name")
    if aliases := [str(alias) for alias in one.list("aliases")]:
        body["aliases"] = aliases
    body["chain"] = [{"provider": taken.name(name, endpoint), "model": one.text("useModelName", name)}]
    filters = one.section("filters")
    stripped = str(filters.take("stripParams", filters.take("strip_params", "")))
    params: dict[str, Any] = {}
    if drop := [word for word in re.split(r"[,\s]+", stripped) if word and word != "model"]:
        params["drop"] = drop
    if force := filters.section("setParams").plain():
        params["force"] = force
    if params:
        body["params"] = params
    filters.report(left, REASONS)
    one.report(left, REASONS)
    return body


def _peer(name: str, peer: Section, taken: Taken, models: dict[str, Any], left: Left) -> None:
    key = peer.text("apiKey")
    body: dict[str, Any] = {"dialect": "openai", "base_url": f"{peer.text('proxy').rstrip('/')}/v1"}
    secret = credential(key, env_name(key))
    body |= {"api_key": secret.pop("key"), **secret} if secret else {"auth": {"type": "none"}}
    provider = taken.name(name, body)
    for model in peer.list("models"):
        models.setdefault(str(model), {"chain": [{"provider": provider, "model": str(model)}]})
    peer.report(left, REASONS)
