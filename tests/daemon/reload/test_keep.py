"""What is kept loads again to the same graph, without the files; what cannot be kept stops nothing."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from routerd.config import Kept, load
from routerd.daemon.reload.keep import Keeper, LastGood, Unusable, read, write
from routerd.errors import ConfigError

MAIN = """version: 1
include: [conf.d/*.yaml]
providers:
  up: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: {file: key}}
  other: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: "${OTHER}"}
models:
  m: {system_prompt: {file: prompts/m.md}, chain: [up/x]}
"""
ENV = {"OTHER": "sk-from-the-environment"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    place = tmp_path / "etc"
    (place / "conf.d").mkdir(parents=True)
    (place / "prompts").mkdir()
    (place / "routes.yaml").write_text(MAIN)
    (place / "conf.d" / "a.yaml").write_text("models: {a: {chain: [other/a]}}\n")
    (place / "conf.d" / "b.yaml").write_text("# nothing yet\n")
    (place / "prompts" / "m.md").write_bytes("Grüß Gott".encode())
    (place / "key").write_text("sk-from-a-file\n")
    return place / "routes.yaml"


def kept(files: Path, tmp_path: Path) -> LastGood:
    loaded = load(files, ENV)
    write(tmp_path / "state", LastGood(digest=loaded.graph.digest, at_unix_s=1000.0, kept=loaded.kept))
    return read(tmp_path / "state", files)


def test_kept_inputs_load_to_the_same_graph_when_the_files_are_gone(files: Path, tmp_path: Path) -> None:
    good = kept(files, tmp_path)
    for name in ("conf.d/a.yaml", "conf.d/b.yaml", "prompts/m.md", "routes.yaml"):
        (files.parent / name).unlink()
    (files.parent / "conf.d" / "new.yaml").write_text("models: {new: {chain: [up/x]}}")
    assert load(files, ENV, good.kept).graph.digest == good.digest


def test_no_secret_is_kept_and_secrets_come_from_their_places(files: Path, tmp_path: Path) -> None:
    good = kept(files, tmp_path)
    text = (tmp_path / "state" / "last-good" / "inputs.json").read_text()
    assert "sk-from" not in text
    assert "${OTHER}" in text
    (files.parent / "key").write_text("sk-a-new-one")
    provider = load(files, ENV, good.kept).graph.providers["up"]
    assert provider.auth.secret is not None
    assert provider.auth.secret.reveal() == "sk-a-new-one"
    with pytest.raises(ConfigError):
        load(files, {}, good.kept)


def test_messages_name_the_files_and_lines_of_then(files: Path, tmp_path: Path) -> None:
    good = kept(files, tmp_path)
    files.unlink()
    with pytest.raises(ConfigError) as found:
        load(files, {}, good.kept)
    assert (found.value.problems[0].file, found.value.problems[0].line) == (str(files), 5)


def test_it_loads_from_another_working_directory(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.parent)
    good = kept(Path("routes.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    files.write_text("broken: [")
    assert read(tmp_path / "state", files).digest == good.digest
    assert load(files, ENV, good.kept).graph.digest == good.digest


def test_a_main_file_that_its_own_pattern_matches_is_not_included_twice(tmp_path: Path) -> None:
    main = tmp_path / "routes.yaml"
    main.write_text("version: 1\ninclude: ['*.yaml']\nproviders: {d: {dialect: simulator}}\nmodels: {m: {chain: [d/x]}}\n")
    (tmp_path / "more.yaml").write_text("models: {n: {chain: [d/x]}}")
    loaded = load(main, {})
    main.unlink()
    assert load(main, {}, loaded.kept).graph.digest == loaded.graph.digest


def test_bytes_that_are_no_text_come_back_as_they_were(tmp_path: Path) -> None:
    whole = bytes(range(256)) + "é\u2028".encode()
    written = LastGood(digest="d", at_unix_s=1.0, kept=Kept(main="/r", files={"/r": whole}, matches={"/c/*": ("/c/a",)}))
    write(tmp_path, written)
    assert read(tmp_path, Path("/r")) == written


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "last-good"
    directory.mkdir(mode=0o755)
    old = os.umask(0)
    try:
        path = write(tmp_path, LastGood(digest="d", at_unix_s=1.0, kept=Kept(main="/r", files={})))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert os.listdir(directory) == ["inputs.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": 1, "sha256": "x", "body": "{}"}', b"\xff\xfe"])
def test_what_is_damaged_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last-good").mkdir()
    (tmp_path / "last-good" / "inputs.json").write_bytes(content)
    with pytest.raises(Unusable, match="damaged"):
        read(tmp_path, Path("/r"))


def test_nothing_kept_and_another_configuration_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no configuration was kept"):
        read(tmp_path, Path("/r"))
    write(tmp_path, LastGood(digest="d", at_unix_s=1.0, kept=Kept(main="/r", files={})))
    with pytest.raises(Unusable, match="of another configuration: /r"):
        read(tmp_path, Path("/s"))


async def test_a_disk_that_refuses_is_one_warning_and_a_field(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    keeper = Keeper(blocked, lambda: 1000.0)
    for digest in ("a", "b"):
        keeper.keep(digest, Kept(main="/r", files={}))
        await keeper.flush()
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    told = keeper.as_json()
    assert told is not None
    assert (told["digest"], told["error"]) == ("", "Not a directory")
    blocked.unlink()
    keeper.keep("c", Kept(main="/r", files={}))
    await keeper.flush()
    told = keeper.as_json()
    assert told is not None
    assert (told["digest"], told["at_unix_s"], told["error"]) == ("c", 1000.0, "")


async def test_the_newest_of_those_that_wait_is_written(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, lambda: 1000.0)
    for digest in ("a", "b", "c"):
        keeper.keep(digest, Kept(main="/r", files={}))
    await keeper.flush()
    assert read(tmp_path, Path("/r")).digest == "c"


async def test_without_a_state_directory_nothing_is_kept() -> None:
    keeper = Keeper(None, lambda: 1000.0)
    keeper.keep("a", Kept(main="/r", files={}))
    await keeper.flush()
    assert keeper.as_json() is None


def test_a_disk_that_fills_up_leaves_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, LastGood(digest="old", at_unix_s=1.0, kept=Kept(main="/r", files={})))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, LastGood(digest="new", at_unix_s=1.0, kept=Kept(main="/r", files={})))
    assert read(tmp_path, Path("/r")).digest == "old"
    assert os.listdir(tmp_path / "last-good") == ["inputs.json"]
