"""A thousand streams at once through one worker: every one whole, and memory that stays within its promise."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable

import pytest

from tests.bench.rig import rss_mb
from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, RawClient, ask, fetch, head_of
from tests.support.upstream import Upstream

STREAMS = 1000
BASE_MB, STREAM_KB = 60, 40


async def test_a_thousand_streams_end_well_within_60_mb_and_40_kb_each(daemon: Callable[..., Daemon], upstream: Upstream) -> None:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 4096:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, 4096), most))  # inherited by the daemon
    opened, gate = asyncio.Event(), asyncio.Event()
    opened.set()
    upstream.always(answers.stream(["first", "second"], gates=[opened, gate]))
    text = f"""
version: 1
providers: {{up: {{dialect: openai, base_url: "{upstream.url}", auth: {{type: none}}}}}}
models: {{m: {{chain: [up/x]}}}}
"""
    running = daemon(text)
    request = head_of(CHAT, json.dumps(ask(stream=True)).encode())
    clients = [RawClient(running) for _ in range(STREAMS)]
    try:
        for client in clients:
            await client.__aenter__()
            await client.send(request)
        for client in clients:
            head = await client.read_until(b'"first"', 30)
            assert head.startswith(b"HTTP/1.1 200")
        worker = (await running.status())["workers"][0]["pid"]
        assert rss_mb([worker])[0] <= BASE_MB + STREAMS * STREAM_KB / 1024
        gate.set()
        for client in clients:
            rest = await client.read_until(b"[DONE]", 30)
            assert b"second" in rest
            assert b'"error"' not in rest
    finally:
        for client in clients:
            await client.__aexit__()
    assert (await fetch(running, CHAT, ask(stream=True))).status == 200
