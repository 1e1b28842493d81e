"""`GET /v1/models` and `GET /v1/models/{id}`: what this client may ask for."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from aiohttp import web

from routerd.errors import ModelNotFound
from routerd.graph import Client
from routerd.plan import offered_names
from routerd.policy import allowed
from routerd.server.generation import Generation
from routerd.server.intake import key_of
from routerd.server.protocol import Reply
from routerd.server.render import JSON_FIELD

__all__ = ["list_models", "one_model"]


def list_models(generation: Generation, request: web.BaseRequest, fields: str, created_unix_s: int) -> web.StreamResponse:
    """List every plain name and alias that the client may use. Patterns are not listed: they are no names."""
    client = generation.clients.authenticate(key_of(request))
    data = [
        _model(name, created_unix_s)
        for name in offered_names(generation.graph)
        if _visible(generation, client, name)
    ]
    return cast(web.StreamResponse, Reply(200, fields + JSON_FIELD, msgspec.json.encode({"object": "list", "data": data})))


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
