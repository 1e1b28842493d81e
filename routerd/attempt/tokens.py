"""The access tokens that a worker knows. Control gets and renews them for all workers; here they are looked up and waited for.

One question at a time goes to control for each source, however many requests wait; its answer, or news that it sends by itself
(a renewal), is for all of them. Moments are those of the monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from routerd.errors import Delivery, ErrorKind, UpstreamError
from routerd.graph import ClientCredentials

__all__ = ["AskToken", "TokenNews", "Tokens", "no_tokens"]

AskToken = Callable[[ClientCredentials, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenNews:
    """A token of `source` and when it expires (monotonic), or why there is none."""

    source: ClientCredentials
    value: str = field(default="", repr=False)
    until_s: float = 0.0
    kind: ErrorKind = ErrorKind.CONNECT
    message: str = ""


def no_tokens(_source: ClientCredentials, _refused: str) -> None:
    """Ask nobody: for a data plane without control, where no provider needs a token."""
    raise UpstreamError(ErrorKind.AUTH, "there is nobody to get an access token from", delivery=Delivery.NOT_SENT)


class Tokens:
    """One a worker; it outlives generations. `ask(source, refused)` has control bring news."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: AskToken) -> None:
        self._loop = loop
        self._ask = ask
        self._held: dict[ClientCredentials, TokenNews] = {}
        self._waiting: dict[ClientCredentials, asyncio.Future[TokenNews]] = {}

    async def get(self, source: ClientCredentials, refused: str, within_s: float) -> str:
        """Return a token other than `refused`. Raises UpstreamError: there is none, or none came `within_s`."""
        held = self._held.get(source)
        if held is not None and held.until_s > self._loop.time() and held.value != refused:
            return held.value
        waiting = self._waiting.get(source)
        if waiting is None:
            waiting = self._waiting[source] = self._loop.create_future()
            self._ask(source, refused)
        try:
            async with asyncio.timeout(max(0.001, within_s)):
                news = await asyncio.shield(waiting)
        except TimeoutError:
            message = f"no access token came within {within_s:.3g} s"
            raise UpstreamError(ErrorKind.TIMEOUT, message, delivery=Delivery.NOT_SENT) from None
        if not news.value:
            raise UpstreamError(news.kind, news.message, delivery=Delivery.NOT_SENT)
        return news.value

    def take(self, news: TokenNews) -> None:
        """Keep a token, and let those go on who wait. A failure leaves a token that still holds where it is."""
        if news.value:
            self._held[news.source] = news
        waiting = self._waiting.pop(news.source, None)
        if waiting is not None:
            waiting.set_result(news)
