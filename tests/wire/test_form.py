"""The model of a form is found whatever stands around it and however its bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.wire.form import Form, boundary_of

B = b"X7"


def part(name: str, value: bytes, extra: str = "") -> bytes:
    return b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (B, name.encode(), extra.encode(), value)


FILE = part("file", bytes(range(256)) * 9 + b"\r\n--X\r\n\r\n", '; filename="a.bin"\r\nContent-Type: audio/wav')
END = b"--X7--\r\n"


@pytest.mark.parametrize("size", [1, 3, 100, 10_000])
@pytest.mark.parametrize("body", [part("model", b"w-1") + FILE + END, FILE + part("x", b"model") + part("model", b"w-1") + END])
def test_the_field_is_found_and_replaced_at_any_split(body: bytes, size: int) -> None:
    form = Form(B, "model")
    fed = 0
    while not form.feed(body[fed : fed + size]):
        fed += size
        assert fed < len(body)
    fed += size
    assert form.value == "w-1"
    assert form.replaced("other/model") + body[fed:] == body.replace(b'"model"\r\n\r\nw-1', b'"model"\r\n\r\nother/model')


def test_a_form_without_the_field_ends() -> None:
    form = Form(B, "model")
    assert form.feed(FILE + END)
    assert (form.value, form.ended) == (None, True)


def test_a_value_that_is_no_name_is_refused() -> None:
    with pytest.raises(BadRequest, match="longer than 1024"):
        Form(B, "model").feed(part("model", b"x" * 5000))
    with pytest.raises(BadRequest, match="not UTF-8"):
        Form(B, "model").feed(part("model", b"\xff") + END)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=x; Boundary="a b c"', b"a b c"),
    ],
)
def test_the_boundary_is_read_from_the_content_type(kind: str, wanted: bytes) -> None:
    assert boundary_of(kind) == wanted


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/mixed; boundary=a", ""])
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest):
        boundary_of(kind)


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_foreign_bytes_raise_nothing_but_a_refusal(pieces: list[bytes]) -> None:
    form = Form(B, "model")
    for piece in pieces:
        try:
            if form.feed(piece):
                break
        except BadRequest:
            break
