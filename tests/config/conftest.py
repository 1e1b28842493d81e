"""Load a text as if it were routes.yaml."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from routerd.config import Loaded, load
from routerd.errors import ConfigError

LoadText = Callable[..., Loaded]


@pytest.fixture
def load_text(tmp_path: pathlib.Path) -> LoadText:
    """`load_text(text, NAME="value")` writes routes.yaml and loads it with that environment."""

    def run(text: str | bytes, **environ: str) -> Loaded:
        path = tmp_path / "routes.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, environ)

    return run


@pytest.fixture
def problems_of(load_text: LoadText) -> Callable[..., list[str]]:
    """Like load_text for a text that must fail; returns `line:column code message` of every problem."""

    def run(text: str | bytes, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, **environ)
        return [f"{p.line}:{p.column} {p.code} {p.message}" for p in caught.value.problems]

    return run


@pytest.fixture
def hints_of(load_text: LoadText) -> Callable[..., list[str]]:
    """Like problems_of, for what the problems advise."""

    def run(text: str | bytes, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, **environ)
        return [p.hint for p in caught.value.problems]

    return run
