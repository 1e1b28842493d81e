"""The blocks that several things have: timeouts, retry, failover, parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from routerd.config.compile.context import Build
from routerd.config.tree import Path
from routerd.graph import Backoff, Breaker, Clamp, Failover, Params, Retry, Timeouts

NO_PARAMS = Params()
NO_RETRY = Retry()


def seconds_of(build: Build, path: Path, body: Mapping[str, Any], *, zero: bool = False) -> dict[str, float]:
    """Return `{connect: 2s}` as `{"connect_s": 2.0}`: the fields of a Graph record that a block sets."""
    out: dict[str, float] = {}
    for key, text in body.items():
        if not key.startswith("x-"):
            length = build.seconds((*path, key), text, zero=zero)
            if length is not None:
                out[f"{key}_s"] = length
    return out


def timeouts(build: Build, base: Timeouts, *overrides: Mapping[str, float]) -> Timeouts:
    """Return `base` with the overrides, the later ones winning."""
    merged: dict[str, float] = {}
    for one in overrides:
        merged.update(one)
    return build.share(replace(base, **merged)) if merged else base


def retry(build: Build, path: Path, body: Mapping[str, Any], base: Retry) -> Retry:
    """Return `base` with what `body` says."""
    spec = body.get("backoff", {})
    lengths = seconds_of(build, (*path, "backoff"), {key: spec[key] for key in ("first", "max") if key in spec}, zero=True)
    backoff = Backoff(
        first_s=lengths.get("first_s", base.backoff.first_s),
        factor=float(spec.get("factor", base.backoff.factor)),
        max_s=lengths.get("max_s", base.backoff.max_s),
        jitter_ratio=float(spec.get("jitter", base.backoff.jitter_ratio)),
    )
    return build.share(Retry(attempts=int(body.get("attempts", base.attempts)), backoff=backoff))


def failover(build: Build, path: Path, body: Mapping[str, Any], base: Failover) -> Failover:
    """Return `base` with what `body` says."""
    deadline_s = base.deadline_s
    if "deadline" in body:
        deadline_s = build.seconds((*path, "deadline"), body["deadline"])
    return build.share(
        Failover(
            on=frozenset(body.get("on", base.on)),
            max_attempts=int(body.get("max_attempts", base.max_attempts)),
            deadline_s=deadline_s,
        )
    )


def breaker(build: Build, path: Path, body: Mapping[str, Any], base: Breaker) -> Breaker:
    """Return `base` with what `body` says."""
    lengths = seconds_of(build, path, {key: body[key] for key in ("window", "open_for") if key in body})
    lengths |= seconds_of(build, path, {key: body[key] for key in ("ramp",) if key in body}, zero=True)
    plain: dict[str, Any] = {key: body[key] for key in ("enabled", "failure_ratio", "min_requests") if key in body}
    return build.share(replace(base, **(plain | lengths)))


def params(build: Build, path: Path, body: Mapping[str, Any] | None) -> Params:
    """Compile a `params` block."""
    if not body:
        return NO_PARAMS
    clamp: dict[str, Clamp] = {}
    for name, bounds in body.get("clamp", {}).items():
        low, high = bounds.get("min"), bounds.get("max")
        if low is not None and high is not None and low > high:
            build.error((*path, "clamp", name), "out-of-range", "min is above max", "swap them")
        clamp[name] = Clamp(min=low, max=high)  # not shared: 1 and 1.0 are equal, but not the same JSON
    return Params(
        defaults=dict(body.get("defaults", {})), force=dict(body.get("force", {})), clamp=clamp, drop=tuple(body.get("drop", ()))
    )
