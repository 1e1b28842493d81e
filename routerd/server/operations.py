"""What the data plane can be asked, by path: the one table of model operations.

Each operation has the word of `ModelRequest.operation`, the endpoint below /v1 that an OpenAI-style upstream is asked at, and how
its client wants to be answered (None: in OpenAI's words).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from routerd.wire.client import ClientDialect, ResponsesClient

__all__ = ["OPERATIONS", "Operation", "operation_at"]


class Operation(NamedTuple):
    """One thing that can be asked of a model."""

    name: str
    path: str
    client_dialect: ClientDialect | None = None


_RESPONSES = ResponsesClient()

_BELOW_V1 = (
    Operation("chat", "chat/completions"),
    Operation("completion", "completions"),
    Operation("embedding", "embeddings"),
    Operation("response", "responses", _RESPONSES),
    Operation("image", "images/generations", _RESPONSES),
    Operation("moderation", "moderations"),
    Operation("rerank", "rerank"),
    Operation("tokenize", "tokenize"),
)

_BY_ENDPOINT: Mapping[str, Operation] = {operation.path: operation for operation in _BELOW_V1}

# The root form of tokenize is vLLM's own; all of /v1 is also under /api/v1.
OPERATIONS: Mapping[str, Operation] = (
    {f"/v1/{operation.path}": operation for operation in _BELOW_V1}
    | {f"/api/v1/{operation.path}": operation for operation in _BELOW_V1}
    | {"/tokenize": _BY_ENDPOINT["tokenize"]}
)


def operation_at(endpoint: str) -> Operation | None:
    """Return the operation of an endpoint below /v1, with or without its `v1/`."""
    return _BY_ENDPOINT.get(endpoint.removeprefix("v1/"))
