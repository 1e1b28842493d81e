"""Texts with a unit to numbers: `1h30m` to seconds, `8MiB` to bytes. The forms are those of the schema."""

from __future__ import annotations

import re

_DURATION = re.compile(
    r"(?:([0-9]+(?:\.[0-9]+)?)d)?(?:([0-9]+(?:\.[0-9]+)?)h)?(?:([0-9]+(?:\.[0-9]+)?)m)?"
    r"(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+(?:\.[0-9]+)?)ms)?"
)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMG]i?)?B")
_FACTORS = {None: 1, "K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}


def duration_s(text: str) -> float | None:
    """Return the length in seconds, or None if `text` is no duration."""
    found = _DURATION.fullmatch(text)
    if found is None or not text:
        return None
    *whole, thousandths = found.groups()
    length = sum(float(value) * unit for value, unit in zip(whole, _SECONDS, strict=True) if value)
    return length + float(thousandths) / 1000 if thousandths else length


def size_bytes(text: str) -> int | None:
    """Return the number of bytes, or None if `text` is no size."""
    found = _SIZE.fullmatch(text)
    return int(float(found.group(1)) * _FACTORS[found.group(2)]) if found else None


def duration_text(seconds: float) -> str:
    """Write a duration in the largest unit in which it is whole: the inverse of `duration_s`."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:.0f}{unit}"
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:g}ms"
