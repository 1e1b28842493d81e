"""What a load may cost: bounds with a wide margin, so that only a change of order fails."""

# ruff: noqa: E501  (a document is one line of the test, not a paragraph)

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from routerd.config import Loaded
from routerd.errors import ConfigError

MODEL = """  model-%d:
    description: the model number %d
    aliases: [alias-%d]
    params:
      defaults: {temperature: 0.6, top_p: 0.95}
      clamp: {max_tokens: {max: 4096}}
    timeouts: {first_byte: 30s}
    chain:
      - {provider: gpu, model: org/model-%d}
      - or/org/model-%d:free
    failover: {max_attempts: 3}
"""


def document(models: int) -> str:
    head = "version: 1\nproviders:\n  gpu: {base_url: 'http://a:1/v1'}\n  or: {base_url: 'https://o/v1', api_key: '${K:-k}'}\nmodels:\n"
    return head + "".join(MODEL % ((i,) * 5) for i in range(models))


def timed(load_text: Callable[..., Loaded], text: str) -> float:
    before = time.thread_time()
    load_text(text)
    return time.thread_time() - before


def test_2000_models_load_in_well_under_a_second_and_a_half(load_text: Callable[..., Loaded]) -> None:
    text = document(2000)
    assert min(timed(load_text, text) for _ in range(3)) < 1.5  # usual: 0.35


def test_the_cost_grows_with_the_file_not_with_its_square(load_text: Callable[..., Loaded]) -> None:
    small = min(timed(load_text, document(200)) for _ in range(3))
    large = min(timed(load_text, document(1600)) for _ in range(3))
    assert large < small * 8 * 3


def test_equal_parts_are_one_object(load_text: Callable[..., Loaded]) -> None:
    graph = load_text(document(50)).graph
    seen: set[int] = set()
    for route in graph.routes.values():
        for step in route.chain:
            seen.update(id(target.timeouts) for target in step.targets)
    assert len(seen) == 1


def test_sharing_does_not_turn_an_integer_into_a_float(load_text: Callable[..., Loaded]) -> None:
    model = "  m%d: {chain: [demo/x], params: {clamp: {max_tokens: {max: %s}}}}\n"
    doc = "version: 1\nproviders: {demo: {dialect: simulator}}\nmodels:\n" + model % (1, "4096.0") + model % (2, "4096")
    bounds = [route.params.clamp["max_tokens"].max for route in load_text(doc).graph.routes.values()]
    assert [repr(bound) for bound in bounds] == ["4096.0", "4096"]


def test_a_file_with_a_thousand_mistakes_is_explained_in_seconds(load_text: Callable[..., Loaded]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(document(1500).replace("clamp", "clmap"))
    assert 1000 <= len(caught.value.problems) <= 1001
