"""Access tokens, got once for all workers and renewed before they expire.

1. One question at a time for each source; who asks meanwhile gets its answer.
2. A token is renewed a tenth of its lifetime before it expires, 60 s at most; while that fails, the old one is used to its end.
3. A failure answers for a second whoever asks next: a token endpoint that is down is not stormed.
4. A worker whose token was refused gets another one.
5. What a configuration uses no longer is forgotten, what it still uses is kept: a reload costs no token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from routerd.attempt import TokenNews
from routerd.daemon.outside.session import Outside, OutsideFault
from routerd.daemon.tasks import Tasks
from routerd.errors import ErrorKind
from routerd.graph import ClientCredentials
from routerd.wire.listing.oauth import TokenRefused, read_token, token_request

__all__ = ["TokenKeeper"]

log = logging.getLogger("routerd.tokens")

EARLY_S = 60.0
EARLY_RATIO = 0.1
TIMEOUT_S = 10.0
ANSWER_BYTES = 64 * 1024
FAILURE_HOLDS_S = 1.0
AGAIN_S = 5.0  # after a renewal that failed


class _Kept:
    """What is known of one source."""

    def __init__(self, source: ClientCredentials) -> None:
        self.source = source
        self.news: TokenNews | None = None  # the last token
        self.failed: TokenNews | None = None
        self.failed_at_s = 0.0
        self.fetch: asyncio.Task[None] | None = None
        self.renewal: asyncio.TimerHandle | None = None


class TokenKeeper:
    """`tell(news, subject)` brings news to all workers, those that start later included; `untell(subject)` ends that."""

    def __init__(self, outside: Outside, tell: Callable[[Any, Any], None], untell: Callable[[Any], None]) -> None:
        self._outside = outside
        self._tell = tell
        self._untell = untell
        self._kept: dict[ClientCredentials, _Kept] = {}
        self._followed: frozenset[ClientCredentials] = frozenset()
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    def follow(self, sources: Iterable[ClientCredentials]) -> None:
        """Have tokens of these sources at hand, and of no others."""
        self._followed = frozenset(sources)
        for source in [source for source in self._kept if source not in self._followed]:
            gone = self._kept.pop(source)
            if gone.renewal is not None:
                gone.renewal.cancel()
            self._untell(source)
        for source in self._followed:
            if source not in self._kept:
                self._fetch(self._of(source))

    def want(self, source: ClientCredentials, refused: str) -> None:
        """Bring news of a token other than `refused`: at once if there is one, else when it was got."""
        kept, now_s = self._of(source), self._loop.time()
        if kept.fetch is not None:
            return
        if kept.news is not None and kept.news.until_s > now_s and kept.news.value != refused:
            self._tell(kept.news, source)
        elif kept.failed is not None and now_s - kept.failed_at_s < FAILURE_HOLDS_S:
            self._tell(kept.failed, None)
        else:
            self._fetch(kept)

    async def get(self, source: ClientCredentials) -> str:
        """Return a token for a call of control itself. Raises OutsideFault."""
        kept = self._of(source)
        if kept.news is None or kept.news.until_s <= self._loop.time():
            self._fetch(kept)
            assert kept.fetch is not None
            await asyncio.shield(kept.fetch)
        if kept.news is None or kept.news.until_s <= self._loop.time():
            raise OutsideFault(kept.failed.message if kept.failed else "there is no access token")
        return kept.news.value

    async def close(self) -> None:
        """Stop."""
        for kept in self._kept.values():
            if kept.renewal is not None:
                kept.renewal.cancel()
        await self._tasks.cancel()

    def _of(self, source: ClientCredentials) -> _Kept:
        found = self._kept.get(source)
        if found is None:
            found = self._kept[source] = _Kept(source)
        return found

    def _fetch(self, kept: _Kept) -> None:
        if kept.fetch is None:
            kept.fetch = self._tasks.start(self._get(kept), "token")

    async def _get(self, kept: _Kept) -> None:
        source = kept.source
        try:
            headers, body = token_request(source)
            reply = await self._outside.request(
                "POST", source.token_url, headers, body, timeout_s=TIMEOUT_S, most_bytes=ANSWER_BYTES
            )
            granted = read_token(reply.status, reply.body)
        except TokenRefused as exc:
            self._failed(kept, ErrorKind.AUTH if exc.final else ErrorKind.CONNECT, exc.message)
        except OutsideFault as exc:
            self._failed(kept, ErrorKind.CONNECT, f"the token endpoint could not be asked: {exc}")
        else:
            if kept.failed is not None:
                log.info("there is an access token again for client %s at %s", source.client_id, _host(source))
            kept.failed = None
            kept.news = TokenNews(source=source, value=granted.value, until_s=self._loop.time() + granted.lifetime_s)
            self._renew_in(kept, granted.lifetime_s - min(EARLY_S, EARLY_RATIO * granted.lifetime_s))
            self._tell(kept.news, source if source in self._followed else None)
        finally:
            kept.fetch = None

    def _failed(self, kept: _Kept, kind: ErrorKind, message: str) -> None:
        if kept.failed is None or kept.failed.message != message:
            log.warning("no access token for client %s at %s: %s", kept.source.client_id, _host(kept.source), message)
        kept.failed = TokenNews(source=kept.source, kind=kind, message=message)
        kept.failed_at_s = self._loop.time()
        if kept.news is not None and kept.news.until_s > self._loop.time():
            self._renew_in(kept, AGAIN_S)
        self._tell(kept.failed, None)

    def _renew_in(self, kept: _Kept, wait_s: float) -> None:
        if kept.renewal is not None:
            kept.renewal.cancel()
        followed = kept.source in self._followed
        kept.renewal = self._loop.call_later(wait_s, self._fetch, kept) if followed else None


def _host(source: ClientCredentials) -> str:
    return urlsplit(source.token_url).hostname or ""
