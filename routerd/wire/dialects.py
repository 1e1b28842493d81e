"""Which dialect a provider speaks: the one table of names and makers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from routerd.graph import Provider
from routerd.wire.dialect import Dialect
from routerd.wire.openai.dialect import OpenAIDialect

__all__ = ["make_dialect"]


def _anthropic(_: Provider) -> Dialect:
    from routerd.wire.anthropic import AnthropicDialect

    return AnthropicDialect()


def _gemini(_: Provider) -> Dialect:
    from routerd.wire.gemini import GeminiDialect

    return GeminiDialect()


def _ollama(_: Provider) -> Dialect:
    from routerd.wire.ollama import OllamaDialect

    return OllamaDialect()


def _cohere(_: Provider) -> Dialect:
    from routerd.wire.cohere import CohereDialect

    return CohereDialect()


def _template(provider: Provider) -> Dialect:
    from routerd.wire.template import TemplateDialect

    return TemplateDialect(provider)


# What translates is imported by the first provider that speaks it: most workers need none of it.
_MAKERS: Mapping[str, Callable[[Provider], Dialect]] = {
    "openai": OpenAIDialect,
    "simulator": OpenAIDialect,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "ollama": _ollama,
    "cohere": _cohere,
    "template": _template,
}


def make_dialect(provider: Provider) -> Dialect:
    """Return the dialect of a provider, made ready once a generation. The schema admits no other names than those here."""
    return _MAKERS[provider.dialect](provider)
