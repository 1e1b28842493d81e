"""What an inference engine says of its load in its own metrics: a few gauges out of a Prometheus text.

Names as in the engines' documentation: vLLM ("Production metrics"; the cache gauge was renamed from gpu_cache_usage_perc to
kv_cache_usage_perc), SGLang ("Production metrics"), llama.cpp's server (README, GET /metrics). Series of several models or engine
ranks behind one address are added up; of the cache the fullest counts. A gauge that is missing or no number is left out.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["EngineLoad", "engine_load"]

_RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing")
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")
_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio")
_LINE = re.compile(rf"^({'|'.join((*_RUNNING, *_WAITING, *_CACHE))})(?:\{{[^\n]*\}})?[ \t]+([^\s]+)", re.MULTILINE)
_MOST = 1_000_000


class EngineLoad(NamedTuple):
    """Requests that run and that wait in the engine, and how full its cache is (0 to 1; None: it does not say)."""

    running: int
    waiting: int
    cache_ratio: float | None = None


def engine_load(text: str) -> EngineLoad | None:
    """Return the load, or None where the text has no gauge of running requests that is known."""
    found: dict[str, list[float]] = {}
    for match in _LINE.finditer(text):
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value) and 0 <= value <= _MOST:
            found.setdefault(match[1], []).append(value)
    running = next((found[name] for name in _RUNNING if name in found), None)
    if running is None:
        return None
    waiting = next((found[name] for name in _WAITING if name in found), [])
    cache = next((found[name] for name in _CACHE if name in found), None)
    return EngineLoad(round(sum(running)), round(sum(waiting)), min(1.0, max(cache)) if cache else None)
