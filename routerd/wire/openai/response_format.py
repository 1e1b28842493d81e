"""The two forms in which the schema of a structured answer is asked for, and the way between them.

`nested` is OpenAI's: `{type: json_schema, json_schema: {name, schema, strict}}`; `flat` is what Together's guides began with:
`{type: json_schema, schema}`. Clients may send either; routerd's own form is the nested one. Anything else stays as it is:
whoever gets it will say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["flattened", "nested"]

NAME = "answer"  # OpenAI wants a name; a flat form has none
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def flattened(value: Any) -> Any:
    """Return the nested form as `{type, schema}`."""
    outer = _fields(value)
    inner = _fields(outer.get("json_schema"))
    if "schema" not in inner:
        return value
    rest = {key: part for key, part in outer.items() if key != "json_schema"}
    return {**rest, "schema": inner["schema"]}


def nested(value: Any) -> Any:
    """Return the flat form as `{type, json_schema: {name, schema}}`."""
    outer = _fields(value)
    if "schema" not in outer or "json_schema" in outer or _word(outer.get("type")) != "json_schema":
        return value
    rest = {key: part for key, part in outer.items() if key != "schema"}
    return {**rest, "json_schema": {"name": NAME, "schema": outer["schema"]}}


def _fields(value: Any) -> Mapping[str, Any]:
    """Return the entries of an object, raw or decoded; none for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, msgspec.Raw):
        return {}
    try:
        return _decode_object(value)
    except _UNREADABLE:
        return {}


def _word(value: Any) -> Any:
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except _UNREADABLE:
        return None
