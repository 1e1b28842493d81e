"""The dialect of Ollama's own API: `/api/chat`, JSON lines.

`request` writes what OpenAI clients ask for, `answer` reads whole answers and what they share with streams, `stream` reads those,
`embed` is for embeddings, `dialect` ties them
together.
"""

from routerd.wire.ollama.dialect import OllamaDialect

__all__ = ["OllamaDialect"]
