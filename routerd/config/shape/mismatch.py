"""Why the schema said no, in words of ours: what was expected, what is there, what may have been meant.

`title` in the schema completes "expected ...". Of several allowed forms (`oneOf`) only the one that fits best is explained: the
one of the right type with the most keys in common. A credential is never quoted (`writeOnly`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

from routerd.config.report import Report, did_you_mean
from routerd.config.shape.schema import Schema
from routerd.config.source.presets import preset_names
from routerd.config.tree import Path, describe

Error = Any  # jsonschema.ValidationError; importing it here would cost every start 0.1 s

# Keys of other routers, and of our own in the wrong place: what they are called here.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "url": ("base_url",), "api_base": ("base_url", "url"), "base_url": ("url",), "endpoint": ("base_url", "endpoints"),
    "key": ("api_key",), "api_key": ("key",), "token": ("api_key", "key"), "apikey": ("api_key", "key"),
    "timeout": ("timeouts",), "retries": ("retry",), "num_retries": ("attempts",), "max_retries": ("attempts",),
    "targets": ("chain", "any_of"), "fallback": ("chain",), "fallbacks": ("chain",), "upstreams": ("chain",),
    "rpm": ("requests",), "tpm": ("tokens",), "window": ("per",), "limit": ("requests",), "prompt": ("system_prompt", "text"),
    "system": ("system_prompt",), "alias": ("aliases",), "type": ("dialect",), "kind": ("dialect",), "name": ("model",),
    "disabled": ("enabled",), "strategy": ("balance",), "one_of": ("any_of",), "model_list": ("models",), "routes": ("models",),
}  # fmt: skip
_SAMPLING = frozenset({"temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "seed", "stop",
                       "presence_penalty", "frequency_penalty", "repetition_penalty", "reasoning_effort"})  # fmt: skip


def explain(schema: Schema, report: Report) -> None:
    """Add a problem for everything in the report's tree that the schema refuses."""
    import jsonschema

    root = report.tree.root
    before = len(report.problems)
    writer = _Writer(report)
    for error in jsonschema.Draft7Validator(schema.document).iter_errors(root):
        writer.write(error, tuple(error.absolute_path))
    if len(report.problems) == before:  # the two validators disagree (`$` and a last line break): the stricter one is right
        for path in schema.refused(root):
            report.add("schema", "bad-value", path, f"the schema does not allow {report.tree.shown(path)} here")


