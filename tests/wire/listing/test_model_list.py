"""Lists of models: every recorded and documented shape, pages, and which models chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.wire.listing.model_list import Page, list_path, next_path, read_page
from tests.wire.transcripts import load


def ids(body: bytes) -> list[str]:
    return [model.id for model in read_page(body).models]


def chatting(*rows: Any) -> list[str]:
    return [model.id for model in read_page(json.dumps({"data": rows}).encode()).models if model.chats]


RECORDED = {one.name: one.body for one in load("lists/*/*.json")}


def test_the_recorded_lists_are_read() -> None:
    assert ids(RECORDED["cerebras/models_list"]) == ["gemma-4-31b", "gpt-oss-120b", "zai-glm-4.7"]
    assert ids(RECORDED["llamacpp/models_list"]) == ["/REDACTED_PATH/Qwen3-1.7B-Q4_K_M.gguf"]
    tags = read_page(RECORDED["ollama/tags"]).models
    assert tags[:2] == (("all-minilm:latest", False), ("qwen3:4b", True))
    assert all(model.chats for model in tags[1:3])
    assert len(RECORDED) == 3


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"object": "list", "data": [{"id": "deepseek-chat", "object": "model", "owned_by": "deepseek"}]}, ["deepseek-chat"]),
        ({"data": [{"id": "meta-llama/llama-3.3-70b-instruct:free", "pricing": {"prompt": "0"}}]},
         ["meta-llama/llama-3.3-70b-instruct:free"]),
        ([{"id": "togethercomputer/m-7b", "type": "chat"}, "plain-text"], ["togethercomputer/m-7b", "plain-text"]),
        ({"models": [{"name": "models/gemini-2.5-flash", "displayName": "Gemini"}]}, ["gemini-2.5-flash"]),
        ({"data": [], "object": "list"}, []),
        ({"data": None, "models": [{"name": "a"}]}, ["a"]),
        ({"data": [{"id": "a"}, {"id": "a"}, {"id": ""}, {}, None, 5, {"id": "b\nc"}, {"id": "x" * 257}, {"id": 7, "name": "d"}]},
         ["a", "d"]),
    ],
)  # fmt: skip
def test_every_shape_is_read_and_what_is_no_model_is_left_out(answer: Any, found: list[str]) -> None:
    assert ids(json.dumps(answer).encode()) == found


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": {"message": "no"}}', b'{"data": {}}', b"5", b"null"])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="the answer"):
        read_page(body)


def test_pages_go_on_as_each_provider_has_it() -> None:
    anthropic = read_page(b'{"data": [{"id": "claude-x"}], "has_more": true, "first_id": "claude-x", "last_id": "claude-x"}')
    assert next_path("v1/models?limit=1000", anthropic) == "v1/models?limit=1000&after_id=claude-x"
    last = read_page(b'{"data": [{"id": "claude-y"}], "has_more": false, "last_id": "claude-y"}')
    assert next_path("v1/models?limit=1000&after_id=claude-x", last) == ""
    gemini = read_page(b'{"models": [{"name": "models/g"}], "nextPageToken": "a/b="}')
    assert next_path("models?pageSize=1000", gemini) == "models?pageSize=1000&pageToken=a%2Fb%3D"
    cohere = read_page(b'{"models": [{"name": "command-x", "endpoints": ["chat"]}], "next_page_token": "t"}')
    assert next_path("v1/models?page_size=1000", cohere) == "v1/models?page_size=1000&page_token=t"
    numbered = read_page(b'{"data": [{"id": "a"}]}')
    assert next_path("models?page=1&per_page=1", numbered) == "models?page=2&per_page=1"
    assert next_path("models?page=1&per_page=1000", numbered) == ""  # it is not full
    assert next_path("models?page=1", numbered) == "models?page=2"
    assert next_path("models?page=2&per_page=1000", Page((), {})) == ""
    assert next_path("models", numbered) == ""


def test_the_path_is_the_providers_or_that_of_its_dialect() -> None:
    assert list_path("openai", {}) == "models"
    assert list_path("ollama", {}) == "api/tags"
    assert list_path("openai", {"model": "models?type=text"}) == "models?type=text"


@pytest.mark.parametrize(
    "row",
    [
        {"id": "x", "supportedGenerationMethods": ["generateContent", "countTokens"]},
        {"id": "x", "capabilities": {"completion_chat": True}},
        {"id": "x", "capabilities": ["completion", "tools"]},
        {"id": "x", "architecture": {"output_modalities": ["text"], "input_modalities": ["image", "text"]}},
        {"id": "my-embedding-assistant", "type": "chat"},
        {"id": "x", "type": "vlm"},
        {"id": "x", "endpoints": ["generate", "chat"]},
        {"id": "x", "type": "model"},
        {"id": "gpt-4o"}, {"id": "o3-mini"}, {"id": "claude-sonnet-4-5"}, {"id": "gpt-5.1-chat-latest"}, {"id": "qwen3:4b"},
        {"id": "meta-llama/Llama-3.3-70B-Instruct"}, {"id": "venice-uncensored"}, {"id": "gpt-4.1-nano"}, {"id": "speechless-7b"},
    ],
)  # fmt: skip
def test_models_that_chat(row: Any) -> None:
    assert chatting(row) == [row["id"]]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "x", "supportedGenerationMethods": ["embedContent"]},
        {"id": "x", "capabilities": {"completion_chat": False}},
        {"id": "x", "capabilities": ["embedding"]},
        {"id": "x", "architecture": {"output_modalities": ["image"]}},
        {"id": "x", "type": "embedding"}, {"id": "x", "type": "image"}, {"id": "x", "endpoints": ["embed"]},
        {"id": "text-embedding-3-small"}, {"id": "whisper-1"}, {"id": "whisper-large-v3-turbo"}, {"id": "tts-1-hd"},
        {"id": "dall-e-3"}, {"id": "omni-moderation-latest"}, {"id": "gpt-4o-mini-tts"}, {"id": "gpt-4o-transcribe"},
        {"id": "gpt-realtime"}, {"id": "gpt-image-1"}, {"id": "davinci-002"}, {"id": "BAAI/bge-m3"}, {"id": "mistral-embed"},
        {"id": "all-minilm:latest"}, {"id": "nomic-embed-text"}, {"id": "sora-2"}, {"id": "black-forest-labs/FLUX.1-schnell"},
    ],
)  # fmt: skip
def test_models_that_do_something_else(row: Any) -> None:
    assert chatting(row) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["id", "name", "model", "data", "models", "type", "capabilities", "details", "architecture", "family",
                         "output_modalities", "nextPageToken", "has_more", "last_id"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30))
def test_any_answer_is_a_list_of_askable_ids_or_refused(body: bytes) -> None:
    try:
        page = read_page(body)
    except ValueError:
        return
    assert all(model.id.isprintable() and 0 < len(model.id) <= 256 for model in page.models)
    assert len(set(page.models)) == len(page.models)
