"""An OpenAI chat body as a Messages request.

What the API cannot do is a BadRequest where the answer would be another one (n > 1, audio, the old `functions`), else it is left
out and named in `Encoded.dropped` (seed, logit_bias, a temperature that this model refuses). Rules worth knowing:
- `max_tokens` is required: without one from client or route it is 4096, which every model since Claude 3 can answer; a thinking
  budget comes on top.
- temperature: OpenAI's 0..2 is cut to 1 (named); out of 0..2 is a BadRequest.
- response_format json_schema: `output_config.format` on models from 4.5; before, a tool whose input is the answer (`answer` and
  `stream` turn its input back into content). json_object: no native mode; an instruction is added to the system prompt, and
  `response_format` is named, as nothing enforces it.
- reasoning_effort: adaptive thinking from 4.6, else a token budget, else left out; a hint gives way to what the client demanded
  (a forced tool, a small max_tokens, a tool loop whose thinking it did not send back).
- Fields of Anthropic's own (`thinking`, `top_k`, `cache_control` ...) pass through; then nothing is derived for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routerd.errors import BadRequest
from routerd.wire.anthropic.outbound.models import Abilities, abilities
from routerd.wire.anthropic.outbound.prompt import Prompt, read_prompt
from routerd.wire.anthropic.outbound.tools import JSON_TOOL, native_schema, read_choice, read_tools, schema_of
from routerd.wire.anthropic.tokens import MAX_TOKENS
from routerd.wire.dialect import Call, Encoded
from routerd.wire.openai.body import encode_body

__all__ = ["DEFAULT_MAX_TOKENS", "encode"]

DEFAULT_MAX_TOKENS = 4096  # the output limit of Claude 3, the smallest of any model still served
MIN_BUDGET = 1024  # the API's own lower bound of thinking.budget_tokens
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
_JSON_HINT = "Answer with one JSON object and nothing else: no explanation, no code fence."

# Anthropic's own fields, for clients that know whom they speak to. (Betas are headers.)
_NATIVE = ("thinking", "top_k", "context_management", "container", "mcp_servers", "cache_control", "inference_geo", "speed")
# Read below, or without meaning for the answer.
_KNOWN = frozenset(
    {
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop",
        "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "user", "safety_identifier",
        "metadata", "n", "modalities", "audio", "functions", "function_call", "web_search_options", "service_tier", "store",
        "output_config", *_NATIVE,
    }
)  # fmt: skip
# With these values a parameter that the API lacks changes nothing, so there is nothing to tell.
_IDLE: tuple[Any, ...] = (None, False, 0, 0.0, [], {}, "")

_encode = msgspec.json.Encoder(enc_hook=lambda value: dict(value) if isinstance(value, Mapping) else str(value)).encode
_decode = msgspec.json.Decoder().decode


class _Draft:
    """One request in the making: the client's values, Anthropic's fields, what was left out."""

    __slots__ = ("able", "body", "dropped", "out", "prompt")

    def __init__(self, body: Mapping[str, Any], model: str) -> None:
        self.body = body
        self.able: Abilities = abilities(model)
        self.out: dict[str, Any] = {}
        self.prompt: Prompt = read_prompt(self.value("messages"))
        self.dropped: list[str] = list(self.prompt.dropped)

    def value(self, key: str) -> Any:
        """Return the decoded value of `key`, or None. Raises BadRequest where it is nothing that JSON can say."""
        value = self.body.get(key)
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        try:
            return _decode(value if isinstance(value, msgspec.Raw) else _encode(value))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise BadRequest(f"`{key}` is nested too deeply, or holds half a surrogate pair.", param=key) from None

    def number(self, key: str) -> float | int | None:
        """Return the number at `key`. Raises BadRequest where it is something else."""
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadRequest(f"`{key}` must be a number.", param=key)
        return value

    def drop(self, key: str) -> None:
        """Leave `key` out and say so."""
        if key not in self.dropped:
            self.dropped.append(key)


def encode(body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode an OpenAI chat body. Raises BadRequest naming the `param`."""
    draft = _Draft(body, call.model)
    _refuse(draft)
    _limits(draft)
    forced = _tools(draft)
    forced = _response_format(draft) or forced
    for key in _NATIVE:
        if (value := draft.value(key)) is not None:
            draft.out[key] = value
    _output_config(draft)
    _thinking(draft, forced)
    _sampling(draft)
    _about_the_client(draft)
    for key in body:
        if key not in _KNOWN and draft.value(key) not in _IDLE:
            draft.drop(key)
    out = {"messages": draft.prompt.messages, **draft.out}
    if draft.prompt.system:
        out["system"] = draft.prompt.system
    if call.stream:
        out["stream"] = True
    try:
        encoded = encode_body(out, model=call.model, extra=call.extra, include_usage=False)
    except (UnicodeError, RecursionError, OverflowError, ValueError):
        raise BadRequest("The body is nested too deeply, or holds half a surrogate pair.", code="invalid_json") from None
    return Encoded(path="v1/messages", body=encoded, dropped=tuple(draft.dropped))


