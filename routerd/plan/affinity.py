"""What requests of one conversation have in common, as 64 bits: the key of `balance: prefix_hash`.

In order: the header x-session-id, the body's `user`, the beginning of the conversation up to the end of its first user message
(the same in every turn, and what an engine's prefix cache is keyed by), else the beginning of `prompt` or `input`. Raw bytes are
hashed; a conversation is looked at up to that message only, and never beyond 64 KiB.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["PREFIX_BYTES", "SESSION", "affinity_key"]

SESSION = "x-session-id"  # the header of the client that says what belongs together

PREFIX_BYTES = 65536
TEXT_BYTES = 1024  # of a bare prompt: it grows with the conversation, and nothing says where its first part ends
MARKS = 2000  # brackets and strings looked at: a hostile body costs 1 ms at most

_MARK = re.compile(rb'["{}\[\]]')
_BACKSLASH = 0x5C
_USER = re.compile(rb'"role"\s*:\s*"user"')


def affinity_key(session: str | None, body: Mapping[str, Any]) -> int:
    """Return the key, or 0 where nothing tells requests apart. `body` is as the client sent it, values as raw JSON."""
    if session:
        return _digest(b"session", session.encode("utf-8", "surrogateescape"))
    user = _raw(body.get("user"))
    if user not in (b"", b"null", b'""'):
        return _digest(b"user", user)
    messages = _raw(body.get("messages"))
    if messages:
        return _digest(b"messages", _first_turn(messages))
    text = _raw(body.get("prompt")) or _raw(body.get("input"))
    return _digest(b"text", text[:TEXT_BYTES]) if text else 0


def _raw(value: Any) -> bytes:
    """Return the beginning of a raw JSON value; nothing for a value that is none."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")[:PREFIX_BYTES]
    try:
        return bytes(memoryview(value)[:PREFIX_BYTES])
    except TypeError:
        return b""


def _first_turn(messages: bytes) -> bytes:
    """Return `messages` up to the end of the first message of the user; all of it where there is none within reach."""
    depth = begun = at = 0
    for _ in range(MARKS):
        found = _MARK.search(messages, at)
        if found is None:
            break
        at, mark = found.end(), found[0]
        if mark == b'"':
            at = _string_end(messages, at)
        elif mark in b"{[":
            depth += 1
            if depth == 2:
                begun = at
        else:
            depth -= 1
            if depth == 1 and _USER.search(messages, begun, at):
                return messages[:at]
    return messages


def _string_end(text: bytes, at: int) -> int:
    """Return where the JSON string that goes on at `at` has ended; the end of the text if it does not."""
    begun = at
    while True:
        quote = text.find(b'"', at)
        if quote < 0:
            return len(text)
        before = quote
        while before > begun and text[before - 1] == _BACKSLASH:
            before -= 1
        at = quote + 1
        if (quote - before) % 2 == 0:
            return at


def _digest(kind: bytes, text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=kind).digest(), "little") or 1
