"""The body of a request that is passed on as it came: read from the client only as fast as the upstream takes it.

A form's head is held until its `model` is known; what stands before that field is kept in a file when it is large (curl sends
the fields in the order of its command line). Nothing else of a body is held. `replayable` until bytes were given out and lost.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import IO

from aiohttp import web

from routerd.errors import BadRequest, PayloadTooLarge
from routerd.server.http.intake import BODY_IDLE_S, expect_continue, next_piece
from routerd.wire.form import Form, boundary_of

__all__ = ["BytesUpload", "ClientUpload", "read_form"]

PIECE_BYTES = 256 * 1024
IN_MEMORY_BYTES = 1024 * 1024  # of a form before its model; beyond that it goes to a file


class BytesUpload:
    """A body that is here already; `encode` puts an upstream's model name into it."""

    replayable = True

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self._encode = encode

    def length(self, model: str) -> int:
        """Return its length in bytes for this model."""
        return len(self._encode(model))

    async def pieces(self, model: str) -> AsyncIterator[bytes]:
        """Give it in one piece."""
        yield self._encode(model)


class ClientUpload:
    """A body on its way. `form` is what was read of it until its model was known; None: nothing was read yet."""

    def __init__(self, request: web.BaseRequest, limit_bytes: int, form: SpooledForm | None = None) -> None:
        self._request = request
        self._limit_bytes = limit_bytes
        self._form = form
        self._begun = False
        length = request.content_length
        self._length = length if length is not None else (0 if request.content.is_eof() else None)
        if length is not None and length > limit_bytes:
            raise too_large(limit_bytes)

    @property
    def replayable(self) -> bool:
        """Whether nothing was lost."""
        return not self._begun

    def length(self, model: str) -> int | None:
        """Return the whole length with this model in the form."""
        if self._length is None or self._form is None:
            return self._length
        return self._length + self._form.growth(model)

    async def pieces(self, model: str) -> AsyncIterator[bytes]:
        """Give what was held, then what comes."""
        size = 0
        if self._form is not None:
            async for piece in self._form.pieces(model):
                size += len(piece)
                yield piece
        content = self._request.content
        if not content.at_eof():
            self._begun = True
        while True:
            piece = await next_piece(self._request, BODY_IDLE_S)
            if not piece:
                return
            size += len(piece)
            if size > self._limit_bytes:
                raise too_large(self._limit_bytes)
            yield piece


class SpooledForm:
    """The head of a form up to its model; the bytes before the last few are in a file when they are many."""

    def __init__(self, form: Form, file: IO[bytes] | None) -> None:
        self._form = form
        self._file = file
        self.model = form.value or ""

    def growth(self, model: str) -> int:
        """Return how many bytes longer the form is with this model."""
        return len(model.encode()) - len(self.model.encode())

    async def pieces(self, model: str) -> AsyncIterator[bytes]:
        """Give the head with this model in it."""
        if self._file is not None:
            file = self._file
            await asyncio.to_thread(file.seek, 0)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece
        yield self._form.replaced(model)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()


async def read_form(request: web.BaseRequest, limit_bytes: int) -> SpooledForm:
    """Read a form until its model is known. Raises BadRequest, PayloadTooLarge, RequestTimeout."""
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise too_large(limit_bytes)
    form = Form(boundary_of(request.headers.get("Content-Type", "")), "model")
    expect_continue(request)
    file: IO[bytes] | None = None
    size = 0
    try:
        while True:
            piece = await next_piece(request, BODY_IDLE_S)
            size += len(piece)
            if size > limit_bytes:
                raise too_large(limit_bytes)
            if not piece or form.feed(piece):
                break
            if len(form.seen) > IN_MEMORY_BYTES:
                file = file or tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the form
                await asyncio.to_thread(file.write, form.shed())
        if not form.value:
            raise BadRequest("You must provide a `model` field in the form.", param="model")
    except BaseException:
        if file is not None:
            file.close()
        raise
    return SpooledForm(form, file)


def too_large(limit_bytes: int) -> PayloadTooLarge:
    """Return the refusal of a body that is too large."""
    return PayloadTooLarge(f"The body is larger than the limit of {limit_bytes} bytes.")
