"""Which dialect a provider speaks: the one table of names and makers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from routerd.graph import Provider
from routerd.wire.dialect import Dialect
from routerd.wire.openai_dialect import OpenAIDialect

__all__ = ["make_dialect"]


_MAKERS: Mapping[str, Callable[[Provider], Dialect]] = {
    "openai": OpenAIDialect,
    "simulator": OpenAIDialect,
}


def make_dialect(provider: Provider) -> Dialect:
    """Return the dialect of a provider, made ready once a generation. The schema admits no other names than those here."""
    return _MAKERS[provider.dialect](provider)
