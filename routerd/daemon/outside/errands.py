"""All that control gets from providers for the workers, as one thing that follows the configuration that serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from routerd.daemon.channel import WantToken
from routerd.daemon.outside.session import Outside
from routerd.daemon.outside.tokens import TokenKeeper
from routerd.graph import Provider

__all__ = ["Errands"]


class Workers(Protocol):
    """The crew, as news are brought to it."""

    wanted: Callable[[WantToken], None]

    def tell(self, what: Any, subject: Any = None) -> None:
        """Send news to every worker; those of a `subject` to workers that start later, too."""

    def untell(self, subject: Any) -> None:
        """Keep the news of a subject no longer."""


class Errands:
    """Tokens, and the client that gets them."""

    def __init__(self, workers: Workers) -> None:
        self._outside = Outside()
        self.tokens = TokenKeeper(self._outside, workers.tell, workers.untell)
        workers.wanted = lambda message: self.tokens.want(message.source, message.refused)

    def follow(self, providers: Mapping[str, Provider]) -> None:
        """Get what these providers need, and nothing for others any more."""
        used = [provider for provider in providers.values() if not provider.disabled]
        self.tokens.follow(provider.auth.oauth for provider in used if provider.auth.oauth is not None)

    async def close(self) -> None:
        """Stop."""
        await self.tokens.close()
        await self._outside.close()
