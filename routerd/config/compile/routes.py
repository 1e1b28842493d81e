"""`models:` to Route, Step and Target records.

A chain entry is `provider/model` (split at the first slash), a target, or a group. Timeouts are settled here, field by field:
target > model > provider > defaults > built-in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from routerd.config.compile import fields
from routerd.config.compile.budgets import price
from routerd.config.compile.context import Build
from routerd.config.compile.provider.providers import Defaults
from routerd.config.source import ReadFailure
from routerd.config.tree import Path
from routerd.graph import Balance, Pattern, Provider, Route, Step, SystemPrompt, Target

MAX_PROMPT_BYTES = 1024 * 1024
_PLACEHOLDER = re.compile(r"\{([0-9]+)\}")
_UNCLOSED = re.compile(r"\{([0-9]+)(?![0-9}])")


def compile_routes(build: Build, defaults: Defaults, providers: Mapping[str, Provider]) -> dict[str, Route]:
    """Compile all models, in file order."""
    return {name: _RouteOf(build, defaults, providers, name, body).compile() for name, body in build.entries("models")}


class _RouteOf:
    """The compilation of one model."""

    def __init__(
        self, build: Build, defaults: Defaults, providers: Mapping[str, Provider], name: str, body: Mapping[str, Any]
    ) -> None:
        self._build = build
        self._defaults = defaults
        self._providers = providers
        self._name = name
        self._body = body
        self._path: Path = ("models", name)
        self._stars = name.count("*")
        self._timeouts = fields.seconds_of(build, (*self._path, "timeouts"), body.get("timeouts", {}))
        self._price = price(body.get("price"))

    def compile(self) -> Route:
        build, body, path = self._build, self._body, self._path
        chain = tuple(self._step((*path, "chain", i), item) for i, item in enumerate(body["chain"]))
        route = Route(
            name=self._name,
            chain=chain,
            overflow=self._overflow(),
            pattern=Pattern.parse(self._name) if self._stars else None,
            description=body.get("description", ""),
            aliases=tuple(body.get("aliases", ())),
            enabled=body.get("enabled", True),
            system_prompt=self._system_prompt(body.get("system_prompt")),
            params=fields.params(build, (*path, "params"), body.get("params")),
            failover=self._failover(),
            retry=self._retry(),
            budgets=build.names((*path, "budgets"), body.get("budgets", ()), "budgets"),
        )
        self._warn_if_dead(route)
        return route

    def _failover(self) -> Any:
        body, base = self._body.get("failover"), self._defaults.failover
        return fields.failover(self._build, (*self._path, "failover"), body, base) if body else base

    def _retry(self) -> Any:
        body, base = self._body.get("retry"), self._defaults.retry
        return fields.retry(self._build, (*self._path, "retry"), body, base) if body else base

    # ── chain ──

    def _overflow(self) -> tuple[Step, ...]:
        """Compile the chain for prompts that are too long: the model's own, an empty one too, else that of the defaults."""
        items = self._body.get("failover", {}).get("context_overflow")
        path: Path = (*self._path, "failover", "context_overflow")
        if items is None:
            items, path = self._defaults.context_overflow, ("defaults", "failover", "context_overflow")
        return tuple(self._step((*path, i), item) for i, item in enumerate(items))

    def _step(self, path: Path, item: Any) -> Step:
        if not isinstance(item, dict) or "any_of" not in item:
            return Step(targets=(self._target(path, item),))
        targets = tuple(self._target((*path, "any_of", i), one) for i, one in enumerate(item["any_of"]))
        if not any(target.weight for target in targets):
            self._build.error((*path, "any_of"), "zero-weights", "all weights are 0: no target would be asked", at_key=True)
        return Step(targets=targets, balance=Balance(item.get("balance", "weighted")))

    def _target(self, path: Path, item: Any) -> Target:
        if isinstance(item, str):
            return self._short_target(path, item)
        provider, endpoint = item["provider"], item.get("endpoint")
        self._check_provider((*path, "provider"), provider)
        self._check_endpoint((*path, "endpoint"), provider, endpoint)
        self._check_placeholders((*path, "model"), item["model"])
        own = item.get("timeouts")
        overrides = fields.seconds_of(self._build, (*path, "timeouts"), own) if own else {}
        return Target(
            provider=provider,
            model=item["model"],
            endpoint=endpoint,
            weight=int(item.get("weight", 1)),
            params=fields.params(self._build, (*path, "params"), item.get("params")),
            timeouts=self._timeouts_of(provider, overrides),
            price=price(item.get("price")) or self._price,
        )

    def _short_target(self, path: Path, text: str) -> Target:
        provider, slash, model = text.partition("/")
        if not slash or not provider or not model:
            known = text in self._build.known("providers")
            hint = f"write `{text}/<model>`" if known else "a chain names providers, not other models"
            self._build.error(path, "bad-target", f"expected provider/model, got {self._build.tree.shown(path)}", hint)
            return Target(provider=provider, model=model)
        self._check_provider(path, provider)
        if not re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{1,256}", model):
            self._build.error(path, "bad-name", "the model has control characters or more than 256 characters")
        elif " " in model:  # valid YAML, and a model that no provider has
            hint = f"is a comma missing? A name that has one is written {{provider: {provider}, model: ...}}"
            self._build.error(path, "bad-target", f"a space in {self._build.tree.shown(path)}", hint)
        self._check_placeholders(path, model)
        return Target(provider=provider, model=model, timeouts=self._timeouts_of(provider, {}), price=self._price)

    def _timeouts_of(self, provider: str, overrides: Mapping[str, float]) -> Any:
        known = self._providers.get(provider)
        base = known.timeouts if known else self._defaults.timeouts
        return fields.timeouts(self._build, base, self._timeouts, overrides)

    def _check_provider(self, path: Path, name: str) -> None:
        known = self._build.known("providers")
        if name not in known:
            self._build.unknown(path, "provider", name, known)

    def _check_endpoint(self, path: Path, provider: str, name: str | None) -> None:
        owner = self._providers.get(provider)
        if name is not None and owner is not None:
            names = [endpoint.name for endpoint in owner.endpoints]
            if name not in names:
                self._build.unknown(path, "endpoint", name, names)

    def _check_placeholders(self, path: Path, model: str) -> None:
        count, owner = (0, "a default") if path[0] == "defaults" else (self._stars, repr(self._name))
        for number in _PLACEHOLDER.findall(model):
            if not 1 <= int(number[:6]) <= count:
                stars = f"{count} star{'s' if count != 1 else ''}" if count else "no star"
                message = f"{{{number[:6]}}} stands for no star: {owner} has {stars}"
                self._build.error(path, "bad-placeholder", message, "{1} is what the first star matched")
        if unclosed := _UNCLOSED.search(model):
            number = unclosed[1]
            self._build.error(path, "bad-placeholder", f"{{{number} is not closed", f"write {{{number}}}")

    def _warn_if_dead(self, route: Route) -> None:
        """A route that nobody can answer is told, not refused: its credentials may come later."""
        owners = [self._providers.get(target.provider) for step in route.chain for target in step.targets]
        reasons = {owner.name: owner.disabled for owner in owners if owner is not None and owner.disabled}
        if route.enabled and owners and all(owner is not None and owner.disabled for owner in owners):
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            self._build.warn(self._path, "all-disabled", f"every target is disabled ({why})", at_key=True)

    # ── prompt ──

    def _system_prompt(self, body: Mapping[str, Any] | None) -> SystemPrompt | None:
        if body is None:
            return None
        mode = body.get("mode", "if_missing")
        if "text" in body:
            return SystemPrompt(text=body["text"], mode=mode)
        path = (*self._path, "system_prompt", "file")
        text = ""
        try:
            data = self._build.reader.read(self._build.file(path, body["file"]), max_bytes=MAX_PROMPT_BYTES)
            text = data.decode("utf-8-sig")
        except ReadFailure as failure:
            code = "missing-prompt" if failure.code == "missing-file" else failure.code
            self._build.error(path, code, f"the prompt {self._build.tree.shown(path)}: {failure.message}")
        except UnicodeDecodeError as exc:
            self._build.error(path, "bad-encoding", f"the prompt is not UTF-8: offset {exc.start}", "save it as UTF-8")
        else:
            if not text.strip():
                self._build.error(path, "empty", f"the prompt {self._build.tree.shown(path)} is empty")
        return SystemPrompt(text=text, mode=mode)
