"""The recordings are all here, and each is read by the dialect of its provider: whole and one byte at a time, with one result."""

from __future__ import annotations

import re
from typing import Any

import pytest

from routerd.errors import ErrorKind
from routerd.graph import Endpoint, Provider
from routerd.wire import Call, classify, make_dialect
from routerd.wire.listing.model_list import read_page
from tests.wire.transcripts import ROOT, Recorded, load

ALL = load("*/*.json")
LISTS = load("lists/*/*.json")
COUNT = 123  # of all that were collected
OTHER_OPERATIONS = {"openai/embeddings": "embedding"}


def listed_sources() -> set[str]:
    """Every file that SOURCES.md names."""
    return {name.removesuffix(".json") for name in re.findall(r"[a-z]+/[a-z0-9_/]+\.json", (ROOT / "SOURCES.md").read_text())}


def test_every_recording_is_here_and_says_where_it_is_from() -> None:
    assert len(ALL) + len(LISTS) == COUNT
    assert {one.name for one in ALL} | {f"lists/{one.name}" for one in LISTS} == listed_sources()


def dialect_of(recorded: Recorded) -> Any:
    family = recorded.name.partition("/")[0]
    name = family if family in ("anthropic", "cohere", "gemini", "ollama") else "openai"
    return make_dialect(Provider(name="p", dialect=name, endpoints=(Endpoint(name="p", provider="p", url="http://p"),)))


def streamed(recorded: Recorded) -> bool:
    return b"data:" in recorded.body or recorded.name.endswith("ndjson")


GOOD = [one for one in ALL if one.status == 200]
BAD = [one for one in ALL if one.status != 200]


@pytest.mark.parametrize("recorded", [one for one in GOOD if not streamed(one)], ids=lambda one: one.name)
def test_a_whole_answer_is_understood(recorded: Recorded) -> None:
    operation = OTHER_OPERATIONS.get(recorded.name, "chat")
    body, answer = dialect_of(recorded).decode(recorded.body, Call(operation=operation, path="x", model="m"))
    assert body
    assert answer.error is None
    assert answer.usage is not None
    assert answer.usage.input_tokens


@pytest.mark.parametrize("recorded", [one for one in GOOD if streamed(one)], ids=lambda one: one.name)
def test_a_stream_is_understood_alike_whole_and_byte_by_byte(recorded: Recorded) -> None:
    seen = []
    for size in (len(recorded.body), 1):
        scan = dialect_of(recorded).scan(Call(operation="chat", path="x", model="m", stream=True, answer_id="a"))
        out = b"".join(scan.feed(recorded.body[at : at + size]) for at in range(0, len(recorded.body), size)) + scan.close()
        seen.append((out, scan.content, scan.finished, scan.done, scan.usage, scan.fault, scan.malformed))
    assert seen[0] == seen[1]
    _, content, finished, _, _, fault, malformed = seen[0]
    assert (content or fault is not None, malformed) == (True, 0)
    assert finished == (fault is None)
    assert (fault is not None) == ("midstream" in recorded.name)


@pytest.mark.parametrize("recorded", BAD, ids=lambda one: one.name)
def test_an_error_has_a_kind_of_its_own(recorded: Recorded) -> None:
    found = classify(recorded.status, recorded.headers, recorded.body, 1_700_000_000.0)
    if recorded.name.endswith(("_ctx", "_ctx_responses", "_ctx_docs")):
        assert found.kind is ErrorKind.CONTEXT_LENGTH
    if found.kind is ErrorKind.SERVER_ERROR:  # a tool call that the model wrote wrong is no fault of the client: 400 at Groq
        assert recorded.status >= 500 or recorded.name == "groq/err_400_tool_use_failed"
    assert found.message


@pytest.mark.parametrize("recorded", LISTS, ids=lambda one: one.name)
def test_a_list_of_models_is_understood(recorded: Recorded) -> None:
    assert read_page(recorded.body).models
