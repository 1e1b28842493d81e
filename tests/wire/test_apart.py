"""Large values are set aside and put back: what was translated is the same with and without."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.graph import Endpoint, Provider
from routerd.wire import Call, make_dialect
from routerd.wire.anthropic import MessagesClient
from routerd.wire.apart import LARGE_BYTES, encode_apart, set_aside
from routerd.wire.dialect import Encoded

BIG = "QUJD" * (LARGE_BYTES // 4)
OTHER = "REVG" * (LARGE_BYTES // 4) + "QQ=="


def views(*texts: str) -> list[memoryview]:
    return [memoryview(text.encode()) for text in texts]


def picture(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def test_only_large_plain_base64_is_set_aside() -> None:
    texts = [
        f'"data:image/png;base64,{BIG[:-8]}"',  # not large
        f'"{BIG}"',  # a text
        f'"data:image/png,{BIG}"',  # not base64
        f'"data:image/png;base64,{BIG}%3D"',
        f'"data:image/png;base64,{BIG}\\n"',
        f'"data:image/png;base64,{BIG}',  # no end
    ]
    assert set_aside(views(*texts)) is None


def test_what_is_put_back_is_what_was_taken() -> None:
    texts = [f'["data:a;base64,{BIG}", {{"data" : "{OTHER}"}}]', "{}", f'"data:b;base64,{OTHER}"']
    found = set_aside(views(*texts))
    assert found is not None
    marked, aside = found
    assert all(len(text) < 200 for text in marked)
    assert [aside.put_back(text).decode() for text in marked] == texts
    assert aside.put_back(b"") == b""


def test_a_mark_that_the_client_wrote_is_none() -> None:
    text = f'"aside0000000 aside000000000000000 data:a;base64,{BIG}"'
    found = set_aside(views(text))
    assert found is not None
    assert found[1].put_back(found[0][0]).decode() == text
    assert found[1].put_back(found[1].stem + b"00000007") == found[1].stem + b"00000007"


@given(st.lists(st.sampled_from([BIG, OTHER, "QUJD", "aside0000000", "aside000000000000000"]), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_an_encoder_that_copies_sees_no_difference(datas: list[str]) -> None:
    messages = [{"role": "user", "content": [picture(data) for data in datas]}]
    raw = msgspec.Raw(json.dumps(messages).encode())

    def copy(body: Any, _: Call) -> Encoded:
        return Encoded(path="x", body=msgspec.json.encode(body))

    call = Call(operation="chat", path="x", model="m")
    assert json.loads(encode_apart(copy, {"messages": raw}, call).body) == {"messages": messages}
    listed = [{"role": "system", "content": "s"}, msgspec.Raw(json.dumps(messages[0]).encode())]
    assert json.loads(encode_apart(copy, {"messages": listed}, call).body)["messages"] == [listed[0], *messages]


@pytest.mark.parametrize("name", ["anthropic", "gemini", "ollama"])
def test_a_large_picture_is_translated_like_a_small_one(name: str) -> None:
    dialect = make_dialect(Provider(name="p", dialect=name, endpoints=(Endpoint(name="p", provider="p", url="http://p"),)))

    def sent(*datas: str) -> bytes:
        content = [{"type": "text", "text": "hi"}, *map(picture, datas)]
        raw = msgspec.Raw(json.dumps([{"role": "user", "content": content}]).encode())
        return dialect.encode({"messages": raw}, Call(operation="chat", path="x", model="m")).body

    small = sent("QUJD", "REVG")
    assert sent(BIG, OTHER) == small.replace(b"QUJD", BIG.encode()).replace(b"REVG", OTHER.encode())


def test_a_large_picture_of_a_message_waits_beside_the_request() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": BIG}
    body = json.dumps(
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}
    )
    request = MessagesClient().parse(body.encode(), "chat", "messages")
    assert request.size_bytes == len(body)
    assert request.put_back is not None
    assert len(msgspec.json.encode(request.body)) < 1000
    assert BIG.encode() in request.put_back(msgspec.json.encode(request.body))
    assert BIG.encode() in request.put_back(msgspec.json.encode(request.native))
