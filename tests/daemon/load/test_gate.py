"""A daemon does not serve what would have it ask itself, nor anybody on a public address."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from routerd.config import Loaded, load
from routerd.daemon.load.gate import Listening, unfit
from routerd.daemon.output.report import report
from routerd.daemon.settings import Address

HERE = Listening(data=Address("127.0.0.1", 8080), admin=Address("127.0.0.1", 8079), public=False, open=False)
EVERYWHERE = replace(HERE, data=Address("0.0.0.0", 8080), public=True, open=True)


def routes(folder: Path, provider: str, more: str = "") -> Loaded:
    path = folder / "routes.yaml"
    path.write_text(f"version: 1\nproviders:\n  gpu:\n    {provider}\nmodels:\n  m: {{chain: [gpu/x]}}\n{more}")
    return load(path, {})


@pytest.mark.parametrize(
    ("url", "listening"),
    [
        ("http://127.0.0.1:8080/v1", HERE),
        ("http://localhost:8080/v1", HERE),
        ("http://[::1]:8080/v1", replace(HERE, data=Address("::1", 8080))),
        ("http://gpu.localhost:8080/v1", HERE),
        ("http://127.0.0.2:8080/v1", EVERYWHERE),
        ("http://router.internal:8080/v1", replace(HERE, data=Address("router.internal", 8080))),
        ("http://127.0.0.1:8079", HERE),  # the admin listener is no engine either
        ("http://localhost:8080", EVERYWHERE),
        ("http://0.0.0.0:8080", EVERYWHERE),
        ("http://10.0.0.5:8080", replace(HERE, data=Address("10.0.0.5", 8080))),
        ("http://localhost", replace(HERE, data=Address("127.0.0.1", 80))),
    ],
)
def test_a_provider_at_an_own_address_is_refused(url: str, listening: Listening, tmp_path: Path) -> None:
    (problem,) = unfit(routes(tmp_path, f"base_url: {url}\n    auth: {{type: none}}"), listening, "routes.yaml")
    assert (problem.code, problem.path, problem.line, problem.column) == ("own-address", "providers.gpu", 4, 15)
    assert "it would ask itself" in problem.message
    assert "another port" in report([problem], sys.stderr)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8081/v1",
        "http://127.0.0.2:8080/v1",
        "http://[::1]:8080/v1",
        "http://gpu.internal:8080/v1",
        "http://10.0.0.5:8080",
        "https://localhost:8080/v1",
    ],
)
def test_others_are_not(url: str, tmp_path: Path) -> None:
    assert unfit(routes(tmp_path, f"base_url: {url}\n    auth: {{type: none}}"), HERE, "routes.yaml") == ()


def test_nor_is_one_that_is_switched_off(tmp_path: Path) -> None:
    off = routes(tmp_path, 'base_url: "http://127.0.0.1:8080"\n    api_key: "${NONE:-}"\n    optional: true')
    assert unfit(off, HERE, "routes.yaml") == ()


def test_a_preset_at_its_usual_address_counts_as_well(tmp_path: Path) -> None:
    (problem,) = unfit(routes(tmp_path, "preset: llamacpp"), HERE, "routes.yaml")
    assert (Path(problem.file).name, problem.path, problem.line) == ("routes.yaml", "providers.gpu", 4)


@pytest.mark.parametrize(
    ("more", "open_", "refused"), [("", False, True), ("", True, False), ("clients: {a: {key: k}}", False, False)]
)
def test_a_public_address_wants_clients_or_a_word(more: str, open_: bool, refused: bool, tmp_path: Path) -> None:
    loaded = routes(tmp_path, "dialect: simulator", more)
    found = unfit(loaded, replace(EVERYWHERE, open=open_), "routes.yaml")
    assert [problem.code for problem in found] == (["open-listener"] if refused else [])
