"""Tools, the choice among them and JSON schemas, from OpenAI's form into Anthropic's."""

from __future__ import annotations

from typing import Any

from routerd.errors import BadRequest

__all__ = ["JSON_TOOL", "native_schema", "read_choice", "read_tools", "schema_of"]

# The tool whose input is the answer, on models without a schema mode; `answer` and `stream` know it by its name.
JSON_TOOL = "routerd_json_answer"

_CHOICES: dict[str, dict[str, Any]] = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_MAX_SCHEMA_DEPTH = 100


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """Return the tools in Anthropic's form. Raises BadRequest."""
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise BadRequest("`tools` must be an array.", param="tools")
    return [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _tool(tool: Any, at: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type", "function") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"`{at}` must be of type function, with a `function.name`: this model takes no other.", param="tools")
    schema = function.get("parameters")
    if schema is not None and not isinstance(schema, dict):
        raise BadRequest(f"`{at}.function.parameters` must be a JSON schema.", param="tools")
    out: dict[str, Any] = {"name": function["name"], "input_schema": {"type": "object", "properties": {}, **(schema or {})}}
    if isinstance(function.get("description"), str) and function["description"]:
        out["description"] = function["description"]
    if isinstance(function.get("strict"), bool):
        out["strict"] = function["strict"]
    mark = tool.get("cache_control") or function.get("cache_control")
    if isinstance(mark, dict):
        out["cache_control"] = mark
    return out


def read_choice(choice: Any) -> dict[str, Any]:
    """Return `tool_choice`, empty where the client left it open. Raises BadRequest."""
    if choice is None:
        return {}
    if isinstance(choice, str) and choice in _CHOICES:
        return dict(_CHOICES[choice])
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise BadRequest("`tool_choice` must be auto, none, required or one function.", param="tool_choice")
    return {"type": "tool", "name": name}


def schema_of(response_format: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the schema of a response_format and its description; also in the flat form that Together uses. Raises BadRequest."""
    inner = response_format.get("json_schema")
    holder = inner if isinstance(inner, dict) else response_format
    schema = holder.get("schema")
    if not isinstance(schema, dict):
        raise BadRequest("`response_format.json_schema` needs a `schema`.", param="response_format")
    description = holder.get("description")
    return {"type": "object", **schema}, description if isinstance(description, str) else ""


def native_schema(schema: Any, depth: int = 0) -> Any:
    """Return the schema with every object closed, which output_config.format demands: what fits it fits the client's as well."""
    if depth > _MAX_SCHEMA_DEPTH:
        raise BadRequest("`response_format` is nested too deeply.", param="response_format")
    if isinstance(schema, list):
        return [native_schema(entry, depth + 1) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: native_schema(value, depth + 1) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties", {}), dict):
        out.setdefault("additionalProperties", False)
    return out
