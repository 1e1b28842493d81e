"""LiteLLM's proxy: config.yaml to routes.yaml. Source of the keys: docs.litellm.ai/docs/proxy/configs and /config_settings.

Deployments with one `model_name` become a balanced group, `fallbacks` the further steps of its chain, `context_window_fallbacks`
the chain of `failover.context_overflow`, `model_group_alias` aliases, `master_key` a client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from routerd.daemon.imports.source import Left, Section, env_name
from routerd.daemon.imports.write import Taken, credential

__all__ = ["from_litellm"]

PRESETS = {  # prefix of litellm_params.model -> preset (docs.litellm.ai/docs/providers)
    "openai": "openai", "azure": "azure-openai", "anthropic": "anthropic", "gemini": "gemini", "openrouter": "openrouter",
    "groq": "groq", "mistral": "mistral", "deepseek": "deepseek", "together_ai": "together", "xai": "xai", "cohere": "cohere",
    "cohere_chat": "cohere", "huggingface": "huggingface", "ollama": "ollama", "ollama_chat": "ollama", "hosted_vllm": "vllm",
    "vllm": "vllm", "lm_studio": "lmstudio", "deepinfra": "deepinfra", "cerebras": "cerebras", "nebius": "nebius",
    "novita": "novita", "featherless_ai": "featherless", "text-completion-openai": "openai",
}  # fmt: skip
LOCAL = frozenset({"ollama", "vllm", "lmstudio"})
PARAMS = ("temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "frequency_penalty", "n", "response_format")
BALANCE = {"simple-shuffle": "weighted", "least-busy": "least_busy", "latency-based-routing": "latency"}
REASONS = {
    "rpm": "a limit of one deployment; a budget of its provider can say it (`requests`, `per: 1m`)",
    "tpm": "a limit of one deployment; a budget of its provider can say it (`tokens`, `per: 1m`)",
    "api_version": "Azure's v1 API needs none",
    "database_url": "routerd keeps no keys in a database; name clients in the file",
    "store_model_in_db": "models stand in the file",
    "drop_params": "what a target cannot say is left out and named in x-routerd-dropped",
    "success_callback": "see the metrics and the access log",
    "failure_callback": "see the metrics and the access log",
    "callbacks": "see the metrics and the access log",
    "cache": "routerd keeps no answers",
    "cache_params": "routerd keeps no answers",
    "redis_host": "counters are shared with `routerd serve --state redis://...`",
    "redis_port": "counters are shared with `routerd serve --state redis://...`",
    "redis_password": "counters are shared with `routerd serve --state redis://...`",
    "cooldown_time": "an endpoint has a `breaker`, and a cooldown as long as the upstream asked",
    "allowed_fails": "an endpoint has a `breaker`",
    "environment_variables": "set them where routerd is started",
    "model_info": "routerd takes no notice of it",
}


def from_litellm(config: Section, left: Left) -> dict[str, Any]:
    """Return the document."""
    taken = Taken()
    settings = [config.section("litellm_settings"), config.section("router_settings")]
    general = config.section("general_settings")
    common = _Common(settings, left)
    models: dict[str, Any] = {}
    for one in config.list("model_list"):
        if isinstance(one, Section):
            _deployment(one, taken, models, left)
    for model in models.values():
        if len(model["chain"][0]["any_of"]) > 1 and common.balance:
            model["chain"][0]["balance"] = common.balance
    chains = {name: model["chain"][0] for name, model in models.items()}
    for line, key, named in common.named:
        if named not in models:
            left.add(line, key, f"there is no model {named!r} here")
    for name, model in models.items():
        model["chain"] = [_simple(step) for step in (model["chain"][0], *common.steps(name, chains))]
        if overflow := [_simple(chains[other]) for other in common.overflow.get(name, ()) if other in chains]:
            model["failover"] = {"context_overflow": overflow}
        if common.attempts > 1:
            model["retry"] = {"attempts": common.attempts}
    master = general.text("master_key")
    clients = {"litellm": credential(master, env_name(master))} if master else {}
    for section in (*settings, general):
        section.report(left, REASONS)
    config.report(left, REASONS)
    defaults = {"timeouts": {"total": f"{common.timeout_s:g}s"}} if common.timeout_s else {}
    aliases = {alias: name for alias, name in common.aliases.items() if name in models and alias not in models}
    return {
        "version": 1,
        "defaults": defaults,
        "providers": taken.providers,
        "models": models,
        "aliases": aliases,
        "clients": clients,
    }


class _Common:
    """What holds for all models."""

    def __init__(self, settings: Iterable[Section], left: Left) -> None:
        self.balance, self.attempts, self.timeout_s = "", 1, 0.0
        self.fallbacks: dict[str, list[str]] = {}
        self.overflow: dict[str, list[str]] = {}
        self.aliases: dict[str, str] = {}
        self.default: list[str] = []
        self.named: list[tuple[int, str, str]] = []  # line, key, the model that it names
        for section in settings:
            line = section.line_of("routing_strategy")
            strategy = section.text("routing_strategy")
            self.balance = BALANCE.get(strategy, self.balance)
            if strategy and strategy not in BALANCE:
                left.add(line, f"{section.path}.routing_strategy", f"{strategy} has no counterpart; least_busy is close")
            self.attempts = max(self.attempts, min(10, 1 + int(section.number("num_retries"))))
            self.timeout_s = section.number("timeout") or section.number("request_timeout") or self.timeout_s
            for key, into in (("fallbacks", self.fallbacks), ("context_window_fallbacks", self.overflow)):
                line = section.line_of(key)
                for name, others in _pairs(section.list(key)):
                    into[name] = others
                    self.named += [(line, f"{section.path}.{key}", one) for one in others]
            self.default += [str(name) for name in section.list("default_fallbacks")]
            aliases = section.section("model_group_alias")
            for alias, name in aliases.items():
                self.aliases[alias] = str(name)
                self.named.append((aliases.line_of(alias), f"{aliases.path}.{alias}", str(name)))

    def steps(self, name: str, chains: dict[str, Any]) -> list[Any]:
        """Return the further steps of a model."""
        others = self.fallbacks.get(name, self.fallbacks.get("*", self.default))
        return [chains[other] for other in dict.fromkeys(others) if other in chains and other != name]


def _pairs(value: Sequence[Any]) -> list[tuple[str, list[str]]]:
    found = [entry for pair in value if isinstance(pair, Section) for entry in pair.items()]
    return [(name, [str(one) for one in others]) for name, others in found if isinstance(others, list)]


def _deployment(one: Section, taken: Taken, models: dict[str, Any], left: Left) -> None:
    name = one.text("model_name")
    line = one.line_of("model_name")
    params = one.section("litellm_params")
    one.report(left, REASONS)
    full = params.text("model")
    prefix, slash, model = full.partition("/")
    if not slash or (prefix not in PRESETS and "api_base" in params and prefix not in UNKNOWN):
        prefix, model = ("anthropic" if full.startswith("claude") else "openai"), full
    if prefix not in PRESETS or not name:
        left.add(line, name or one.path, f"the provider of {full!r} is not known to routerd; the deployment is left out")
        return
    target: dict[str, Any] = {"provider": _provider(PRESETS[prefix], params, taken), "model": model}
    if "*" in name:
        target["model"] = model.replace("*", "{1}", 1)
    if weight := round(params.number("weight")):
        target["weight"] = min(weight, 1000)
    if defaults := {key: _value(params.take(key)) for key in PARAMS if key in params}:
        target["params"] = {"defaults": defaults}
    timeouts = {"total": params.number("timeout"), "first_token": params.number("stream_timeout")}
    if found := {key: f"{value:g}s" for key, value in timeouts.items() if value > 0}:
        target["timeouts"] = found
    if price := _price(params):
        target["price"] = price
    params.report(left, REASONS, "no parameter that routerd knows")
    models.setdefault(name, {"chain": [{"any_of": []}]})["chain"][0]["any_of"].append(target)


UNKNOWN = frozenset({"bedrock", "vertex_ai", "vertex_ai_beta", "sagemaker", "sagemaker_chat", "watsonx", "databricks"})


def _provider(preset: str, params: Section, taken: Taken) -> str:
    key, base = params.text("api_key"), params.text("api_base", params.text("base_url"))
    params.take("base_url")
    body: dict[str, Any] = {"preset": preset}
    variable = env_name(base)
    if base:
        url = f"${{{variable}:-http://127.0.0.1:1}}" if variable else base.rstrip("/")
        if preset == "azure-openai" and not variable and "/openai" not in url:
            url += "/openai/v1"
        body["base_url"] = url
    elif preset == "azure-openai":
        body["base_url"] = "${AZURE_API_BASE:-http://127.0.0.1:1}"
    secret = credential(key, env_name(key) or ("" if key or preset in LOCAL else f"{preset.upper().replace('-', '_')}_API_KEY"))
    if secret:
        body |= {"api_key": secret.pop("key"), **secret}
    if organization := params.text("organization"):
        found = env_name(organization)
        body["headers"] = {"openai-organization": f"${{{found}:-}}" if found else organization}
    return taken.name(preset, body)


def _price(params: Section) -> dict[str, float]:
    costs = {"input_usd_per_mtok": "input_cost_per_token", "output_usd_per_mtok": "output_cost_per_token"}
    return {ours: round(params.number(theirs) * 1e6, 6) for ours, theirs in costs.items() if theirs in params}


def _simple(step: dict[str, Any]) -> Any:
    """Return a step in its shortest form."""
    if len(step["any_of"]) > 1:
        return {**step, "any_of": [dict(one) for one in step["any_of"]]}
    one = {key: value for key, value in step["any_of"][0].items() if key != "weight"}
    return f"{one['provider']}/{one['model']}" if len(one) == 2 else one


def _value(value: Any) -> Any:
    return value.plain() if isinstance(value, Section) else value
