"""All that control gets from providers for the workers, as one thing that follows the configuration that serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from routerd.daemon.outside.discovery import Discovery
from routerd.daemon.outside.session import Outside, OutsideFault
from routerd.daemon.outside.tokens import TokenKeeper
from routerd.daemon.workers.channel import WantToken
from routerd.graph import ClientCredentials, Provider
from routerd.observe import Metrics

__all__ = ["Errands"]


class Workers(Protocol):
    """The crew, as news are brought to it."""

    wanted: Callable[[WantToken], None]

    def tell(self, what: Any, subject: Any = None) -> None:
        """Send news to every worker; those of a `subject` to workers that start later, too."""

    def untell(self, subject: Any) -> None:
        """Keep the news of a subject no longer."""


class Errands:
    """Tokens, lists of models, and the client that gets them."""

    def __init__(self, workers: Workers, metrics: Metrics, state_dir: Path | None) -> None:
        self._outside = Outside()
        self.tokens = TokenKeeper(self._outside, workers.tell, workers.untell)
        self.discovery = Discovery(self._outside, self.tokens, workers.tell, workers.untell, metrics, state_dir)
        workers.wanted = lambda message: self.tokens.want(message.source, message.refused)

    def follow(self, providers: Mapping[str, Provider]) -> None:
        """Get what these providers need, and nothing for others any more."""
        used = [provider for provider in providers.values() if not provider.disabled]
        self.tokens.follow(provider.auth.oauth for provider in used if provider.auth.oauth is not None)
        self.discovery.follow(used)

    async def token(self, source: ClientCredentials) -> str:
        """Return a token for another question of control's. Raises OSError where there is none."""
        try:
            return await self.tokens.get(source)
        except OutsideFault as exc:
            raise OSError(str(exc)) from exc

    async def close(self) -> None:
        """Stop."""
        await self.discovery.close()
        await self.tokens.close()
        await self._outside.close()
