"""`template:` of a provider: what its service wants and answers, checked before the first request fails on it.

Placeholders are those of the dialect; a pointer is one of RFC 6901. What a format has no use for is an error, not ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from routerd.config.compile.context import Build
from routerd.config.report import did_you_mean
from routerd.config.tree import Path
from routerd.graph import Template, TemplateFields, TemplateStream

PLACES = ("prompt", "messages", "system", "last_user", "model", "stream")
_PLACEHOLDER = re.compile(r"\{\{|\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_UNCLOSED = re.compile(r"(?<!\{)\{([A-Za-z_][A-Za-z0-9_.-]*)(?![A-Za-z0-9_.}-])")
_POINTERS = ("text", "finish", "error", "input_tokens", "output_tokens")
_OWN_FORM = frozenset({"vercel", "raw"})  # formats that say themselves where everything is


def template(build: Build, path: Path, body: Mapping[str, Any]) -> Template:
    """Compile the block of a provider with `dialect: template`."""
    if "template" not in body:
        hint = 'for example `template: {request: {query: "{prompt}"}, response: {text: /answer}}`'
        build.error(path, "missing-key", "`dialect: template` needs a `template`", hint, at_key=True)
        return Template(request={})
    path, spec = (*path, "template"), body["template"]
    if "response" not in spec and "stream" not in spec:
        message = "neither `response` nor `stream`: no answer could be read"
        build.error(path, "missing-key", message, "say where the text is: `response: {text: /answer}`", at_key=True)
    _check_places(build, (*path, "request"), spec["request"])
    for name in _names(spec.get("path", "")):
        if name != "model":
            build.error((*path, "path"), "bad-placeholder", f"{{{name}}} cannot stand in a path", "{model} can")
    _check_closed(build, (*path, "path"), spec.get("path", ""))
    response = spec.get("response")
    return Template(
        request=dict(spec["request"]),
        path=spec.get("path", "").lstrip("/"),
        response=TemplateFields(**_pointers(build, (*path, "response"), response)) if response is not None else None,
        stream=_stream(build, (*path, "stream"), spec["stream"]) if "stream" in spec else None,
    )


def _stream(build: Build, path: Path, spec: Mapping[str, Any]) -> TemplateStream:
    form = spec["format"]
    if form in _OWN_FORM:
        for key in (*_POINTERS, "done"):
            if key in spec:
                message = f"`format: {form}` has no {key}: its form is fixed"
                build.error((*path, key), "conflicting-keys", message, "remove it", at_key=True)
    elif "text" not in spec:
        hint = "a JSON pointer, for example `text: /choices/0/delta/content`"
        build.error(path, "missing-key", f"`format: {form}` needs a `text`", hint, at_key=True)
    marked = form == "vercel" or "finish" in spec or "done" in spec
    return TemplateStream(
        format=form,
        done=spec.get("done", "[DONE]"),
        eof_ends=spec.get("end", "finish" if marked else "eof") == "eof",
        **_pointers(build, path, spec),
    )


def _pointers(build: Build, path: Path, spec: Mapping[str, Any]) -> dict[str, str]:
    given = {key: spec[key] for key in _POINTERS if key in spec}
    for key, text in given.items():
        if not _POINTER.fullmatch(text):
            hint = f"did you mean '/{text}'?" if not text.startswith("/") else "~ is written ~0, / in a key ~1"
            shown = build.tree.shown((*path, key))
            build.error((*path, key), "bad-pointer", f"{shown} is not a JSON pointer (RFC 6901)", hint)
    return given


def _check_places(build: Build, path: Path, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, one in value.items():
            _check_places(build, (*path, key), one)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            _check_places(build, (*path, i), one)
    elif isinstance(value, str):
        for name in _names(value):
            if name not in PLACES and not (name.startswith("params.") and len(name) > len("params.")):
                hint = did_you_mean(name, PLACES) or f"known are {', '.join(PLACES)} and params.NAME; a brace is {{{{"
                build.error(path, "bad-placeholder", f"{{{name}}} is not a placeholder", hint)
        _check_closed(build, path, value)


def _check_closed(build: Build, path: Path, text: str) -> None:
    """Refuse a placeholder without its end; any other single brace is text."""
    for found in _UNCLOSED.finditer(text):
        name = found[1]
        if name in PLACES or name.startswith("params."):
            build.error(path, "bad-placeholder", f"{{{name} is not closed", f"write {{{name}}}; a brace itself is {{{{")


def _names(text: str) -> Iterator[str]:
    return (found[1] for found in _PLACEHOLDER.finditer(text) if found[1] is not None)
