"""What the data plane can be asked, by path: the one table of model operations.

Each operation has the word of `ModelRequest.operation`, the endpoint below /v1 that an OpenAI-style upstream is asked at, and how
its client speaks and wants to be answered (None: in OpenAI's words). Dialects are imported by the first request that needs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from routerd.wire.client import ClientDialect, ResponsesClient

__all__ = ["OPERATIONS", "Operation", "operation_at"]


class Operation(NamedTuple):
    """One thing that can be asked of a model."""

    name: str
    path: str
    client_dialect: Callable[[], ClientDialect] | None = None


@functools.cache
def _responses() -> ClientDialect:
    return ResponsesClient()


@functools.cache
def _messages() -> ClientDialect:
    from routerd.wire.anthropic import MessagesClient

    return MessagesClient()


_BELOW_V1 = (
    Operation("chat", "chat/completions"),
    Operation("completion", "completions"),
    Operation("embedding", "embeddings"),
    Operation("response", "responses", _responses),
    Operation("image", "images/generations", _responses),
    Operation("moderation", "moderations"),
    Operation("rerank", "rerank"),
    Operation("tokenize", "tokenize"),
)
# Anthropic's Messages API, for its SDKs on any model; counting is for targets that speak it too.
_MESSAGES = (
    Operation("chat", "messages", _messages),
    Operation("count_tokens", "messages/count_tokens", _messages),
)

_BY_ENDPOINT: Mapping[str, Operation] = {operation.path: operation for operation in _BELOW_V1}
_ALL = _BELOW_V1 + _MESSAGES

# The root form of tokenize is vLLM's own; all of /v1 is also under /api/v1.
OPERATIONS: Mapping[str, Operation] = (
    {f"/v1/{operation.path}": operation for operation in _ALL}
    | {f"/api/v1/{operation.path}": operation for operation in _ALL}
    | {"/tokenize": _BY_ENDPOINT["tokenize"]}
)


def operation_at(endpoint: str) -> Operation | None:
    """Return the operation of an endpoint below /v1, with or without its `v1/`; those of routerd's own form only."""
    return _BY_ENDPOINT.get(endpoint.removeprefix("v1/"))
