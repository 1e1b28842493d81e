"""Fixtures for every test: scripted upstreams, the real engine, real daemons; all on loopback, all cleaned up."""

from __future__ import annotations

import pathlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support.daemon import Daemon
from tests.support.llama import Engine
from tests.support.upstream import Upstream


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seconds", type=float, default=10.0, help="how long the chaos test lasts")
    parser.addoption("--chaos-seed", type=int, default=1, help="which chaos it is")
    parser.addoption("--torture", action="store_true", help="run the long forms of tests/e2e/torture: hours, not minutes")


@pytest.fixture
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test was asked for."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give a function that writes how far a long form is; the short forms say nothing."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or not request.config.getoption("--torture"):
        return lambda _: None

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"{time.strftime('%H:%M:%S')} {request.node.name}: {text}")

    return write


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Give one scripted upstream."""
    async with Upstream() as server:
        yield server


@pytest.fixture
async def upstreams() -> AsyncIterator[Callable[[], object]]:
    """Give an async function that starts one more scripted upstream at each call."""
    async with AsyncExitStack() as stack:

        async def start() -> Upstream:
            return await stack.enter_async_context(Upstream())

        yield start


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give the real llama.cpp server; one a test process, so one an xdist worker."""
    running = Engine()
    yield running
    running.stop()


@pytest.fixture
def daemon(tmp_path: pathlib.Path) -> Iterator[Callable[..., Daemon]]:
    """Give a function that starts `routerd serve` over the text of a routes.yaml and stops it after the test."""
    started: list[Daemon] = []

    def start(text: str, **options: object) -> Daemon:
        directory = tmp_path / f"d{len(started)}"
        directory.mkdir()
        running = Daemon(directory, text, **options)  # type: ignore[arg-type]
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
