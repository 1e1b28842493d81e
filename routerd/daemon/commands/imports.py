"""`routerd import`: a routes.yaml out of another router's configuration. What is left out goes to stderr, with its line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from routerd.daemon.commands.syntax import CANNOT_REACH, FINE, INVALID, command, complain, text_of
from routerd.daemon.output.report import report
from routerd.errors import ConfigError

__all__ = ["add_import", "import_"]


def add_import(commands: Any) -> None:
    """Declare `import`."""
    what = "make a routes.yaml of another router's configuration"
    example = "routerd import litellm config.yaml --out routes.yaml"
    parser = command(commands, "import", what, example, failed="")
    parser.add_argument("source", choices=("litellm", "llama-swap", "openrouter"))
    parser.add_argument("file", nargs="?", metavar="FILE", help="its configuration; openrouter has none")
    parser.add_argument("--out", metavar="FILE", help="write it there, where no file is yet; default: print it")
    parser.add_argument("--match", default="*", metavar="GLOB", help="openrouter: only models with such an id (`qwen/*`)")
    parser.add_argument("--url", metavar="URL", help="openrouter: where its API is, if not at openrouter.ai")


def import_(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Write the file; say what could not be carried over."""
    from routerd.daemon.imports.write import written

    openrouter = flags["source"] == "openrouter"
    if openrouter == (flags["file"] is not None):
        return complain("openrouter takes no file" if openrouter else "say which file", INVALID)
    try:
        document, left = _openrouter(flags, environ) if openrouter else _converted(flags["source"], flags["file"])
    except ConfigError as exc:
        print(report(exc.problems, sys.stderr), file=sys.stderr)
        return INVALID
    except OSError as exc:
        return complain(f"cannot read {flags['file']}: {exc.strerror or exc}", CANNOT_REACH)
    source = "OpenRouter's list of models" if openrouter else f"{flags['source']}'s {Path(flags['file']).name}"
    text = written(document, source, left)
    if flags["out"]:
        try:
            with open(flags["out"], "x", encoding="utf-8") as out:
                out.write(text)
        except FileExistsError:
            return complain(f"{flags['out']} is there already; it stays as it is", INVALID)
        except OSError as exc:
            return complain(f"cannot write {flags['out']}: {exc.strerror or exc}", CANNOT_REACH)
    else:
        print(text, end="")
    for line in left:
        print(line, file=sys.stderr)
    return FINE


def _converted(source: str, name: str) -> tuple[dict[str, Any], list[str]]:
    from routerd.daemon.imports.litellm import from_litellm
    from routerd.daemon.imports.llamaswap import from_llama_swap
    from routerd.daemon.imports.source import Left, read

    left = Left(name)
    config = read(name, text_of(Path(name)))
    document = (from_litellm if source == "litellm" else from_llama_swap)(config, left)
    return document, left.texts()


def _openrouter(flags: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    from routerd.daemon.imports.openrouter import URL, VARIABLE, fetched, from_openrouter

    url = (flags["url"] or URL).rstrip("/")
    try:
        return from_openrouter(fetched(url, environ.get(VARIABLE, "")), flags["match"]), []
    except (OSError, ValueError) as exc:
        left = [f"{url}/models: the list cannot be had ({exc}); any model can be asked for as openrouter/<id>"]
        return from_openrouter((), flags["match"]), left
