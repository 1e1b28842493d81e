"""`GET /v1/models` and `GET /v1/models/{id}`: what this client may ask for.

A list is encoded once for all clients that may use the same models, until a reload or news of a provider's models: with 20,000
of them it takes some 20 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec
from aiohttp import web

from routerd.errors import ModelNotFound
from routerd.graph import Client
from routerd.plan import found_names, offered_names
from routerd.policy import allowed
from routerd.server.generation import Generation
from routerd.server.http.intake import key_of
from routerd.server.http.protocol import Reply
from routerd.server.http.render import JSON_FIELD

MAX_LISTS = 16  # of a generation; more different permissions than that are encoded again

__all__ = ["list_models", "one_model"]


def list_models(
    generation: Generation,
    request: web.BaseRequest,
    fields: str,
    found: Mapping[str, str | None],
    created_unix_s: int,
) -> web.StreamResponse:
    """List every plain name and alias that the client may use, and what was `found` at providers. Patterns are no names."""
    client = generation.clients.authenticate(key_of(request))
    key = client.models if client is not None else ()
    known = generation.lists.get(key)
    if known is None or known[0] is not found:
        if len(generation.lists) >= MAX_LISTS:
            generation.lists.clear()
        data = list(_offered(generation, client, found, created_unix_s))
        known = generation.lists[key] = (found, msgspec.json.encode({"object": "list", "data": data}))
    return cast(web.StreamResponse, Reply(200, fields + JSON_FIELD, known[1]))


def _offered(
    generation: Generation, client: Client | None, found: Mapping[str, str | None], created_unix_s: int
) -> Iterator[dict[str, Any]]:
    names = offered_names(generation.graph)
    for name in names:
        if _visible(generation, client, name):
            yield _model(name, created_unix_s)
    told = set(names)
    for name, route in found_names(generation.graph, found, generation.resolver.pattern_of):
        if name not in told and allowed(client, name, route):
            told.add(name)
            yield {**_model(name, created_unix_s), "owned_by": name.partition("/")[0]}


def one_model(
    generation: Generation, request: web.BaseRequest, fields: str, name: str, created_unix_s: int
) -> web.StreamResponse:
    """Describe one model by any name it can be asked for by. Raises ModelNotFound, also where the client may not use it."""
    client = generation.clients.authenticate(key_of(request))
    resolved = generation.resolver.resolve(name, lambda other: _visible(generation, client, other))
    if not allowed(client, name, resolved.route.name):
        raise ModelNotFound(f"The model '{name[:80]}' does not exist.", param="model")
    return cast(web.StreamResponse, Reply(200, fields + JSON_FIELD, msgspec.json.encode(_model(name, created_unix_s))))


def _visible(generation: Generation, client: Client | None, name: str) -> bool:
    return allowed(client, name, generation.graph.aliases.get(name, name))


def _model(name: str, created_unix_s: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_unix_s, "owned_by": "routerd"}
