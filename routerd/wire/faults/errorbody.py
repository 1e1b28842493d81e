"""The error answer of any provider, taken apart: message, code, type, the status it names, and every text worth searching.

Seen on the wire: `{"error": {...}}`, `{"error": "text"}`, `{"error": ["text"]}`, flat `{"message", "type", "code"}`,
`{"detail": ...}`, the same inside an array, plain text, HTML, nothing. The content type is not asked: DeepSeek sends JSON as
octet-stream. What an error echoes of the request or of the model's output is never searched: a prompt about "context windows" is
no error.
Never raises; work is bounded whatever the body holds.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routerd.wire.foreign import read_json

__all__ = ["ErrorBody", "read_error", "read_error_value", "safe_message"]

MAX_BODY_BYTES = 1024 * 1024  # error bodies are under 10 KB; a larger one is read as text, by its beginning
MAX_TEXT_CHARS = 8192  # of one string, for the searches
MAX_TEXTS_CHARS = 32768  # of all: a search of this much costs 15 ms, and a real error has less than 12,000
MAX_NODES = 2000
MAX_MESSAGE_CHARS = 500

_ECHOES = frozenset({"input", "failed_generation", "prompt", "messages", "request", "body", "ctx", "choices"})
_CODE_KEYS = ("code", "type", "type_", "status", "error_type", "reason", "errorCode")
_HTML = re.compile(r"<\s*(?:!doctype|html|head|body|title|h1|center)\b", re.IGNORECASE)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>)\]]+", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(?:sk|pk|gsk|xai|hf|org|key|csk|tgp|nvapi)[-_](?=[A-Za-z_-]*[0-9*])[A-Za-z0-9_*-]{8,}|"
    r"\bAIza[A-Za-z0-9_-]{20,}|\bBearer\s+\S{8,}",
    re.IGNORECASE,
)
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\s]+")


@dataclass(slots=True)
class ErrorBody:
    """What an error answer says. `words` are its codes, types and reasons in lower case; `texts` its other strings."""

    message: str
    code: str | None
    type: str | None
    status: int | None  # an HTTP status named in the body (400..599)
    words: frozenset[str]
    texts: tuple[str, ...]
    value: Any  # the decoded body, None where it is not JSON


def read_error(body: bytes) -> ErrorBody:
    """Read the body of an error answer."""
    if len(body) <= MAX_BODY_BYTES:
        try:
            return read_error_value(read_json(body))
        except ValueError:
            pass
    text = body[: 4 * MAX_TEXT_CHARS].decode("utf-8", "replace")
    texts = () if _HTML.search(text) else (text[:MAX_TEXT_CHARS],)
    return ErrorBody(safe_message(text), None, None, None, frozenset(), texts, None)


def read_error_value(value: Any) -> ErrorBody:
    """Read a decoded error answer, or the value of an `error` key alone."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = value[0]  # Gemini wraps the errors of a streaming call
    top: Mapping[str, Any] = value if isinstance(value, Mapping) else {"error": value}
    inner = top.get("error")
    if not isinstance(inner, Mapping):
        inner = _mapping(top.get("detail"))
        inner = _mapping(inner.get("error")) or inner
    levels = (inner, top)
    texts, words = _walk(top)
    return ErrorBody(
        message=safe_message(_message(inner, top)),
        code=_code(levels),
        type=_text_of(inner, top, "type", "type_", "error_type"),
        status=_status(levels),
        words=words,
        texts=texts,
        value=value,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _message(inner: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    """Return the first that is there: error.message, message, error (text or texts), detail, and what else is in use."""
    detail = top.get("detail")
    candidates = (
        inner.get("message"),
        inner.get("error"),
        top.get("message"),
        top.get("error"),
        detail,
        *((_mapping(entry).get("msg") for entry in detail[:3]) if isinstance(detail, list) else ()),
        inner.get("msg"),
        top.get("msg"),
        inner.get("reason"),
    )
    for candidate in candidates:
        if isinstance(candidate, str) and candidate.strip():
            return candidate
        if isinstance(candidate, list):
            texts = [entry for entry in candidate[:5] if isinstance(entry, str) and entry.strip()]
            if texts:
                return "; ".join(texts)
    return ""


def _code(levels: tuple[Mapping[str, Any], ...]) -> str | None:
    """Return the code as text. A number that is an HTTP status is not a code."""
    for level in levels:
        code = level.get("code")
        if isinstance(code, str) and code.strip():
            return safe_message(code)[:100] or None
        if type(code) is int and not 100 <= code <= 599 and abs(code) < 10**12:
            return str(code)
    return None


def _text_of(inner: Mapping[str, Any], top: Mapping[str, Any], *keys: str) -> str | None:
    for level in (inner, top):
        for key in keys:
            value = level.get(key)
            if isinstance(value, str) and value.strip() and value != "error":
                return safe_message(value)[:100] or None
    return None


def _status(levels: tuple[Mapping[str, Any], ...]) -> int | None:
    for level in levels:
        for key in ("code", "status_code", "http_status", "status"):
            value = level.get(key)
            if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
                value = int(value)
            if type(value) is int and 400 <= value <= 599:
                return value
    return None


def _walk(top: Mapping[str, Any]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Collect the strings and the code words of the body, the outer ones first, echoes left out."""
    texts: list[str] = []
    words: set[str] = set()
    nodes: deque[Any] = deque([top])
    seen = 0
    chars_left = MAX_TEXTS_CHARS
    while nodes and seen < MAX_NODES:
        node = nodes.popleft()
        seen += 1
        if isinstance(node, str):
            text = node[: min(MAX_TEXT_CHARS, chars_left)]
            chars_left -= len(text)
            texts.append(text)
        elif isinstance(node, list):
            nodes.extend(node[:MAX_NODES])
        elif isinstance(node, Mapping):
            words.update(v.lower() for k in _CODE_KEYS if isinstance(v := node.get(k), str) and len(v) <= 100)
            nodes.extend(value for key, value in node.items() if key not in _ECHOES)
    return tuple(texts), frozenset(words)


def safe_message(text: str) -> str:
    """Return `text` fit for a client: one line of at most 500 characters, no HTML, no URL, nothing that looks like a key."""
    head = text[: 4 * MAX_MESSAGE_CHARS]
    if _HTML.search(head):
        return ""
    head = _NOT_TEXT.sub(" ", head).strip()
    head = _SECRET.sub("[redacted]", _URL.sub("[link]", head))
    return head if len(head) <= MAX_MESSAGE_CHARS else head[: MAX_MESSAGE_CHARS - 3].rstrip() + "..."
