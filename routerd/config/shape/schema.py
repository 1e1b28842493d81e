"""The published schema (draft-07): one file for editors, for the check and for the reference.

jsonschema-rs says yes or no in 0.1 ms; only after a no is `jsonschema`, 0.1 s to import, asked why.
The file is `schema/routes.schema.json` in the repository and a resource of this package in a wheel.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from routerd.config.tree import Path

_FILE = "routes.schema.json"


@functools.cache
def schema_json() -> str:
    """Return the text of the schema."""
    import importlib.resources  # 8 ms that a check of a flag should not pay

    packaged = importlib.resources.files("routerd.config").joinpath(_FILE)
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (FilePath(__file__).parents[3] / "schema" / _FILE).read_text(encoding="utf-8")


class Schema:
    """The schema, ready to use. Compiled once for a process (8 ms)."""

    def __init__(self, document: dict[str, Any]) -> None:
        import jsonschema_rs

        self.document = document
        self._validator = jsonschema_rs.Draft7Validator(document)

    @classmethod
    @functools.cache
    def published(cls) -> Schema:
        """Return the schema that routerd publishes."""
        return cls(json.loads(schema_json()))

    def accepts(self, value: Any) -> bool:
        """Whether `value` has the right shape."""
        return bool(self._validator.is_valid(value))

    def refused(self, value: Any) -> list[Path]:
        """Return where `value` has the wrong shape."""
        return [tuple(error.instance_path) for error in self._validator.iter_errors(value)]

    def types_at(self, path: Path) -> frozenset[str]:
        """Return the JSON types that may stand at `path`; empty: any."""
        found: set[str] = set()
        for one in self._at(path):
            if "type" in one:
                found.add(one["type"])
            elif "const" in one:
                found.add("integer")  # `version`, the only constant
        return frozenset(found)

    def example_at(self, path: Path) -> str:
        """Return a text that may stand at `path`; empty where there is none, where it would choose, and for credentials."""
        found = self._at(path)
        if any("enum" in one or one.get("writeOnly") for one in found) or not any(one.get("type") == "string" for one in found):
            return ""
        examples = (example for one in found for example in one.get("examples", ()))
        return next((example for example in examples if isinstance(example, str)), "unknown/unknown")

    def _at(self, path: Path) -> list[dict[str, Any]]:
        """Return the schemas of what stands at `path`."""
        nodes: list[Any] = [self.document]
        for key in path:
            nodes = [child for node in nodes for one in self._alternatives(node) for child in _children(one, key)]
        return [one for node in nodes for one in self._alternatives(node)]

    def _alternatives(self, node: Any) -> Iterator[dict[str, Any]]:
        """Yield the schemas that `node` stands for, references and branches followed."""
        if not isinstance(node, dict):
            return
        if "$ref" in node:
            yield from self._alternatives(self.document["definitions"][node["$ref"].removeprefix("#/definitions/")])
            return
        yield node
        for word in ("allOf", "oneOf", "anyOf"):
            for branch in node.get(word, ()):
                yield from self._alternatives(branch)


def _children(node: dict[str, Any], key: str | int) -> Iterator[Any]:
    if isinstance(key, int):
        if "items" in node:
            yield node["items"]
    elif key in node.get("properties", {}):
        yield node["properties"][key]
    elif not any(re.search(pattern, key) for pattern in node.get("patternProperties", {})):
        yield node.get("additionalProperties")
