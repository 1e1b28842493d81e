"""The dialect of the Gemini API (generativelanguage v1beta): `generateContent` and `streamGenerateContent?alt=sse`.

`request` writes what OpenAI clients ask for, `schema` their JSON schemas in Gemini's subset, `answer` reads whole answers and
what they share with streams, `stream` reads those, `embed` is for embeddings, `dialect` ties them together.
"""

from routerd.wire.gemini.dialect import GeminiDialect

__all__ = ["GeminiDialect"]