class _Writer:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._tree = report.tree
        self._words: dict[str, Callable[[Error, Path], None]] = {
            "additionalProperties": self._unknown_key, "required": self._missing, "dependencies": self._needs,
            "type": self._wrong_type, "pattern": self._bad_text, "minLength": self._bad_text, "maxLength": self._bad_text,
            "enum": self._not_one_of, "const": self._constant, "oneOf": self._branches, "uniqueItems": self._twice,
            "minimum": self._range, "maximum": self._range, "exclusiveMinimum": self._range,
            "minItems": self._too_few, "minProperties": self._too_few, "maxItems": self._too_many,
        }  # fmt: skip

    def write(self, error: Error, path: Path) -> None:
        """Add the problems of one schema error."""
        if "propertyNames" in error.absolute_schema_path and isinstance(error.instance, str):
            self._bad_name(error, path)
            return
        known = self._words.get(error.validator)
        if known is not None:
            known(error, path)
        else:
            self._add("bad-value", path, f"expected {_title(error)}, got {self._got(error, path)}")

    def _add(self, code: str, path: Path, message: str, hint: str = "", *, at_key: bool = False) -> None:
        self._report.add("schema", code, path, message, hint=hint, at_key=at_key)

    def _got(self, error: Error, path: Path) -> str:
        """Return what is there, unless it is a credential."""
        if isinstance(error.schema, dict) and error.schema.get("writeOnly"):
            return _kind(error.instance)
        return self._tree.shown(path) if path else describe(error.instance)

    # ── keys ──

    def _unknown_key(self, error: Error, path: Path) -> None:
        known = error.schema.get("properties", {})
        for key in error.instance:
            if key not in known and not key.startswith("x-"):
                place = self._tree.place((*path, key), at_key=True)
                message, hint = f"unknown key {describe(key)}", _key_hint(key, known)
                self._report.refused.append((*path, key))
                self._report.at("schema", "unknown-key", place, message, path=path, hint=hint)

    def _missing(self, error: Error, path: Path) -> None:
        missing = [key for key in error.schema["required"] if key not in error.instance]
        wanted = re.match(r"'(.*)' is a required property", error.message)
        key = wanted.group(1) if wanted else ", ".join(missing)
        example = next(iter(error.schema.get("properties", {}).get(key, {}).get("examples", ())), None)
        hint = f"for example `{key}: {_flow(example)}`" if example is not None else ""
        self._add("missing-key", path, f"missing key {key!r}", hint, at_key=True)

    def _needs(self, error: Error, path: Path) -> None:
        for key, needed in error.schema["dependencies"].items():
            for other in needed:
                if key in error.instance and other not in error.instance:
                    self._add("missing-key", (*path, key), f"{key!r} needs {other!r}", f"for example `{other}: 1m`", at_key=True)

    def _bad_name(self, error: Error, path: Path) -> None:
        message = f"{describe(error.instance)} is not {_title(error)}"
        self._add("bad-name", (*path, error.instance), message, at_key=True)

    # ── values ──

    def _wrong_type(self, error: Error, path: Path) -> None:
        title, value = _title(error), error.instance
        hint = ""
        measured = title.startswith(("a duration", "a length", "a size"))
        if measured and isinstance(value, int | float) and not isinstance(value, bool):
            unit = "MiB" if title.startswith("a size") else "s"
            hint = f"a unit is missing: {value}{unit}?"
        elif value is None:
            hint = "remove the key, or give it a value"
        elif error.schema["type"] == "string" and isinstance(value, int | float):
            hint = "quote it" if error.schema.get("writeOnly") else f'quote it: "{describe(value)}"'
        elif error.schema["type"] == "array" and isinstance(value, str):
            hint = "a list of one is written [x]"
        elif error.schema["type"] == "boolean" and isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
            hint = "write true or false"
        self._add("wrong-type", path, f"expected {title}, got {self._got(error, path)}", hint)

    def _bad_text(self, error: Error, path: Path) -> None:
        title = _title(error)
        hint = "units are ms, s, m, h and d, the longest first" if title.startswith(("a duration", "a length")) else ""
        self._add("bad-value", path, f"expected {title}, got {self._got(error, path)}", hint)

    def _not_one_of(self, error: Error, path: Path) -> None:
        words = [str(word) for word in error.schema["enum"]]
        hint = did_you_mean(str(error.instance), words) if self._tree.raw_text(path) is None else ""
        if path[-1:] == ("dialect",) and str(error.instance) in preset_names():
            hint = f"write `preset: {error.instance}`, which has its dialect and more"
        message = f"{self._got(error, path)} is not {_title(error)}: known are {', '.join(words)}"
        self._add("unknown-value", path, message, hint)

    def _constant(self, error: Error, path: Path) -> None:
        self._add("bad-value", path, f"expected {error.schema['const']}, got {self._got(error, path)}")

    def _range(self, error: Error, path: Path) -> None:
        self._add("out-of-range", path, f"expected {_title(error)}, got {self._got(error, path)}")

    def _too_few(self, error: Error, path: Path) -> None:
        self._add("empty", path, f"expected {_title(error)}, got an empty one", "give it an entry")

    def _too_many(self, error: Error, path: Path) -> None:
        self._add("too-many", path, f"{len(error.instance)} entries are too many: {error.schema['maxItems']} at most")

    def _twice(self, error: Error, path: Path) -> None:
        seen: list[Any] = []
        for i, item in enumerate(error.instance):
            if item in seen:
                self._add("duplicate-item", (*path, i), f"{self._tree.shown((*path, i))} is in the list twice")
            seen.append(item)

    # ── alternatives ──

    def _branches(self, error: Error, path: Path) -> None:
        branches = error.schema["oneOf"]
        if all(set(branch) == {"required"} for branch in branches):
            self._exactly_one(error, path, [branch["required"][0] for branch in branches])
            return
        by_branch: dict[int, list[Error]] = {}
        for inner in error.context:
            by_branch.setdefault(inner.schema_path[0], []).append(inner)
        fitting = {i: found for i, found in by_branch.items() if not any(_is_type_of_all(inner) for inner in found)}
        if not fitting:
            writable = any(isinstance(b, dict) and b.get("writeOnly") for b in branches)
            got = _kind(error.instance) if writable else self._got(error, path)
            quoted = "quote it" if writable else f'quote it: "{describe(error.instance)}"'
            hint = quoted if isinstance(error.instance, int | float) and not isinstance(error.instance, bool) else ""
            self._add("wrong-type", path, f"expected {_title(error)}, got {got}", hint)
            return
        best = max(fitting.values(), key=_fit)
        for inner in best:
            self.write(inner, tuple(inner.absolute_path))

    def _exactly_one(self, error: Error, path: Path, keys: list[str]) -> None:
        if not isinstance(error.instance, dict):
            return  # `required` says nothing about other types, and `type` has complained
        given = [key for key in keys if key in error.instance]
        words = ", ".join(keys[:-1]) + " or " + keys[-1]
        if given:
            self._add("exactly-one", (*path, given[1]), f"only one of {words} can be given", at_key=True)
        else:
            self._add("exactly-one", path, f"one of {words} is needed", at_key=True)


def _is_type_of_all(error: Error) -> bool:
    """Whether a branch already fails for the type of the whole value."""
    return error.validator == "type" and not error.relative_path


def _fit(errors: list[Error]) -> tuple[int, int]:
    """Rank a branch: keys in common with what is there, then few errors."""
    common = 0
    for error in errors:
        if isinstance(error.schema, dict) and not error.relative_path and isinstance(error.instance, dict):
            common = max(common, len(set(error.instance) & set(error.schema.get("properties", ()))))
        elif error.relative_path:  # it failed further in: the key on the way is a common one
            common = max(common, 1)
    return common, -len(errors)


def _title(error: Error) -> str:
    schema = error.schema
    if isinstance(schema, dict) and "title" in schema:
        title = str(schema["title"])
        if schema.get("type") == "object" and not title.startswith(("a ", "an ", "bounds", "{")):
            return f"a mapping ({title})"
        return title
    return "something else"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "a text" if isinstance(value, str) else describe(value)


def _key_hint(key: str, known: Iterable[str]) -> str:
    known = list(known)
    for meant in SYNONYMS.get(key.lower(), ()):
        if meant in known:
            return f"did you mean {meant!r}?"
    if "defaults" in known and "clamp" in known:
        close = next(iter(difflib.get_close_matches(key, _SAMPLING, n=1)), key)
        return did_you_mean(key, known) or f"did you mean `defaults: {{{close}: ...}}`, or the same under `force` or `clamp`?"
    if key in _SAMPLING and "params" in known:
        return f"did you mean `params: {{defaults: {{{key}: ...}}}}`?"
    return did_you_mean(key, known) or "known are " + ", ".join(known)


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value)
