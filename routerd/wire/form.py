"""The fields at the head of a multipart form, found while the rest is still on its way.

A form names its model in a small field; the file beside it may be large and is never looked at. `Form` is fed the body until the
field's whole part is there; `replaced` gives the bytes with another value in its place. RFC 7578 and RFC 2046 section 5.1.
"""

from __future__ import annotations

import re

from routerd.errors import BadRequest

__all__ = ["Form", "boundary_of"]

MAX_VALUE_BYTES = 1024  # of a field that is a name
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'form-data\s*;(?:.*;)?\s*name="?([^";\r\n]*)"?', re.IGNORECASE)


def boundary_of(content_type: str) -> bytes:
    """Return the boundary of a form. Raises BadRequest where the type is no form or has none."""
    kind, _, rest = content_type.partition(";")
    found = _BOUNDARY.search(rest)
    if kind.strip().lower() != "multipart/form-data" or found is None:
        raise BadRequest("Send a form: 'Content-Type: multipart/form-data; boundary=...'.", code="invalid_content_type")
    return (found[1] or found[2]).encode("latin-1", "replace")


class Form:
    """One form on its way; looks for the part `name`. `seen` holds what was fed until the part was found."""

    __slots__ = ("_at", "_delimiter", "_lead", "_name", "_span", "ended", "seen", "value")

    def __init__(self, boundary: bytes, name: str) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._name = name.encode()
        self._at = 0  # everything before it was looked at
        self._span = (0, 0)
        self.seen = bytearray(b"\r\n")  # the first delimiter has no line before it
        self._lead = 2  # bytes of `seen` that were not in the body
        self.value: str | None = None
        self.ended = False  # the form is complete and has no such part

    def feed(self, data: bytes) -> bool:
        """Take more of the body; True when nothing more needs to be fed. Raises BadRequest for a value that is no name."""
        self.seen += data
        while self.value is None and not self.ended and self._step():
            pass
        return self.value is not None or self.ended

    def shed(self) -> bytes:
        """Give up what needs no second look, for its keeper to hold elsewhere: `seen` begins behind it from now on."""
        out = bytes(self.seen[self._lead : self._at])
        del self.seen[: self._at]
        self._at, self._lead = 0, 0
        return out

    def replaced(self, value: str) -> bytes:
        """Return what was fed, with `value` in place of the part's own."""
        start, end = self._span
        return bytes(self.seen[self._lead : start]) + value.encode() + bytes(self.seen[end:])

    def _step(self) -> bool:
        """Look at one part; False: more bytes are needed."""
        seen, mark = self.seen, self._delimiter
        start = seen.find(mark, self._at)
        if start < 0:
            self._at = max(self._at, len(seen) - len(mark))
            return False
        self._at = start
        head = start + len(mark)
        if seen[head : head + 2] == b"--":
            self.ended = True
            return False
        body = seen.find(b"\r\n\r\n", head)
        if body < 0:
            return False
        named = _NAME.search(bytes(seen[head:body]))
        if named is None or named[1] != self._name:
            self._at = body + 2
            return True
        end = seen.find(mark, body + 2)
        if end < 0:
            if len(seen) - body > MAX_VALUE_BYTES:
                raise BadRequest(f"`{self._name.decode()}` is longer than {MAX_VALUE_BYTES} bytes.", param=self._name.decode())
            return False
        self._span = (body + 4, end)
        try:
            self.value = bytes(seen[body + 4 : end]).decode()
        except UnicodeDecodeError:
            raise BadRequest(f"`{self._name.decode()}` is not UTF-8.", param=self._name.decode()) from None
        return False
