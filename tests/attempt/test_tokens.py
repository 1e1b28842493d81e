"""Tokens as a worker sees them: one question for all who wait, no longer than they may, and nothing kept of a failure."""

from __future__ import annotations

import asyncio

import pytest

from routerd.attempt.tokens import TokenNews, Tokens, no_tokens
from routerd.errors import ErrorKind, UpstreamError
from routerd.graph import ClientCredentials, Secret

SOURCE = ClientCredentials(token_url="http://l/t", client_id="me", client_secret=Secret("s"))


class Desk:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loop = asyncio.get_running_loop()
        self.tokens = Tokens(self.loop, lambda source, refused: self.asked.append(refused))

    def bring(self, value: str, lifetime_s: float = 60.0) -> None:
        self.tokens.take(TokenNews(source=SOURCE, value=value, until_s=self.loop.time() + lifetime_s, message="it is down"))


async def test_all_who_wait_share_one_question() -> None:
    desk = Desk()
    waiting = [asyncio.ensure_future(desk.tokens.get(SOURCE, "", 5.0)) for _ in range(50)]
    await asyncio.sleep(0)
    desk.bring("one")
    assert await asyncio.gather(*waiting) == ["one"] * 50
    assert await desk.tokens.get(SOURCE, "", 5.0) == "one"
    assert desk.asked == [""]


async def test_a_token_that_expired_or_was_refused_is_asked_for_again() -> None:
    desk = Desk()
    desk.bring("one", lifetime_s=-1.0)
    first = asyncio.ensure_future(desk.tokens.get(SOURCE, "", 5.0))
    await asyncio.sleep(0)
    desk.bring("two")
    assert await first == "two"
    assert await desk.tokens.get(SOURCE, "one", 5.0) == "two"  # refused before, and replaced meanwhile
    second = asyncio.ensure_future(desk.tokens.get(SOURCE, "two", 5.0))
    await asyncio.sleep(0)
    desk.bring("three")
    assert await second == "three"
    assert desk.asked == ["", "two"]


async def test_nobody_waits_longer_than_he_may_and_one_who_leaves_takes_nothing_from_the_others() -> None:
    desk = Desk()
    left = asyncio.ensure_future(desk.tokens.get(SOURCE, "", 5.0))
    patient = asyncio.ensure_future(desk.tokens.get(SOURCE, "", 5.0))
    with pytest.raises(UpstreamError) as caught:
        await desk.tokens.get(SOURCE, "", 0.0)
    assert caught.value.kind is ErrorKind.TIMEOUT
    left.cancel()
    await asyncio.sleep(0)
    desk.bring("one")
    assert await patient == "one"


async def test_a_failure_is_for_those_who_wait_and_keeps_the_token_that_holds() -> None:
    desk = Desk()
    waiting = asyncio.ensure_future(desk.tokens.get(SOURCE, "", 5.0))
    await asyncio.sleep(0)
    desk.bring("")
    with pytest.raises(UpstreamError, match="it is down"):
        await waiting
    desk.bring("one")
    desk.bring("")
    assert await desk.tokens.get(SOURCE, "", 5.0) == "one"


async def test_without_control_there_are_no_tokens() -> None:
    with pytest.raises(UpstreamError):
        await Tokens(asyncio.get_running_loop(), no_tokens).get(SOURCE, "", 1.0)


def test_no_repr_shows_a_token() -> None:
    assert "hidden" not in repr(TokenNews(source=SOURCE, value="hidden"))
