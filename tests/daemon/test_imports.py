"""What another router was told is carried over, or said with its line; the result always passes `check`."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from routerd.config import Loaded, load
from routerd.daemon.cli import main
from routerd.daemon.imports.litellm import from_litellm
from routerd.daemon.imports.llamaswap import from_llama_swap
from routerd.daemon.imports.source import Left, Section, read
from routerd.errors import ConfigError

DATA = Path(__file__).parent / "data"
KEYS = dict.fromkeys(
    ("AZURE_API_KEY_EU", "AZURE_API_KEY_CA", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY", "LITELLM_MASTER_KEY"), "sk-test"
)


def imported(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Loaded, str]:
    """Run `import`; return what it wrote, loaded with every key there, and what it said was left out."""
    out = tmp_path / "routes.yaml"
    assert main(["import", *argv, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert main(["check", str(out)]) == 0
    loaded = load(out, KEYS)
    assert loaded.warnings == ()
    for line in said.splitlines():
        assert " ".join(line.split()) in out.read_text()
    return loaded, said


def test_a_litellm_proxy_is_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded, said = imported(["litellm", str(DATA / "litellm.yaml")], tmp_path, capsys)
    graph = loaded.graph
    assert list(graph.routes) == ["gpt-4o", "claude", "qwen", "openrouter/*"]
    first, second, third = graph.routes["gpt-4o"].chain
    assert [(one.provider, one.model, one.weight) for one in first.targets] == [
        ("azure-openai", "gpt-4o-eu", 2),
        ("azure-openai-2", "gpt-4o-ca", 1),
    ]
    assert first.balance == "least_busy"
    assert [second.targets[0].provider, third.targets[0].provider] == ["anthropic", "vllm"]
    assert graph.endpoints["azure-openai"].url == "https://my-endpoint-europe.openai.azure.com/openai/v1"
    assert graph.aliases["gpt-4"] == "gpt-4o"
    claude = graph.routes["claude"].chain[0].targets[0]
    assert (claude.timeouts.total_s, claude.timeouts.first_token_s) == (300.0, 60.0)
    assert claude.params.defaults["max_tokens"] == 4096
    price = graph.routes["qwen"].chain[0].targets[0].price
    assert price is not None
    assert (price.input_nano_usd, price.output_nano_usd) == (400_000_000, 1_200_000_000)  # a million tokens
    assert graph.routes["qwen"].overflow[0].targets[0].provider == "anthropic"
    assert graph.routes["gpt-4o"].retry.attempts == 3
    assert graph.clients is not None
    assert list(graph.clients) == ["litellm"]
    for line, word in ((9, "rpm"), (32, "bedrock"), (46, "success_callback"), (50, "redis_host"), (53, "database_url")):
        assert any(f"litellm.yaml:{line}: " in one and word in one for one in said.splitlines()), (line, word)
    assert len(said.splitlines()) == 9


def test_llama_swap_is_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded, said = imported(["llama-swap", str(DATA / "llama-swap.yaml")], tmp_path, capsys)
    graph = loaded.graph
    assert set(graph.routes) == {"qwen-small", "llama-8b", "docker-vllm", "meta-llama/llama-3.1-8b-instruct"}
    assert graph.endpoints["llama-8b"].url == "http://localhost:10001/v1"  # ports count over the sorted names
    assert graph.endpoints["qwen-small"].url == "http://localhost:10002/v1"
    assert graph.endpoints["docker-vllm"].url == "http://127.0.0.1:9503/v1"
    assert graph.endpoints["llama-8b"].max_concurrent == 4
    assert graph.routes["docker-vllm"].chain[0].targets[0].model == "qwen/QwQ-32B"
    small = graph.routes["qwen-small"]
    assert small.params.drop == ("temperature", "top_p")
    assert small.params.force == {"top_k": 20}
    assert graph.aliases["gpt-4o-mini"] == "qwen-small"
    for line, word in ((10, "ttl"), (16, "at http://localhost:10001"), (24, "groups")):
        assert any(f"llama-swap.yaml:{line}: " in one and word in one for one in said.splitlines()), (line, word)


LIST = b"""{"data": [
  {"id": "qwen/qwen3-32b", "name": "Qwen3 32B", "pricing": {"prompt": "0.0000001", "completion": "0.0000003"}},
  {"id": "openrouter/auto", "name": "Auto", "pricing": {"prompt": "-1", "completion": "-1"}}, {"no": "id"}]}"""


class Models(http.server.BaseHTTPRequestHandler):
    """OpenRouter's list of models."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/v1/models" else 404)
        self.send_header("content-length", str(len(LIST)))
        self.end_headers()
        self.wfile.write(LIST)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def openrouter() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api/v1"
    server.shutdown()
    server.server_close()


