"""A body with a large image, and what it costs the worker in memory: passed on as it came, and translated."""

from __future__ import annotations

import pathlib
import re
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import answers
from tests.support.daemon import Daemon
from tests.support.http import CHAT, fetch
from tests.support.upstream import Upstream

Start = Callable[..., Daemon]

CERTIFICATE = pathlib.Path(__file__).parents[1] / "support" / "tls" / "untrusted.pem"
MB = 1024 * 1024
SIZE_MB = 20
PICTURE = b"iVBORw0KGgo" + b"QUJDREVG" * (SIZE_MB * MB // 8 - 2) + b"A="  # base64, 20 MB

WHOLE: dict[str, Any] = {
    "openai": answers.completion(),
    "anthropic": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 3, "output_tokens": 2},
    },
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
    },
    "ollama": {"model": "l", "message": {"role": "assistant", "content": "hello"}, "done": True, "done_reason": "stop"},
}  # fmt: skip


def peak_mb(pid: int) -> float:
    """The largest resident size that a process ever had."""
    found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


SMALL = (
    b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":'
    b'[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}'
)
SMALL_MESSAGE = (
    b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":'
    b'[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}'
)


async def growth(running: Daemon, path: str, small: bytes) -> float:
    """How much the worker's peak grew by one request with a large image, in multiples of the image."""
    [worker] = [one["pid"] for one in (await running.status())["workers"]]
    assert (await fetch(running, path, small)).status == 200  # what is loaded with the first request is no cost of the body
    before_mb = peak_mb(worker)
    answer = await fetch(running, path, small.replace(b"AAAA", PICTURE))
    assert answer.status == 200, answer.body[:300]
    return (peak_mb(worker) - before_mb) / SIZE_MB


def routes(upstream: Upstream, dialect: str, more: str = "") -> str:
    base = upstream.url if dialect == "openai" else upstream.url.removesuffix("/v1")
    return f'version: 1\nproviders: {{up: {{dialect: {dialect}, base_url: "{base}"}}}}\nmodels:\n  m: {{chain: [up/x]{more}}}\n'


@pytest.mark.parametrize("more", ["", ', system_prompt: {text: "Be kind.", mode: prepend}'])
@pytest.mark.parametrize("dialect", WHOLE)
async def test_an_image_costs_at_most_two_and_a_half_times_its_size(
    daemon: Start, upstream: Upstream, dialect: str, more: str
) -> None:
    upstream.always(answers.reply(WHOLE[dialect]))
    grown = await growth(daemon(routes(upstream, dialect, more)), CHAT, SMALL)
    assert PICTURE in upstream.requests[-1].body
    assert grown <= 2.5


async def test_encryption_holds_no_copy_of_it(daemon: Start) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(CERTIFICATE)
    async with Upstream(tls=tls) as upstream:
        upstream.always(answers.reply(WHOLE["openai"]))
        running = daemon(routes(upstream, "openai"), env={"SSL_CERT_FILE": str(CERTIFICATE)})
        assert await growth(running, CHAT, SMALL) <= 2.5
        assert PICTURE in upstream.requests[-1].body


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_so_does_an_image_in_a_message_of_anthropics_api(daemon: Start, upstream: Upstream, dialect: str) -> None:
    upstream.always(answers.reply(WHOLE[dialect]))
    grown = await growth(daemon(routes(upstream, dialect)), "/v1/messages", SMALL_MESSAGE)
    assert PICTURE in upstream.requests[-1].body
    assert grown <= 2.5
