"""The dialect of Cohere's own API: `v2/chat`, `v2/embed` and `v2/rerank`, below an endpoint's URL without `/v2`.

`request` writes what OpenAI clients ask for, `answer` reads whole answers and what they share with streams, `stream` reads those,
`embed` is for embeddings, `dialect` ties them together.
"""

from routerd.wire.cohere.dialect import CohereDialect

__all__ = ["CohereDialect"]
