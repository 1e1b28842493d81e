"""The digest of a Graph: equal digests, equal behaviour.

Taken from the compiled graph, not from the text: comments, layout, anchors, includes, `60s` or `1m` make no difference, while a
changed prompt file, secret or variable does. The order of mappings counts only where it decides something: among routes. Secrets
go in as hashes. The text is the same in every process: sorted keys and sets, no ids, no hash().
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from routerd.graph import Graph, Pattern, Secret


def encoder() -> Callable[[Any], bytes]:
    """Return what writes a record as it counts for the digest: equal bytes, equal behaviour."""
    import msgspec

    return msgspec.json.Encoder(enc_hook=_plain, order="deterministic").encode


def digest(graph: Graph) -> str:
    """Return the digest as 64 hexadecimal digits."""
    encode = encoder()
    whole = hashlib.sha256()
    for one in dataclasses.fields(graph):
        value = getattr(graph, one.name)
        if one.name == "digest":
            continue
        if one.name == "routes":
            value = list(value.values())
        elif one.name == "patterns":
            value = [route.name for route in value]
        whole.update(one.name.encode())
        whole.update(encode(value))
    return whole.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return hashlib.sha256(value.reveal().encode()).hexdigest()
    if isinstance(value, Pattern):
        return value.text
    if isinstance(value, MappingProxyType):  # a graph that was packed for the workers and unpacked again
        return dict(value)
    raise NotImplementedError(type(value).__name__)
