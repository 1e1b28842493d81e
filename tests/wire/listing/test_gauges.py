"""Rules of reading an engine's gauges out of its metrics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.wire.listing.gauges import EngineLoad, engine_load

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-32B-AWQ"} 3.0
vllm:num_requests_running{engine="1",model_name="Qwen/Qwen3-32B-AWQ"} 4.0
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen3-32B-AWQ"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="a}b"} 0.125
vllm:kv_cache_usage_perc{engine="1",model_name="Qwen/Qwen3-32B-AWQ"} 0.5
vllm:num_requests_running_created{engine="0"} 1.7e+09
"""
SGLANG = """sglang:num_running_reqs{model_name="m"} 2.0
sglang:num_queue_reqs{model_name="m"} 5.0
sglang:token_usage{model_name="m"} 0.28
"""
LLAMA = """# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
llamacpp:requests_deferred 0
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, EngineLoad(7, 1, 0.5)),
        (VLLM.replace("kv_cache", "gpu_cache"), EngineLoad(7, 1, 0.5)),
        (SGLANG, EngineLoad(2, 5, 0.28)),
        (LLAMA, EngineLoad(1, 0, None)),
        (LLAMA.replace("\n", "\r\n"), EngineLoad(1, 0, None)),
        (SGLANG.replace("2.0", "NaN"), None),
        (SGLANG.replace("5.0", "-1"), EngineLoad(2, 0, 0.28)),
        ("vllm:num_requests_waiting 3\n", None),
        ("", None),
    ],
)
def test_the_gauges_of_each_engine_are_known(text: str, load: EngineLoad | None) -> None:
    assert engine_load(text) == load


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    load = engine_load(f"sglang:num_running_reqs {text}")
    assert load is None or 0 <= load.running <= 1_000_000
