"""Foreign JSON into typed records: the strict way first, the patient one where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from routerd.wire.foreign import read_json
from routerd.wire.translation.pivot import dump

__all__ = ["read_document"]

T = TypeVar("T")


def read_document(payload: bytes, decode: Callable[[bytes], T], failed: Callable[[Any], T]) -> T | None:
    """Decode one document, or None where it is no answer. `failed` makes the record of an error, which may stand in an array."""
    try:
        return decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        value = read_json(payload)
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("error"):
            value = value[0]
        if isinstance(value, dict) and value.get("error"):
            return failed(value["error"])
        return decode(dump(value))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
