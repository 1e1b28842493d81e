"""When an upstream wants us back: seven formats of reset times, one order of sources.

The first source that gives more than zero wins (Azure was seen to send `retry-after: 1` beside `retry-after-ms: 0`):
 1. retry-after-ms   2. retry-after as seconds   3. retry-after as an HTTP date   4. Google's RetryInfo.retryDelay
 5. the body's text: "try again in 6.78s", "retry after 26 seconds"   6. the reset of a dimension whose `remaining` is 0
 7. what the body repeats: OpenRouter's metadata.headers and availability.retry_after, HuggingFace's estimated_time
Only error answers are asked: retry-after stands on successful ones as well (52 of 813 recorded at Anthropic).
`used_up_s` is the exception: a good answer that leaves no requests or tokens says until when. Other dimensions (images, money)
and headers without a reset (xAI, Mistral), say nothing that could be obeyed.
`RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers: since version 8 `"name";r=0;t=30`, in 7
`remaining=0, reset=30`; where a quota has no `t`, its policy's window `w` is the longest it can last. HuggingFace has version 9.
Foreign values: what does not parse is None, never an exception.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from routerd.wire.faults.errorbody import ErrorBody, read_error

__all__ = ["Headers", "header_map", "reset_seconds", "retry_after_of", "retry_after_s", "used_up_s"]

Headers = Iterable[tuple[bytes, bytes]]

_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = r"(?:\d+(?:\.\d*)?|\.\d+)(?:ms|us|µs|ns|d|h|m|s)"
_DURATION = re.compile(f"(?:{_PART})+", re.ASCII)
_NUMBER_UNIT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_SPOKEN = re.compile(
    r"\b(?:try again|retry|wait)(?: in| after| for)? (?:about )?"
    rf"(?:((?:{_PART})+)(?![a-z0-9])|(\d+(?:\.\d+)?) ?(milliseconds?|seconds?|secs?|minutes?|mins?|hours?)\b)",
    re.IGNORECASE | re.ASCII,
)
_WORD_S = {"mil": 1e-3, "sec": 1.0, "min": 60.0, "hou": 3600.0}
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[^,;"]+|[,;]')
_MAX_FIELD_CHARS = 1000
_LIMITED = re.compile(rb"(?:rate|token)limit.*remaining", re.IGNORECASE)  # Together has x-tokenlimit-*, too
# Remaining of anything but requests and tokens (x-ratelimit-remaining-input-images). A bare `remaining` counts requests.
_UNLIMITED = re.compile(r"(?:rate|token)limit(?=.*remaining)(?!.*(?:req|tok))(?!-remaining$)")
_MAX_VALUE_CHARS = 100


def retry_after_s(status: int, headers: Headers, body: bytes, now_unix_s: float) -> float | None:
    """Return how long to wait, in seconds, or None where the answer does not say or is no error."""
    if status < 400:
        return None
    return retry_after_of(header_map(headers), read_error(body), now_unix_s)


def used_up_s(headers: Headers, now_unix_s: float) -> float:
    """Return how long a good answer's rate limit stays used up, 0.0 when it does not say so. Cheap where nothing is."""
    for name, value in headers:
        if (value == b"0" and _LIMITED.search(name)) or (len(name) == 9 and name.lower() == b"ratelimit"):
            break
    else:
        return 0.0
    named = {name: value for name, value in header_map(headers).items() if not _UNLIMITED.search(name)}
    wait_s = _exhausted_reset(named, now_unix_s)
    return wait_s if wait_s is not None and wait_s > 0 and math.isfinite(wait_s) else 0.0


def header_map(headers: Headers) -> dict[str, str]:
    """Return the headers as text, names in lower case; of a repeated name the first counts."""
    out: dict[str, str] = {}
    for name, value in headers:
        out.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())
    return out


def retry_after_of(headers: Mapping[str, str], error: ErrorBody, now_unix_s: float) -> float | None:
    """As `retry_after_s`, for an error answer that is taken apart already."""
    after = headers.get("retry-after", "")
    milliseconds = _number(headers.get("retry-after-ms"))
    for wait_s in (
        None if milliseconds is None else milliseconds / 1000.0,
        reset_seconds(after, now_unix_s),  # seconds, and also dates and "30s"
        _google_delay(error.value, now_unix_s),
        _spoken(error.texts),
        _exhausted_reset(headers, now_unix_s),
        _from_body(error.value, now_unix_s),
    ):
        if wait_s is not None and wait_s > 0 and math.isfinite(wait_s):
            return wait_s
    return None


