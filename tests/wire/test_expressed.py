"""What each dialect can say: the README's table is what `encode` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routerd.errors import BadRequest
from routerd.graph import Endpoint, Provider
from routerd.wire import make_dialect
from tests.wire.translated import encoded

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
# The newest kind of each vendor's models; what older ones lack is in `outbound.models` and in `gemini.request`.
MODELS = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-3-pro", "ollama": "qwen3", "cohere": "command-a-03-2025"}
OBJECT: Any = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": OBJECT}}
SCHEMA: Any = {"name": "s", "schema": OBJECT}


def with_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}


ASKED: dict[str, dict[str, Any]] = {
    "system, developer messages": {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]},
    "image as data URI": with_part({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}),
    "image as http(s) URL": with_part({"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}),
    "file (PDF)": with_part({"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}),
    "audio": with_part({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}),
    "`messages.name`": {"messages": [{"role": "user", "name": "n", "content": "x"}]},
    "`tools`, `tool_choice: none`": {"tools": [TOOL], "tool_choice": "none"},
    "`tool_choice: required`": {"tools": [TOOL], "tool_choice": "required"},
    "`tool_choice`: one function": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "`parallel_tool_calls: false`": {"tools": [TOOL], "parallel_tool_calls": False},
    "`response_format: json_object`": {"response_format": {"type": "json_object"}},
    "`response_format: json_schema`": {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    "`max_tokens`, `stop`, `temperature`": {"max_tokens": 9, "stop": ["a"], "temperature": 0.5},
    "`top_k`": {"top_k": 5},
    "`seed`": {"seed": 1},
    "`presence_penalty`, `frequency_penalty`": {"presence_penalty": 0.5, "frequency_penalty": 0.5},
    "`reasoning_effort`": {"reasoning_effort": "low"},
    "`logprobs`": {"logprobs": True},
    "`top_logprobs`": {"logprobs": True, "top_logprobs": 2},
    "`n` above 1": {"n": 2},
    "`user`": {"user": "u"},
    "`modalities: [text, image]`": {"modalities": ["text", "image"]},
    "`logit_bias`": {"logit_bias": {"1": 1}},
}


def outcome(dialect: str, body: dict[str, Any]) -> str:
    made = make_dialect(Provider(name="p", dialect=dialect, endpoints=(Endpoint(name="p", provider="p", url="http://p"),)))
    try:
        _, dropped = encoded(made, {"messages": [{"role": "user", "content": "x"}], **body}, model=MODELS[dialect])
    except BadRequest:
        return "400"
    return "left out" if dropped else "yes"


def table() -> str:
    """The rows in which somebody cannot; what is in none of them all can say."""
    rows = [f"| asked for | {' | '.join(MODELS)} |", "|---|" + "---|" * len(MODELS)]
    for name, body in ASKED.items():
        found = [outcome(dialect, body) for dialect in MODELS]
        if set(found) != {"yes"}:
            rows.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join(rows)


def test_the_readme_tells_what_each_dialect_can_say() -> None:
    assert table() in README, table()


@pytest.mark.parametrize("dialect", MODELS)
def test_nothing_that_is_no_request_of_openais_is_lost_in_silence(dialect: str) -> None:
    assert outcome(dialect, {"a_field_of_nobody": {"x": 1}}) == "left out"
