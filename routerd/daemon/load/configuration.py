"""The one way to a configuration that may serve: read, check, compile, and run its own tests.

`routerd check` and the daemon call this very function, so their verdicts cannot differ. It stands here because `config` may not
see the packages that decide (`plan`, `policy`, `wire`), which the tests need.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from routerd.config import Kept, Loaded, load
from routerd.daemon.load.cases import run_tests
from routerd.errors import ConfigError

__all__ = ["load_checked"]


def load_checked(path: Path, environ: Mapping[str, str], kept: Kept | None = None) -> Loaded:
    """Return the configuration at `path`; raise ConfigError with every problem, failing tests included (stage `tests`).

    With `kept`, its files are those of that earlier load.
    """
    loaded = load(path, environ, kept)
    failed = [problem for result in run_tests(loaded) for problem in result.problems]
    if failed:
        raise ConfigError([*loaded.warnings, *failed], inputs=[one.path for one in loaded.inputs])
    return loaded