def reset_seconds(value: str, now_unix_s: float) -> float | None:
    """Return the seconds from now until the moment, or of the length, that `value` names; None where it names none.

    A bare number is unix milliseconds above 1e12, unix seconds above 1e9, else seconds. Then Go durations (6m0s, 120ms,
    17.399999999s), RFC 3339, HTTP dates.
    """
    value = value.strip()
    if not value or len(value) > _MAX_VALUE_CHARS:
        return None
    number = _number(value)
    if number is not None:
        if number > 1e12:
            return number / 1000.0 - now_unix_s
        return number - now_unix_s if number > 1e9 else number
    if _DURATION.fullmatch(value):
        return _duration_s(value)
    return _moment(value, now_unix_s)


def _moment(value: str, now_unix_s: float) -> float | None:
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    if moment.tzinfo is None:  # without a zone it is UTC, not the zone of this machine
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.timestamp() - now_unix_s
    except (ValueError, OverflowError):
        return None


def _duration_s(text: str) -> float:
    return sum(float(number) * _UNIT_S[unit] for number, unit in _NUMBER_UNIT.findall(text))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _google_delay(value: Any, now_unix_s: float) -> float | None:
    details = _at(value, "error", "details")
    for entry in details[:20] if isinstance(details, list) else ():
        delay = _at(entry, "retryDelay")
        if isinstance(delay, str):
            return reset_seconds(delay, now_unix_s)
    return None


def _spoken(texts: Iterable[str]) -> float | None:
    for text in texts:
        match = _SPOKEN.search(text)
        if match is None:
            continue
        if match[1]:
            return _duration_s(match[1].lower())
        return float(match[2]) * _WORD_S[match[3][:3].lower()]
    return None


def _exhausted_reset(headers: Mapping[str, str], now_unix_s: float) -> float | None:
    """Return the longest reset among the dimensions with nothing remaining."""
    waits_s = [
        reset_seconds(headers.get(name.replace("remaining", "reset"), ""), now_unix_s)
        for name, value in headers.items()
        if "remaining" in name and "limit" in name and _number(value) == 0
    ]
    if "ratelimit" in headers:
        waits_s += _used_up_quotas(headers["ratelimit"], headers.get("ratelimit-policy", ""))
    return max((wait_s for wait_s in waits_s if wait_s is not None), default=None)


def _used_up_quotas(limits: str, policies: str) -> list[float | None]:
    """Return the waits of the quotas of a RateLimit field that have nothing remaining."""
    known = _items(policies)
    waits_s = []
    for names, params in _items(limits):
        if _number(params.get("r", params.get("remaining"))) == 0:
            wait_s = _number(params.get("t", params.get("reset")))
            if wait_s is None:
                theirs = known if len(known) == 1 else [one for one in known if names & one[0]]
                wait_s = next((_number(params.get("w")) for _, params in theirs), None)
            waits_s.append(wait_s)
    return waits_s


def _items(field: str) -> list[tuple[set[str], dict[str, str]]]:
    """Take a list of items with parameters apart (RFC 9651), leniently; what has no name is one item, as in version 7."""
    items: list[tuple[set[str], dict[str, str]]] = [(set(), {})]
    for piece in _PIECE.findall(field[:_MAX_FIELD_CHARS]):
        key, equals, value = piece.strip().partition("=")
        if piece == ",":
            if items[-1][0]:
                items.append((set(), {}))
        elif equals and not piece.startswith('"'):
            items[-1][1].setdefault(key.strip(), value.strip())
        elif piece != ";" and key:
            items[-1][0].add(key.strip('"'))
    return items


def _from_body(value: Any, now_unix_s: float) -> float | None:
    """Return what the body repeats of headers, or says of its own."""
    error = _at(value, "error")
    fields = _at(error, "metadata", "headers")
    if isinstance(fields, Mapping):
        named = {str(k).lower(): str(v) for k, v in fields.items()}
        for name in ("retry-after", "x-ratelimit-reset"):
            wait_s = reset_seconds(named.get(name, ""), now_unix_s)
            if wait_s is not None and wait_s > 0:
                return wait_s
    for found in (
        _at(error, "availability", "retry_after"),
        _at(error, "metadata", "retry_after"),
        _at(error, "retry_after"),
        _at(value, "retry_after"),
        _at(value, "estimated_time"),
    ):
        number = _number(found)
        if number is not None and number > 0:
            return number
    return None


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
