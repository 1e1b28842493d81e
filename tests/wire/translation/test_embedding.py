"""Embeddings through Gemini's and Ollama's own paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from routerd.errors import BadRequest, ProtocolFault
from routerd.messages import Usage
from routerd.wire.dialect import Dialect
from routerd.wire.gemini import GeminiDialect
from routerd.wire.ollama import OllamaDialect
from tests.wire.translated import JSON, call, raw

GEMINI, OLLAMA = GeminiDialect(), OllamaDialect()
BOTH = pytest.mark.parametrize("dialect", [GEMINI, OLLAMA], ids=lambda d: d.name)
EMBED = call(operation="embedding", extra={"options": {"num_ctx": 8192}})


def sent(dialect: Dialect, **body: Any) -> tuple[str, Any, tuple[str, ...]]:
    found = dialect.encode(raw(body), EMBED)
    return found.path, json.loads(found.body), found.dropped


def test_gemini_has_one_request_a_text() -> None:
    content = [{"model": "models/upstream-m", "content": {"parts": [{"text": t}]}, "outputDimensionality": 8} for t in "ab"]
    path, body, dropped = sent(GEMINI, input=["a", "b"], dimensions=8, encoding_format="float")
    assert (path, body, dropped) == ("models/upstream-m:batchEmbedContents", {"requests": content}, ())


def test_ollama_has_a_list_and_the_providers_own_fields() -> None:
    path, body, dropped = sent(OLLAMA, input="a", dimensions=8, encoding_format=None)
    assert (path, dropped) == ("api/embed", ())
    assert body == {"model": "upstream-m", "input": ["a"], "dimensions": 8, "options": {"num_ctx": 8192}}


@BOTH
def test_tokens_are_refused_and_what_has_no_word_is_named(dialect: Dialect) -> None:
    for bad in ([1, 2], [[1]], [], 7, {"a": 1}):
        with pytest.raises(BadRequest) as caught:
            sent(dialect, input=bad)
        assert (caught.value.param or "").startswith("input")
    assert sent(dialect, input="a", encoding_format="base64", user="u")[2] == ("user", "encoding_format")


@pytest.mark.parametrize(
    ("dialect", "body", "usage"),
    [
        (GEMINI, {"embeddings": [{"values": [0.10, -1]}, {"values": [1e-9, 2]}]}, None),
        (GEMINI, {"embeddings": [{"values": [0.10, -1]}, {"values": [1e-9, 2]}], "usageMetadata": {"promptTokenCount": 4}}, 4),
        (OLLAMA, {"model": "m", "embeddings": [[0.10, -1], [1e-9, 2]], "prompt_eval_count": 4}, 4),
    ],
)
def test_vectors_come_in_openais_list(dialect: Dialect, body: Any, usage: int | None) -> None:
    out, found = dialect.decode(json.dumps(body).encode(), EMBED)
    answer = CreateEmbeddingResponse.model_validate_json(out, strict=True)
    assert [(one.index, one.embedding) for one in answer.data] == [(0, [0.1, -1.0]), (1, [1e-9, 2.0])]
    assert (answer.model, answer.usage.total_tokens) == ("public-m", usage or 0)
    assert found.usage == (None if usage is None else Usage(input_tokens=usage))


@BOTH
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"embeddings":[]}', b'{"embeddings":[7]}', b'{"embeddings":[{}]}'])
def test_what_holds_no_embeddings_is_a_protocol_fault(dialect: Dialect, body: bytes) -> None:
    with pytest.raises(ProtocolFault):
        dialect.decode(body, EMBED)


@BOTH
def test_an_error_inside_a_200_is_a_fault(dialect: Dialect) -> None:
    assert dialect.decode(b'{"error":{"message":"x","code":500}}', EMBED)[1].error is not None


@given(JSON, JSON, st.binary(max_size=30))
@settings(max_examples=100, deadline=None)
def test_anything_is_encoded_or_refused_and_decoded_or_a_fault(value: Any, other: Any, body: bytes) -> None:
    for dialect in (GEMINI, OLLAMA):
        try:
            sent(dialect, input=value, dimensions=other)
        except BadRequest:
            pass
        for answer in (body, json.dumps({"embeddings": value}).encode(), json.dumps({"embeddings": [value]}).encode()):
            try:
                dialect.decode(answer, EMBED)
            except ProtocolFault:
                pass
