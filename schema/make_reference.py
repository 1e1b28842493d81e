"""Write README.md, the reference of routes.yaml, out of the schema: `python schema/make_reference.py`.

A test compares the two, so the reference cannot fall behind.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

HERE = pathlib.Path(__file__).parent
PLAIN = ("duration", "size", "model_name", "name", "weight", "base_url", "balance", "budget_names", "secret", "label", "pointer")
INTRO = """# The reference of routes.yaml

Made from [routes.schema.json](routes.schema.json) by `make_reference.py`; do not edit. For completion and checks in an editor,
begin the file with

```yaml
# yaml-language-server: $schema=./schema/routes.schema.json
```

Durations are texts like `30s`, `250ms`, `1h30m`, `1d`; sizes are texts like `8MiB`, `64KB`. Values may hold `${NAME}`,
`${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`; `$$` is a dollar sign. Inside `{}` and `[]` put them in quotes. Keys
that begin with `x-` are ignored, wherever the keys are fixed: a place for anchors (`x-slow: &slow {...}`, then `<<: *slow`).
Scalars are those of YAML 1.2: `no` and `on` are text, keys that look like numbers need quotes.
"""


def reference(schema: dict[str, Any]) -> str:
    """Return the reference as Markdown."""
    parts = [INTRO, _table("The top level", schema)]
    for name, node in schema["definitions"].items():
        if "properties" in node:
            parts.append(_table(name, node))
        for branch in node.get("oneOf", ()):
            if "properties" in branch:
                parts.append(_table(f"{name}: `{branch['title']}`", branch))
    return "\n".join(parts)


def _table(title: str, node: dict[str, Any]) -> str:
    rows = [f"## {title}\n", "| key | value | default | what it does | example |", "|---|---|---|---|---|"]
    for key, prop in node["properties"].items():
        needed = key in node.get("required", ())
        default = "required" if needed else "" if prop.get("default") is None else f"`{_flow(prop['default'])}`"
        example = f"`{key}: {_flow(prop['examples'][0])}`"
        rows.append(f"| `{key}` | {_kind(prop)} | {default} | {prop['description']} | {example} |".replace("|  |", "| |"))
    if "oneOf" in node:
        rows.append("\nExactly one of " + ", ".join(f"`{one['required'][0]}`" for one in node["oneOf"]) + " is given.")
    return "\n".join(rows) + "\n"


def _kind(prop: dict[str, Any]) -> str:
    if "enum" in prop:
        return ", ".join(f"`{word}`" for word in prop["enum"])
    for part in prop.get("allOf", ()):
        name = part["$ref"].rpartition("/")[2]
        return name.replace("_", " ") if name in PLAIN else f"[{name}](#{name})"
    return str(prop.get("title", prop.get("type", "")))


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f'"{text}"' if text == "" or text[0] in "*{[&!%@`" else text


if __name__ == "__main__":
    (HERE / "README.md").write_text(reference(json.loads((HERE / "routes.schema.json").read_text())))
