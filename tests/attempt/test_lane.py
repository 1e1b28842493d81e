"""The head of a request: what a wire prepares once and sends with every attempt."""

from __future__ import annotations

import asyncio
import random

import pytest

from routerd.attempt.lane import LARGE_BYTES, MAX_HEADS, Wire
from routerd.attempt.timer import Ticker
from routerd.attempt.tokens import Tokens
from routerd.graph import Auth, Endpoint, Provider, Secret, Target
from routerd.plan import Planned
from routerd.upstream import Upstreams
from routerd.wire import Encoded


class Worker:
    """What wires need of their worker."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ticker = Ticker(self.loop)
        self.upstreams = Upstreams(self.loop)
        self.rng = random.Random(1)
        self.asked: list[str] = []
        self.tokens = Tokens(self.loop, lambda source, refused: self.asked.append(refused))


def wire(url: str, **more: object) -> Wire:
    endpoint = Endpoint(name="e", provider="p", url=url)
    provider = Provider(name="p", dialect="openai", endpoints=(endpoint,), **more)  # type: ignore[arg-type]
    return Wire(Planned(Target(provider="p", model="m"), provider, endpoint, "m", 0), Worker())


def lines(message: tuple[bytes, bytes]) -> list[str]:
    return message[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")


@pytest.mark.parametrize(
    ("url", "path", "wanted"),
    [
        ("http://h:1/v1", "chat/completions", "/v1/chat/completions"),
        ("http://h:1", "chat/completions", "/chat/completions"),
        ("http://h:1/api/v1/", "v1/messages", "/api/v1/messages"),
        ("http://h:1", "v1/messages", "/v1/messages"),
        ("http://h:1/v1beta", "models/m:streamGenerateContent?alt=sse", "/v1beta/models/m:streamGenerateContent?alt=sse"),
    ],
)
async def test_base_url_and_path_join(url: str, path: str, wanted: str) -> None:
    first = lines(wire(url).message(Encoded(path=path, body=b"{}"), False, "id"))[0]
    assert first == f"POST {wanted} HTTP/1.1"


async def test_a_query_credential_joins_the_query_of_the_path() -> None:
    auth = Auth(type="query", name="key", prefix="", secret=Secret("a b"))
    made = wire("http://h:1", auth=auth)
    assert lines(made.message(Encoded(path="x", body=b""), True, "id"))[0] == "POST /x?key=a%20b HTTP/1.1"
    assert lines(made.message(Encoded(path="x?alt=sse", body=b""), True, "id"))[0] == "POST /x?alt=sse&key=a%20b HTTP/1.1"


async def test_a_large_body_is_not_copied_behind_its_head() -> None:
    body = b"x" * (LARGE_BYTES + 1)
    head, rest = wire("http://h:1").message(Encoded(path="x", body=body), False, "id")
    assert rest is body
    assert head.endswith(b"content-length: %d\r\n\r\n" % len(body))
    whole, none = wire("http://h:1").message(Encoded(path="x", body=b"{}"), False, "id")
    assert (whole.endswith(b"\r\n\r\n{}"), none) == (True, b"")


async def test_prepared_heads_are_bounded() -> None:
    made = wire("http://h:1")
    for number in range(MAX_HEADS + 5):
        made.message(Encoded(path=f"models/{number}:generateContent", body=b""), False, "id")
    assert len(made._heads) <= MAX_HEADS
