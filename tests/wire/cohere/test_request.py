"""OpenAI requests in the words of Cohere's v2/chat, v2/embed and v2/rerank."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from routerd.errors import BadRequest
from routerd.wire.cohere import CohereDialect
from tests.wire.transcripts import load
from tests.wire.translated import REQUESTS, call, encoded, raw

COHERE = CohereDialect()
HI: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
OTHER: Any = {"type": "function", "function": {"name": "g", "description": "d", "strict": True}}
CALL: Any = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def sent(**body: Any) -> dict[str, Any]:
    return encoded(COHERE, {"messages": HI, **body})[0]


def dropped(**body: Any) -> tuple[str, ...]:
    return encoded(COHERE, {"messages": HI, **body})[1]


@pytest.mark.parametrize("recorded", load("cohere/chat_*.json"), ids=lambda r: r.name)
def test_what_a_recorded_client_asked_is_what_is_sent(recorded: Any) -> None:
    theirs = recorded.request
    ours, left_out = encoded(COHERE, {**theirs, "model": "m"}, model=theirs["model"], stream=theirs["stream"])
    assert (ours, left_out) == (theirs, ())


def test_a_conversation_keeps_its_form() -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "https://x/y"}}],
        },
        {"role": "assistant", "content": "I will look.", "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "7"}]},
        {"role": "assistant", "content": "seven", "name": "bot"},
    ]
    ours, left_out = encoded(COHERE, {"messages": messages, "tools": [TOOL]})
    assert ours["messages"] == [
        {"role": "system", "content": "be kind"},
        messages[1],
        {"role": "assistant", "tool_plan": "I will look.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "assistant", "content": "seven"},
    ]
    assert left_out == ("messages.name", "messages.reasoning_content")
    assert encoded(COHERE, {"prompt": "once"}, operation="completion")[0]["messages"] == [{"role": "user", "content": "once"}]


@pytest.mark.parametrize(
    ("choice", "names", "theirs"),
    [
        (None, ["f", "g"], None),
        ("auto", ["f", "g"], None),
        ("none", ["f", "g"], "NONE"),
        ("required", ["f", "g"], "REQUIRED"),
        ({"type": "function", "function": {"name": "g"}}, ["g"], "REQUIRED"),
    ],
)
def test_tools_and_the_choice_among_them(choice: Any, names: list[str], theirs: str | None) -> None:
    ours = sent(tools=[TOOL, OTHER], **({} if choice is None else {"tool_choice": choice}))
    assert [tool["function"]["name"] for tool in ours["tools"]] == names
    assert ours.get("tool_choice") == theirs
    assert ours["strict_tools"] is True
    assert ours["tools"][-1]["function"] == {"name": "g", "description": "d", "parameters": {"type": "object", "properties": {}}}


def test_parameters_have_cohere_s_names() -> None:
    ours = sent(max_completion_tokens=9, temperature=0.5, top_p=0.9, top_k=3, seed=1, stop=["a"], logprobs=True)
    expected = {"max_tokens": 9, "temperature": 0.5, "p": 0.9, "k": 3, "seed": 1, "stop_sequences": ["a"], "logprobs": True}
    assert {key: ours[key] for key in expected} == expected
    assert (sent(top_p=1)["p"], dropped(top_p=1)) == (0.99, ("top_p",))
    assert (sent(frequency_penalty=-1)["frequency_penalty"], dropped(frequency_penalty=-1)) == (0, ("frequency_penalty",))


@pytest.mark.parametrize(
    ("effort", "thinking"),
    [
        ("none", {"type": "disabled"}),
        ("low", {"type": "enabled", "token_budget": 1024}),
        ("high", {"type": "enabled"}),
    ],
)
def test_reasoning_effort(effort: str, thinking: dict[str, Any]) -> None:
    assert sent(reasoning_effort=effort)["thinking"] == thinking


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given_schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert sent(response_format=given_schema)["response_format"] == {"type": "json_object", "json_schema": schema}
    assert sent(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


def test_cohere_s_own_fields_pass_and_the_operator_s_win() -> None:
    ours, left_out = encoded(
        COHERE, {"messages": HI, "documents": ["a"], "safety_mode": "OFF", "user": "u"}, extra={"safety_mode": "STRICT"}
    )
    assert (ours["documents"], ours["safety_mode"], left_out) == (["a"], "STRICT", ("user",))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"stop": list("abcdef")}, "stop"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "x"}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_what_cohere_cannot_do_is_a_bad_request_that_names_it(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        encoded(COHERE, {"messages": HI, **body})
    assert refused.value.param == param


def test_embeddings_and_a_rerank() -> None:
    asked = {"model": "e", "input": ["a", "b"], "dimensions": 8, "input_type": "search_query"}
    out = COHERE.encode(raw(asked), call(operation="embedding"))
    assert (out.path, out.dropped) == ("v2/embed", ())
    assert json.loads(out.body) == {
        "model": "upstream-m", "texts": ["a", "b"], "input_type": "search_query", "embedding_types": ["float"],
        "output_dimension": 8,
    }  # fmt: skip
    rerank = {"model": "r", "query": "q", "documents": ["a"], "top_n": 1}
    out = COHERE.encode(raw(rerank), call(operation="rerank"))
    assert (out.path, json.loads(out.body)) == ("v2/rerank", {**rerank, "model": "upstream-m"})


@given(REQUESTS)
@settings(max_examples=200, deadline=None)
def test_any_request_is_encoded_or_a_bad_request(body: dict[str, Any]) -> None:
    try:
        out = COHERE.encode(raw(body), call())
    except BadRequest:
        return
    assert json.loads(out.body)["messages"] is not None
    assert all(name.isprintable() and "," not in name for name in out.dropped)
