"""Large base64 values set aside while a request is translated, and put back as they came.

An image of 20 MB would be held four times: as it came, decoded, cut out of its data URI, encoded again. Nothing in between reads
it, so a short mark stands for it until the request is encoded. A mark is base64 of full groups, as what it stands for, and stands
nowhere else in what it was taken out of. Only what is plain base64 between `;base64,` (or `"data": "`) and the closing quote is
set aside: no escapes, no blanks, no percent signs; the rest takes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from routerd.wire.dialect import Call, Encoded

__all__ = ["LARGE_BYTES", "Aside", "encode_apart", "set_aside"]

LARGE_BYTES = 256 * 1024  # below it the copies cost less than the search
_BASE64 = re.compile(rb'(?:;base64,|"data"\s*:\s*")([A-Za-z0-9+/]{%d,}+={0,2})"' % LARGE_BYTES)

Encode = Callable[[Mapping[str, Any], Call], Encoded]


class Aside:
    """What was set aside: `values` in the order of their marks, each of which is `stem` and a number."""

    __slots__ = ("stem", "values")

    def __init__(self, stem: bytes, values: Sequence[memoryview]) -> None:
        self.stem = stem
        self.values = values

    def put_back(self, body: bytes) -> bytes:
        """Return `body` with the values in the place of their marks."""
        view, pieces, at = memoryview(body), list[Any](), 0
        for found in re.finditer(self.stem + rb"(\d{8})", body):
            if int(found[1]) < len(self.values):  # else the client wrote it, outside of the messages
                pieces += [view[at : found.start()], self.values[int(found[1])]]
                at = found.end()
        return b"".join([*pieces, view[at:]])


def set_aside(texts: Sequence[memoryview]) -> tuple[list[bytes], Aside] | None:
    """Return JSON texts with marks for their large values; None: they have none."""
    values: list[memoryview] = []
    split: list[list[memoryview]] = []  # what remains of each text: one piece more than it has values
    for text in texts:
        rests, at = [], 0
        for found in _BASE64.finditer(text):
            rests.append(text[at : found.start(1)])
            values.append(text[found.start(1) : found.end(1)])
            at = found.end(1)
        split.append([*rests, text[at:]])
    if not values:
        return None
    stem = _free_stem([rest for rests in split for rest in rests])
    marked, number = [], 0
    for rests in split:
        pieces: list[Any] = [rests[0]]
        for rest in rests[1:]:
            pieces += [stem + b"%08d" % number, rest]
            number += 1
        marked.append(b"".join(pieces))
    return marked, Aside(stem, values)


def encode_apart(encode: Encode, body: Mapping[str, Any], call: Call) -> Encoded:
    """Encode `body` with the large values of its messages set aside, then put them back. Raises what `encode` raises."""
    messages = body.get("messages")
    entries: list[Any] = messages if isinstance(messages, list) else [messages]
    large = [i for i, one in enumerate(entries) if isinstance(one, msgspec.Raw) and len(memoryview(one)) > LARGE_BYTES]
    found = set_aside([memoryview(entries[i]) for i in large]) if large else None
    if found is None:
        return encode(body, call)
    marked, aside = found
    small = list(entries)
    for i, text in zip(large, marked, strict=True):
        small[i] = msgspec.Raw(text)
    encoded = encode({**body, "messages": small if isinstance(messages, list) else small[0]}, call)
    encoded.body = aside.put_back(encoded.body)
    return encoded


def _free_stem(rests: Sequence[memoryview]) -> bytes:
    """Return what no mark of the client's own can begin with: 12 characters, and 8 of the number make full groups of base64."""
    number = 0
    while any(re.search(b"aside%07d" % number, rest) for rest in rests):
        number += 1
    return b"aside%07d" % number
