"""The `routerd` command: what can be typed, what each flag means, and the exit status.

0 fine, 1 a difference or a failing answer, 2 invalid (a flag or the configuration), 3 cannot read or reach. A mistake of the
operator's is answered with one line, never with a traceback. Nothing heavy is imported before the command is known.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from routerd import __version__
from routerd.daemon.commands.check import add_check, add_schema, add_test, check, schema, test
from routerd.daemon.commands.compare import add_diff, diff
from routerd.daemon.commands.completion import add_completion, completion
from routerd.daemon.commands.explain import add_explain, explain
from routerd.daemon.commands.fmt import add_fmt, fmt
from routerd.daemon.commands.imports import add_import, import_
from routerd.daemon.commands.init import add_init, init
from routerd.daemon.commands.probe import add_probe, probe
from routerd.daemon.commands.rehearse import add_rehearse, rehearse
from routerd.daemon.commands.syntax import CANNOT_REACH, FINE, INVALID, Parser, add_admin, add_format, admin_of, command, complain
from routerd.daemon.commands.usage import add_usage, usage
from routerd.daemon.settings import DEFAULTS, settings_from

__all__ = ["main"]

INTERRUPTED = 130
DRAINS = (("drain", "send an endpoint nothing new; what runs there finishes"), ("undrain", "let a drained endpoint come back"))
EXAMPLES = """examples:
  routerd init                         write a first routes.yaml
  routerd serve                        serve ./routes.yaml on 127.0.0.1:8080, and every change of it
  routerd check                        is it right? every problem with its line and a hint
  routerd diff --against old.yaml      what would this change for clients?
  routerd explain --model gpt-4        where would a request go, and why?
  routerd probe                        does every model answer, and how fast?
  routerd status                       what serves now?
