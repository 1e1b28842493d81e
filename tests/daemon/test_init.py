"""A first routes.yaml is one that serves, whatever providers are in it, and nothing of the operator's is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from routerd.config import load, schema_json
from routerd.config.source import preset_names
from routerd.daemon.cli import main
from routerd.daemon.load.gate import Listening, unfit
from routerd.daemon.settings import DEFAULTS, Address


def test_what_init_writes_passes_check_and_names_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert main(["init", "--dir", str(folder), "--provider", "openrouter", "--provider", "vllm"]) == 0
    told = capsys.readouterr().out
    assert "OPENROUTER_API_KEY" in told
    assert "VLLM" not in told
    text = (folder / "routes.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=./routes.schema.json\n")
    assert (folder / "routes.schema.json").read_text() == schema_json()
    assert main(["check", str(folder / "routes.yaml")]) == 0


@pytest.mark.parametrize("provider", preset_names())
def test_every_preset_can_be_taken_in(provider: str, tmp_path: Path) -> None:
    assert main(["init", "--dir", str(tmp_path), "--provider", provider]) == 0
    loaded = load(tmp_path / "routes.yaml", {})
    assert loaded.warnings == ()
    assert set(loaded.graph.providers) == {"demo", provider}
    assert loaded.graph.providers[provider].direct


@pytest.mark.parametrize("provider", preset_names())
def test_what_init_writes_never_asks_routerd_itself(provider: str, tmp_path: Path) -> None:
    """llama.cpp's usual port is routerd's, too."""
    assert main(["init", "--dir", str(tmp_path), "--provider", provider]) == 0
    where = [Address.parse(DEFAULTS[name]) for name in ("listen", "admin")]
    listening = Listening(data=where[0], admin=where[1], public=False, open=False)
    assert unfit(load(tmp_path / "routes.yaml", {}), listening, "routes.yaml") == ()


def test_without_a_provider_it_serves_the_simulator(tmp_path: Path) -> None:
    assert main(["init", "--dir", str(tmp_path)]) == 0
    assert list(load(tmp_path / "routes.yaml", {}).graph.routes) == ["demo"]


def test_what_is_there_stays_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("mine")
    assert main(["init", "--dir", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert not (tmp_path / "routes.schema.json").exists()
    assert main(["init", "--dir", str(tmp_path), "--force"]) == 0
    assert "version: 1" in file.read_text()


def test_an_unknown_provider_is_told_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--dir", str(tmp_path), "--provider", "llama.cpp"]) == 2
    assert "no preset is called 'llama.cpp'; did you mean llamacpp? there are: anthropic," in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", "--dir", str(tmp_path / "file")]) == 3
