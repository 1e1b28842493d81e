"""Foreign JSON into typed records, the patient way: for what the strict one refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from routerd.wire.foreign import read_json
from routerd.wire.translation.pivot import dump

__all__ = ["REFUSED", "read_patiently"]

T = TypeVar("T")

REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what a strict decoder raises


def read_patiently(payload: bytes, decode: Callable[[bytes], T], failed: Callable[[Any], T]) -> T | None:
    """Decode one document that `decode` refused, or return None where it is no JSON object.

    `failed` makes the record of an error, which may stand in an array; of None, the record of an object that nobody here knows.
    """
    try:
        value = read_json(payload)
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("error"):
            value = value[0]
        if not isinstance(value, dict):
            return None
        if value.get("error"):
            return failed(value["error"])
    except (ValueError, RecursionError):
        return None
    try:
        return decode(dump(value))
    except REFUSED:
        return failed(None)
