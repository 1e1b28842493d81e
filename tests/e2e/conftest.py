"""End to end: a real daemon process, and in front of it the real OpenAI SDK or a raw socket; behind it an engine or a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import openai
import pytest

from tests.support.daemon import Daemon


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
async def sdk() -> AsyncIterator[Callable[..., openai.AsyncOpenAI]]:
    """Give a function that makes an OpenAI client of a daemon; it never retries, so that a test sees each answer."""
    async with AsyncExitStack() as stack:

        def make(daemon: Daemon, key: str = "sk-any", *, base: str = "/v1") -> openai.AsyncOpenAI:
            client = openai.AsyncOpenAI(base_url=daemon.url + base, api_key=key, max_retries=0, timeout=30)
            stack.push_async_callback(client.close)
            return client

        yield make