"""


def _parser() -> Parser:
    parser = Parser(
        prog="routerd",
        description="A declarative LLM router: one YAML file in, an OpenAI-compatible endpoint out.",
        epilog=EXAMPLES + "\nexit status: 0 fine, 1 a difference or a failing answer, 2 invalid, 3 cannot read or reach",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"routerd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    add_init(commands)
    add_import(commands)
    _add_serve(commands)
    add_check(commands)
    add_test(commands)
    add_diff(commands)
    add_fmt(commands)
    add_schema(commands)
    add_explain(commands)
    add_probe(commands)
    add_rehearse(commands)
    _add_reload(commands)
    _add_rollback(commands)
    _add_history(commands)
    _add_status(commands)
    _add_drain(commands)
    add_completion(commands)
    add_usage(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serve = command(
        commands,
        "serve",
        "serve routes.yaml, and every change of it",
        "routerd serve --config routes.yaml --listen 127.0.0.1:8080 --workers auto",
    )

    def flag(name: str, what: str, **more: Any) -> None:
        key = name.removeprefix("--").replace("-", "_")
        default = DEFAULTS[key] or "none"
        serve.add_argument(name, help=f"{what} (default {default}; ROUTERD_{key.upper()})", **more)

    flag("--config", "the configuration", metavar="FILE")
    flag("--listen", "where clients connect; port 0: any free one", metavar="HOST:PORT")
    flag("--admin", "where /metrics, /-/status and reload are", metavar="HOST:PORT")
    flag("--workers", "serving processes, or `auto`: one per CPU of the machine or the container", metavar="N")
    flag("--state-dir", "where the real addresses (routerd.json), the last good configuration and the ledger are", metavar="DIR")
    flag("--on-invalid", "fail, or last-good: start with what was kept when the files are wrong", metavar="WHAT")
    flag("--drain-timeout", "how long running requests may finish after SIGTERM", metavar="TIME")
    flag("--log-format", "text or json", metavar="FORMAT")
    flag("--state", "Redis or Valkey that shares the counters of budgets with other hosts", metavar="URL")
    flag("--state-on-loss", "`local`: count on this host while it is away; `refuse`: refuse what has a budget", metavar="WHAT")
    flag("--ledger", "postgres://..., an SQLite file, or `off`; with --state-dir ledger.sqlite3 there", metavar="WHERE")
    flag("--ledger-keep", "how long single requests stay in the ledger, or `forever`; sums by day always stay", metavar="TIME")
    flag("--state-timeout", "no request waits longer for it", metavar="TIME")
    flag("--otel", "where spans go, an OTLP/HTTP collector; also OTEL_EXPORTER_OTLP_ENDPOINT", metavar="URL")
    serve.add_argument(
        "--open",
        action="store_true",
        default=None,
        help="serve anybody on a public address even without a `clients` block (ROUTERD_OPEN=1)",
    )


def _add_reload(commands: Any) -> None:
    reload = command(
        commands, "reload", "have the daemon read its configuration again", "routerd reload --wait --admin 127.0.0.1:8079"
    )
    reload.add_argument("--wait", action="store_true", help="return when every worker serves it, one being restarted too")
    reload.add_argument("--allow-removal", action="store_true", help="even if most models or providers go")
    add_admin(reload)


def _add_rollback(commands: Any) -> None:
    rollback = command(commands, "rollback", "serve an earlier generation again, until the file changes", "routerd rollback 3")
    rollback.add_argument("to", nargs="?", type=int, metavar="N", help="its number, see history; default: what served before")
    add_admin(rollback)


def _add_history(commands: Any) -> None:
    history = command(commands, "history", "list the last generations that served", "routerd history --format json")
    add_format(history)
    add_admin(history)


def _add_status(commands: Any) -> None:
    failed = "not ready, or the files differ from what serves"
    status = command(commands, "status", "say what serves now", "routerd status --format json", failed=failed)
    status.add_argument("--format", choices=("text", "json"), default="text")
    add_admin(status)


def _add_drain(commands: Any) -> None:
    for what, meaning in DRAINS:
        drain = command(commands, what, meaning, f"routerd {what} gpu-a --admin 127.0.0.1:8079", failed="no such endpoint")
        drain.add_argument("endpoint", metavar="NAME", help="an endpoint, or a provider that has only one")
        add_admin(drain)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    _have_standard_streams()
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        parser.print_help(sys.stderr)
        return INVALID
    parsed = parser.parse(words)
    try:
        status = _RUN[parsed.command](vars(parsed), os.environ)
        sys.stdout.flush()
        return status
    except ValueError as exc:
        return complain(str(exc), INVALID)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `routerd schema | head`
        _drop_output()
        return FINE
    except OSError as exc:  # commands tell of their files themselves: a full disk below `routerd schema > file`
        _drop_output()
        return complain(f"cannot write to {exc.filename or 'standard output'}: {exc.strerror or exc}", CANNOT_REACH)


def _have_standard_streams() -> None:
    """Open those that whoever started us has closed: else the next socket would be standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _drop_output() -> None:
    """Let nothing be written when Python ends that could not be written before."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _serve(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    settings = settings_from(flags, environ)
    try:
        if settings.on_invalid == "fail":
            with open(settings.config, "rb"):
                pass
    except FileNotFoundError:
        return complain(f"{settings.config} does not exist; `routerd init` writes one, --config names another", CANNOT_REACH)
    except OSError as exc:
        return complain(f"cannot read {settings.config}: {exc.strerror}; name another file with --config", CANNOT_REACH)
    from routerd.daemon.serve import serve

    return serve(settings)


def _reload(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands.live import reload

    return reload(admin_of(flags, environ), wait=flags["wait"], allow_removal=flags["allow_removal"])


def _rollback(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands.live import rollback

    return rollback(admin_of(flags, environ), flags["to"])


def _history(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands.live import history

    return history(admin_of(flags, environ), flags["format"])


def _status(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands.live import status

    return status(admin_of(flags, environ), flags["format"])


def _drain(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands.live import drain

    return drain(admin_of(flags, environ), flags["endpoint"], flags["command"])


_RUN: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], int]] = {
    "serve": _serve,
    "check": check,
    "test": test,
    "diff": diff,
    "fmt": fmt,
    "schema": schema,
    "explain": explain,
    "probe": probe,
    "reload": _reload,
    "rollback": _rollback,
    "history": _history,
    "status": _status,
    "drain": _drain,
    "undrain": _drain,
    "rehearse": rehearse,
    "init": init,
    "import": import_,
    "completion": lambda flags, _: completion(_parser(), flags),
    "usage": usage,
}


if __name__ == "__main__":
    sys.exit(main())
