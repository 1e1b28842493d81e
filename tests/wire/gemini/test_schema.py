"""What of JSON schema the subset can say, what is left out, and what goes as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routerd.wire.gemini import GeminiDialect
from routerd.wire.gemini.schema import subset
from tests.wire.translated import encoded

STRING = {"type": "string"}


def wrapped(field: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": field}, **more}


def field(schema: Any, **more: Any) -> Any:
    """The schema of field `a` in the subset, None where it cannot be said."""
    found, _ = subset(wrapped(schema, **more))
    return None if found is None else found["properties"]["a"]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (STRING, {"type": "STRING"}),
        ({"type": "integer", "minimum": 1, "maximum": 9}, {"type": "INTEGER", "minimum": 1, "maximum": 9}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"anyOf": [STRING, {"type": "null"}], "default": None}, {"type": "STRING", "nullable": True, "default": None}),
        ({"oneOf": [STRING, {"type": "number"}]}, {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}]}),
        ({"const": "x"}, {"type": "STRING", "enum": ["x"]}),
        ({"enum": ["x", "y", None]}, {"type": "STRING", "enum": ["x", "y"], "nullable": True}),
        ({"allOf": [STRING], "description": "d"}, {"type": "STRING", "description": "d"}),
        ({"items": STRING, "minItems": 1}, {"type": "ARRAY", "items": {"type": "STRING"}, "minItems": 1}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": "boolean", "$comment": "c", "readOnly": True}, {"type": "BOOLEAN"}),
        (wrapped(STRING, required=["a"]), {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}),
    ],
)
def test_what_the_subset_can_say(schema: Any, said: Any) -> None:
    assert field(schema) == said


def test_references_are_inlined() -> None:
    defs = {"City": {"type": "string", "title": "City"}, "a/b": {"$ref": "#/$defs/City"}}
    assert field({"$ref": "#/$defs/a~1b", "description": "where"}, **{"$defs": defs}) == {
        "type": "STRING", "title": "City", "description": "where",
    }  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        7,
        {"type": "object"},
        {"type": "array"},
        {"type": ["string", "integer"]},
        {"enum": [1, 2]},
        {"type": "integer", "enum": [1]},
        {"enum": [""]},
        {"const": 3},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"x": STRING}, "additionalProperties": STRING},
        {"not": STRING},
        {"allOf": [STRING, {"minLength": 1}]},
        {"type": "array", "items": STRING, "uniqueItems": True},
        {"type": "array", "prefixItems": [STRING]},
        {"$ref": "#/properties/a"},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://elsewhere/x.json"},
        {"type": "null"},
    ],
)
def test_what_the_subset_cannot_say_is_left_to_json_schema(schema: Any) -> None:
    assert field(schema) is None
    parameters = wrapped(schema)
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    [sent] = encoded(GeminiDialect(), {"messages": [{"role": "user", "content": "x"}], "tools": [tool]})[0]["tools"]
    assert sent["functionDeclarations"] == [{"name": "f", "parametersJsonSchema": parameters}]


def test_what_is_left_out_is_named() -> None:
    parameters = wrapped({"type": "string", "format": "uri", "examples": ["x"]}, additionalProperties=False)
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    sent, dropped = encoded(GeminiDialect(), {"messages": [{"role": "user", "content": "x"}], "tools": [tool]})
    assert sent["tools"][0]["functionDeclarations"][0]["parameters"] == {
        "type": "OBJECT",
        "properties": {"a": {"type": "STRING"}},
    }
    assert set(dropped) == {f"tools.function.parameters.{word}" for word in ("format", "examples", "additionalProperties")}


@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"type": "object", "properties": {}}, {"type": "object", "additionalProperties": False, "required": []}],
)
def test_a_function_without_arguments_has_no_parameters(parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}
    sent, _ = encoded(GeminiDialect(), {"messages": [{"role": "user", "content": "x"}], "tools": [tool]})
    assert sent["tools"] == [{"functionDeclarations": [{"name": "f", "description": "d"}]}]


def test_a_schema_that_grows_by_inlining_is_given_up() -> None:
    defs: dict[str, Any] = {"d0": STRING}
    for i in range(1, 40):
        ref = {"$ref": f"#/$defs/d{i - 1}"}
        defs[f"d{i}"] = {"type": "object", "properties": {"l": ref, "r": ref}}
    assert field({"$ref": "#/$defs/d39"}, **{"$defs": defs}) is None


def test_a_schema_is_not_changed_by_its_translation() -> None:
    schema = wrapped({"anyOf": [{"const": "a"}, {"allOf": [STRING]}]}, **{"$defs": {}})
    before = json.dumps(schema)
    subset(schema)
    assert json.dumps(schema) == before
