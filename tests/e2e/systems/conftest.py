"""One daemon over the file of a system; where its providers are is told by environment variables, as an operator would."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon

HERE = pathlib.Path(__file__).parent
Serve = Callable[..., Daemon]


def file_of(name: str) -> str:
    """Return the text of a system's routes.yaml."""
    return (HERE / f"{name}.yaml").read_text()


@pytest.fixture
def serve(daemon: Callable[..., Daemon]) -> Serve:
    """Give a function that serves a system's file, or a changed `text` of it, with these variables."""

    def start(name: str, text: str | None = None, *, args: tuple[str, ...] = (), **variables: str) -> Daemon:
        return daemon(file_of(name) if text is None else text, args=("--open", *args), env=variables)

    return start
