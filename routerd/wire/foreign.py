"""JSON that others wrote: the fast parser first, a patient one where that refuses what the grammar allows.

msgspec refuses half a surrogate pair in an escape (RFC 8259 section 8.2 allows it, engines that cut an emoji between two tokens
send it). NaN and Infinity are no JSON to either. The only exception that leaves here is ValueError.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

import msgspec

__all__ = ["read_json"]

_decode = msgspec.json.Decoder().decode


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_json(body: bytes) -> Any:
    """Decode one JSON document, with a BOM or blank lines around it or without. Raises ValueError."""
    if body.startswith(codecs.BOM_UTF8):
        body = body[3:]
    try:
        return _decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
