"""JSON schema -> the subset of OpenAPI that `functionDeclarations[].parameters` takes.

Rewritten without loss: `$ref` (inlined), `const` (`enum`), `oneOf` (`anyOf`), `null` in `type`, `enum` or `anyOf` (`nullable`),
an `allOf` of one. Left out: annotations, which change nothing, and, by name, `additionalProperties: false` and formats that
Gemini refuses. A schema that says anything else (maps, recursion, several types, enums of numbers ...) cannot be said in the
subset: None, and the caller sends it as it is in `parametersJsonSchema`, which newer models read.
Source: ai.google.dev/api/caching#Schema and #FunctionDeclaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["has_fields", "subset"]

MAX_NODES = 3000  # inlining can grow a schema without bound

_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object"})
_FORMATS = {"string": {"enum", "date-time"}, "number": {"float", "double"}, "integer": {"int32", "int64"}}
_AS_IT_IS = frozenset(
    {
        "title", "description", "default", "minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength",
        "pattern", "minimum", "maximum",
    }
)  # fmt: skip
_NO_MEANING = frozenset({"$schema", "$id", "$comment", "$defs", "definitions", "deprecated", "readOnly", "writeOnly"})
_READ = frozenset({"type", "nullable", "format", "enum", "properties", "required", "items", "anyOf", "additionalProperties"})


class _Inexpressible(Exception):
    """Internal: the subset has no words for it."""


def has_fields(schema: Mapping[str, Any] | None) -> bool:
    """Tell whether a function takes arguments: an object without properties must be left out, Gemini answers 400 to it."""
    if not schema:
        return False
    return not (schema.get("type") == "object" and not schema.get("properties") and schema.keys() <= _PLAIN_OBJECT)


_PLAIN_OBJECT = frozenset({"type", "properties", "required", "title", "description"}) | _NO_MEANING | {"additionalProperties"}


def subset(schema: Mapping[str, Any]) -> tuple[dict[str, Any] | None, set[str]]:
    """Return the schema in the subset (None: it cannot be said there) and the keywords that were left out."""
    writer = _Writer(schema)
    try:
        return writer.node(schema), writer.left_out
    except (_Inexpressible, RecursionError):
        return None, set()


class _Writer:
    """One translation. `_open` are the references that are being inlined."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.left_out: set[str] = set()
        self._root = root
        self._open: list[str] = []
        self._nodes = 0

    def node(self, schema: Any) -> dict[str, Any]:
        self._nodes += 1
        if not isinstance(schema, Mapping) or self._nodes > MAX_NODES:
            raise _Inexpressible
        if "$ref" in schema:
            return self._inlined(schema)
        schema = _simplified(schema)
        if not schema.keys() <= _READ | _AS_IT_IS | _NO_MEANING | {"examples"}:
            raise _Inexpressible
        if "examples" in schema:
            self.left_out.add("examples")
        out = {key: value for key, value in schema.items() if key in _AS_IT_IS}
        nullable = schema.get("nullable") is True
        if "anyOf" in schema:
            nullable = self._any_of(schema, out) or nullable
        else:
            nullable = self._typed(schema, out) or nullable
        if nullable:
            out["nullable"] = True
        return out

    def _inlined(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        ref = schema["$ref"]
        if not isinstance(ref, str) or not ref.startswith("#/") or ref in self._open:
            raise _Inexpressible
        target: Any = self._root
        for step in ref[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or step not in target:
                raise _Inexpressible
            target = target[step]
        if not isinstance(target, Mapping):
            raise _Inexpressible
        self._open.append(ref)
        found = self.node({**target, **{key: value for key, value in schema.items() if key != "$ref"}})
        self._open.pop()
        return found

    def _any_of(self, schema: Mapping[str, Any], out: dict[str, Any]) -> bool:
        options = schema["anyOf"]
        if not isinstance(options, list) or not schema.keys() <= {"anyOf", "nullable"} | _AS_IT_IS | _NO_MEANING:
            raise _Inexpressible
        said = [option for option in options if not (isinstance(option, Mapping) and option.get("type") == "null")]
        if not said:
            raise _Inexpressible
        written = [self.node(option) for option in said]
        if len(written) == 1:
            out.update({**written[0], **out})
        else:
            out["anyOf"] = written
        return len(said) < len(options)

    def _typed(self, schema: Mapping[str, Any], out: dict[str, Any]) -> bool:
        kind, nullable = _type_of(schema)
        out["type"] = kind.upper()
        form = schema.get("format")
        if form is not None:
            if form in _FORMATS.get(kind, ()):
                out["format"] = form
            else:
                self.left_out.add("format")
        if "enum" in schema:
            values = schema["enum"]
            if kind != "string" or not isinstance(values, list):
                raise _Inexpressible
            out["enum"] = [value for value in values if value is not None]
            nullable = nullable or len(out["enum"]) < len(values)
            if not out["enum"] or not all(isinstance(value, str) and value for value in out["enum"]):
                raise _Inexpressible
        if kind == "array":
            out["items"] = self.node(schema.get("items"))
        if kind == "object":
            self._object(schema, out)
        return nullable

    def _object(self, schema: Mapping[str, Any], out: dict[str, Any]) -> None:
        fields = schema.get("properties")
        if not isinstance(fields, Mapping) or not fields:
            raise _Inexpressible
        others = schema.get("additionalProperties", True)
        if others is False:
            self.left_out.add("additionalProperties")
        elif others is not True and others != {}:
            raise _Inexpressible
        out["properties"] = {name: self.node(field) for name, field in fields.items()}
        required = schema.get("required")
        if required:
            if not isinstance(required, list) or not all(isinstance(name, str) and name in fields for name in required):
                raise _Inexpressible
            out["required"] = required


def _simplified(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rewrite the keywords that only spell another one."""
    if "allOf" in schema:
        whole = schema["allOf"]
        if not isinstance(whole, list) or len(whole) != 1 or not isinstance(whole[0], Mapping) or "$ref" in whole[0]:
            raise _Inexpressible
        schema = {**whole[0], **{key: value for key, value in schema.items() if key != "allOf"}}
    if "const" in schema and "enum" not in schema:
        schema = {**schema, "enum": [schema["const"]]}
        del schema["const"]
    if "oneOf" in schema and "anyOf" not in schema:
        schema = {**schema, "anyOf": schema["oneOf"]}
        del schema["oneOf"]
    return schema


def _type_of(schema: Mapping[str, Any]) -> tuple[str, bool]:
    kind = schema.get("type")
    nullable = False
    if isinstance(kind, list):
        kinds = [entry for entry in kind if entry != "null"]
        nullable = len(kinds) < len(kind)
        kind = kinds[0] if len(kinds) == 1 else ""
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string" if "enum" in schema else ""
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _Inexpressible
    return kind.lower(), nullable
