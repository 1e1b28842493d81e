"""JSON pointers (RFC 6901): parsed once, followed in every event."""

from __future__ import annotations

from typing import Any

__all__ = ["find", "parse_pointer"]


def parse_pointer(text: str | None) -> tuple[str, ...] | None:
    """Return the steps of a pointer; None for none. The configuration has checked that it is one."""
    if text is None:
        return None
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:])


def find(value: Any, steps: tuple[str, ...] | None) -> Any:
    """Return what the pointer leads to, or None."""
    if steps is None:
        return None
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