def _refuse(draft: _Draft) -> None:
    """Refuse what would make the answer another one."""
    n = draft.value("n")
    if n is not None and n != 1:
        raise BadRequest("This model gives one choice: `n` must be 1.", param="n")
    modalities = draft.value("modalities")
    if draft.value("audio") or (isinstance(modalities, list) and set(map(str, modalities)) - {"text"}):
        raise BadRequest("This model answers in text only.", param="modalities" if modalities else "audio")
    for key, instead in (("functions", "tools"), ("function_call", "tool_choice")):
        if draft.value(key):
            raise BadRequest(f"This model knows no `{key}`: use `{instead}`.", param=key)
    if draft.value("web_search_options") is not None:
        raise BadRequest("This model cannot search the web by `web_search_options`.", param="web_search_options")


def _limits(draft: _Draft) -> None:
    for key in ("max_completion_tokens", "max_tokens"):
        limit = draft.number(key)
        if limit is not None:
            if not 1 <= limit <= MAX_TOKENS or limit != int(limit):
                raise BadRequest(f"`{key}` must be a whole number from 1.", param=key)
            draft.out["max_tokens"] = int(limit)
            break
    else:
        draft.out["max_tokens"] = DEFAULT_MAX_TOKENS
    stop = draft.value("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise BadRequest("`stop` must be a text or an array of texts.", param="stop")
    useful = [s for s in stops if s.strip()]
    if len(useful) < len(stops):
        draft.drop("stop")  # the API refuses sequences of blanks
    if useful:
        draft.out["stop_sequences"] = useful


def _tools(draft: _Draft) -> bool:
    """Translate tools and choice; tell whether a tool call is forced."""
    tools = read_tools(draft.value("tools"))
    if not tools:
        if draft.value("tool_choice") not in (None, "auto", "none"):
            raise BadRequest("`tool_choice` needs `tools`.", param="tool_choice")
        return False
    draft.out["tools"] = tools
    choice = read_choice(draft.value("tool_choice"))
    if draft.value("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    if choice:
        draft.out["tool_choice"] = choice
    return choice.get("type") in ("any", "tool")


def _response_format(draft: _Draft) -> bool:
    """Translate response_format; tell whether that forces a tool."""
    wanted = draft.value("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    if kind in (None, "text"):
        return False
    if kind == "json_object":
        draft.prompt.system.append({"type": "text", "text": _JSON_HINT})
        draft.drop("response_format")
        return False
    if kind != "json_schema":
        raise BadRequest("`response_format.type` must be text, json_object or json_schema.", param="response_format")
    schema, description = schema_of(wanted)
    if draft.able.json_schema:
        draft.out["output_config"] = {"format": {"type": "json_schema", "schema": native_schema(schema)}}
        return False
    choice = draft.out.get("tool_choice", {"type": "auto"})
    if choice["type"] in ("any", "tool"):
        return True  # a tool call is demanded: the schema says nothing about it
    tool = {"name": JSON_TOOL, "description": description or "Give the answer.", "input_schema": schema}
    tools = draft.out.get("tools", ())
    draft.out["tools"] = [*tools, tool]
    if tools and choice["type"] == "auto":
        draft.out["tool_choice"] = {**choice, "type": "any"}
    else:
        draft.out["tool_choice"] = {"type": "tool", "name": JSON_TOOL}
    return True


def _output_config(draft: _Draft) -> None:
    own = draft.value("output_config")
    if isinstance(own, dict):
        draft.out["output_config"] = {**draft.out.get("output_config", {}), **own}


def _thinking(draft: _Draft, forced: bool) -> None:
    able, out = draft.able, draft.out
    no_limit = draft.value("max_tokens") is None and draft.value("max_completion_tokens") is None
    own = out.get("thinking")
    if own is not None:
        budget = own.get("budget_tokens") if isinstance(own, dict) else None
        if no_limit and type(budget) is int and 0 < budget <= MAX_TOKENS:
            out["max_tokens"] += budget
        return
    effort = draft.value("reasoning_effort")
    if effort is None:
        return
    if effort == "none":
        if able.thinking == "adaptive":  # some of these think unless told not to
            out["thinking"] = {"type": "disabled"}
        return
    if not isinstance(effort, str) or effort not in _BUDGETS:
        raise BadRequest(f"`reasoning_effort` must be none or one of {', '.join(_BUDGETS)}.", param="reasoning_effort")
    if able.thinking == "adaptive":
        level = {"minimal": "low", "xhigh": "xhigh" if able.xhigh else "high"}.get(effort, effort)
        out["output_config"] = {"effort": level, **out.get("output_config", {})}
        if not forced:
            out["thinking"] = {"type": "adaptive"}
        return
    budget = _BUDGETS[effort]
    room = budget if no_limit else min(budget, out["max_tokens"] // 2)  # a client's limit is for thinking and answer together
    if able.thinking == "none" or forced or room < MIN_BUDGET or not draft.prompt.open_loop_thinks:
        draft.drop("reasoning_effort")
        return
    out["thinking"] = {"type": "enabled", "budget_tokens": room}
    if no_limit:
        out["max_tokens"] += room


def _sampling(draft: _Draft) -> None:
    temperature, top_p = draft.number("temperature"), draft.number("top_p")
    for key, value, most in (("temperature", temperature, 2), ("top_p", top_p, 1)):
        if value is not None and not 0 <= value <= most:
            raise BadRequest(f"`{key}` must lie between 0 and {most}.", param=key)
    if temperature is not None and temperature > 1:
        temperature = 1.0
        draft.drop("temperature")
    mode = draft.out.get("thinking")
    thinks = isinstance(mode, dict) and mode.get("type") not in (None, "disabled")
    if not draft.able.sampling or thinks:
        # 1 is the default of both; anything else is refused here.
        if temperature not in (None, 1):
            draft.drop("temperature")
        if top_p not in (None, 1) and not (thinks and draft.able.sampling and top_p is not None and top_p >= 0.95):
            draft.drop("top_p")
            top_p = None
        if draft.out.pop("top_k", None) is not None:
            draft.drop("top_k")
        temperature = None
        if not draft.able.sampling or top_p == 1:
            top_p = None
    elif temperature is not None and top_p is not None and not draft.able.both_sampling:
        if top_p != 1:
            draft.drop("top_p")
        top_p = None
    if temperature is not None:
        draft.out["temperature"] = temperature
    if top_p is not None:
        draft.out["top_p"] = top_p


def _about_the_client(draft: _Draft) -> None:
    metadata = draft.value("metadata")
    theirs = metadata.get("user_id") if isinstance(metadata, dict) else None
    user = draft.value("safety_identifier") or draft.value("user") or theirs
    if isinstance(user, str):
        draft.out["metadata"] = {"user_id": user}
    if isinstance(metadata, dict) and set(metadata) - {"user_id"}:
        draft.drop("metadata")
    tier = draft.value("service_tier")
    if tier in ("auto", "standard_only"):
        draft.out["service_tier"] = tier
    elif tier == "default":
        draft.out["service_tier"] = "standard_only"
    elif tier is not None:
        draft.drop("service_tier")
