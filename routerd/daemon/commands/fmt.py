"""`routerd fmt`: one layout for configurations. A file is replaced as a whole, so the daemon never sees half of it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from routerd.daemon.commands.syntax import CANNOT_REACH, FAILED, FINE, INVALID, command, complain, config_of, text_of
from routerd.daemon.output.report import report
from routerd.errors import ConfigError

__all__ = ["add_fmt", "fmt"]


def add_fmt(commands: Any) -> None:
    """Declare `fmt`."""
    what = "give configurations one layout; comments and the order of keys stay"
    example = "routerd fmt --check routes.yaml conf.d/*.yaml"
    parser = command(commands, "fmt", what, example, failed="with --check: it would change")
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: ROUTERD_CONFIG or routes.yaml")
    parser.add_argument("--check", action="store_true", help="change nothing; say what would change")


def fmt(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Format each file; return the worst status of all."""
    files = [Path(name) for name in flags["files"]] or [config_of(None, environ)]
    return max(_one(file, flags["check"]) for file in files)


def _one(file: Path, check: bool) -> int:
    from routerd.config import Refused, formatted

    try:
        text = text_of(file)
        new = formatted(str(file), text)
        if new == text:
            return FINE
        if check:
            print(f"{file}: would change")
            return FAILED
        _replace(file, new)
    except OSError as exc:
        return complain(f"{file}: {exc.strerror or exc}", CANNOT_REACH)
    except ValueError as exc:
        return complain(f"{exc}; left as it is", INVALID)
    except ConfigError as exc:
        print(report(exc.problems, sys.stderr), file=sys.stderr)
        return INVALID
    except Refused as exc:
        return complain(f"{file}: {exc}; left as it is", INVALID)
    print(f"{file}: formatted")
    return FINE


def _replace(file: Path, text: str) -> None:
    """Write beside the real file and rename: a link stays a link, the mode stays."""
    real = file.resolve()
    mode = real.stat().st_mode & 0o7777
    handle, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        os.chmod(name, mode)
        os.replace(name, real)
    except BaseException:
        os.unlink(name)
        raise
