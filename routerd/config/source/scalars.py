"""What an unquoted word of YAML is: the core schema of YAML 1.2, not the surprises of 1.1.

`no`, `yes`, `on` are text, `1e3` is a number, `0o17` is fifteen, `2024-01-01` and `12:30` are text. Only finite numbers, and
integers of 64 bits: what comes out must survive JSON.
"""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_MAY_BE_NUMBER = frozenset("0123456789+-.")
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class BadNumber(ValueError):
    """A number that JSON or a 64-bit integer cannot hold."""


def resolve(text: str) -> Scalar:
    """Return the value of a plain scalar; raise BadNumber."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _MAY_BE_NUMBER:
        return text
    if _DECIMAL.fullmatch(text):
        return _integer(text, 10)
    if _OCTAL.fullmatch(text):
        return _integer(text[2:], 8)
    if _HEX.fullmatch(text):
        return _integer(text[2:], 16)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise BadNumber("the number is too large")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise BadNumber("only finite numbers can be used")
    return text


def _integer(digits: str, base: int) -> int:
    # 64 bits have at most 64 digits in any base; more are leading zeros or too many (and int() is quadratic in them).
    if len(digits) > 65:
        raise BadNumber("the number is too large")
    value = int(digits, base)
    if not INT_MIN <= value <= INT_MAX:
        raise BadNumber("the number is too large")
    return value
