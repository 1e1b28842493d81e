"""Credentials: a text, an environment variable or a file. Their value is in no message; where it came from is.

A file's credential ends before the line break at its end: editors and `kubectl create secret` put one there.
"""

from __future__ import annotations

import re
from typing import Any

from routerd.config.compile.context import Build
from routerd.config.source import ReadFailure
from routerd.config.tree import Path

MAX_SECRET_BYTES = 64 * 1024
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_USABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def credential(build: Build, path: Path, spec: Any, *, optional: bool) -> tuple[str, str]:
    """Return the credential, or an empty string and the reason why there is none.

    Without one, an owner that is not optional is an error; so is in any case a credential that cannot go into a header.
    """
    if any(build.tree.is_unresolved(at) for at in (path, (*path, "env"), (*path, "file"))):
        return "", ""  # reported already
    value, reason = _look_up(build, path, spec)
    if not value:
        if not optional:
            build.error(path, "unresolved-secret", f"no credential: {reason}", "set it, or say `optional: true`")
        return "", reason
    if not _USABLE.fullmatch(value):
        hint = "printable ASCII, no space at either end, one line"
        build.error(path, "bad-secret", "the credential has characters that a header cannot carry", hint)
    return value, ""


def _look_up(build: Build, path: Path, spec: Any) -> tuple[str, str]:
    if isinstance(spec, str):
        raw = build.tree.raw_text(path)
        names = _VARIABLE.findall(raw) if raw else []
        return spec, f"{' and '.join(names)} is not set or empty" if names else "it is empty"
    if "env" in spec:
        name = spec["env"]
        value = build.environ.get(name, "")
        build.report.hide(value, f"{{env: {name}}}")
        return value, f"{name} is not set or empty"
    return _from_file(build, (*path, "file"), spec["file"])


def _from_file(build: Build, path: Path, name: str) -> tuple[str, str]:
    try:
        data = build.reader.read(build.file(path, name), max_bytes=MAX_SECRET_BYTES, secret=True)
    except ReadFailure as failure:
        return "", f"{build.tree.shown(path)}: {failure.message}"
    value = data.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    build.report.hide(value, "{file: ...}")
    return value, f"{build.tree.shown(path)} is empty"