def test_openrouter_gives_every_listed_model_with_its_price(
    openrouter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, said = imported(["openrouter", "--url", openrouter], tmp_path, capsys)
    assert list(loaded.graph.routes) == ["qwen/qwen3-32b", "openrouter/auto"]
    price = loaded.graph.routes["qwen/qwen3-32b"].chain[0].targets[0].price
    assert price is not None
    assert (price.input_nano_usd, price.output_nano_usd) == (100_000_000, 300_000_000)
    assert loaded.graph.routes["openrouter/auto"].chain[0].targets[0].price is None
    assert said == ""


def test_openrouter_can_be_narrowed_to_some_models(openrouter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded, _ = imported(["openrouter", "--url", openrouter, "--match", "qwen/*"], tmp_path, capsys)
    assert list(loaded.graph.routes) == ["qwen/qwen3-32b"]


def test_without_its_list_openrouter_is_a_provider_that_can_be_asked_directly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, said = imported(["openrouter", "--url", "http://127.0.0.1:1/api/v1"], tmp_path, capsys)
    assert loaded.graph.providers["openrouter"].direct
    assert "the list cannot be had" in said


def test_without_out_it_is_printed_and_with_it_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "litellm", str(DATA / "litellm.yaml")]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["version"] == 1
    (tmp_path / "routes.yaml").write_text("mine")
    assert main(["import", "litellm", str(DATA / "litellm.yaml"), "--out", str(tmp_path / "routes.yaml")]) == 2
    assert (tmp_path / "routes.yaml").read_text() == "mine"


@pytest.mark.parametrize(("argv", "status"), [(["litellm"], 2), (["openrouter", "x"], 2), (["litellm", "/nowhere/x"], 3)])
def test_a_mistake_is_one_line(argv: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *argv]) == status
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("model_list:\n  - {a: b\nc: d: e\n")
    assert main(["import", "litellm", str(tmp_path / "bad.yaml")]) == 2
    assert "bad.yaml:3" in capsys.readouterr().err


def test_a_fallback_to_a_model_that_is_not_there_is_said() -> None:
    left = Left("c.yaml")
    from_litellm(read("c.yaml", "litellm_settings:\n  fallbacks: [{a: [gone]}]\n"), left)
    assert left.texts() == ["c.yaml:2: litellm_settings.fallbacks: there is no model 'gone' here"]


@given(st.text(max_size=200))
def test_any_text_is_a_section_or_a_config_error(text: str) -> None:
    try:
        found = read("c.yaml", text)
    except ConfigError:
        return
    assert isinstance(found, Section)


WORDS = ("model_list", "model_name", "litellm_params", "model", "fallbacks", "models", "cmd", "proxy", "peers", "filters", "x")
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text("a/*$", max_size=4)
NAMES = st.sampled_from(WORDS)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))


@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=4))
def test_a_configuration_of_any_shape_raises_nothing(tree: dict[str, Any]) -> None:
    text = yaml.safe_dump(tree)
    for convert in (from_litellm, from_llama_swap):
        assert convert(read("c.yaml", text), Left("c.yaml"))["version"] == 1
