"""The `routerd` command: what can be typed, what each flag means, and the exit status.

0 fine, 1 a difference or a failing answer, 2 invalid (a flag or the configuration), 3 cannot read or reach. A mistake of the
operator's is answered with one line, never with a traceback. Nothing heavy is imported before the command is known.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from routerd import __version__
from routerd.daemon.settings import DEFAULTS, Address, settings_from

__all__ = ["main"]

INVALID, CANNOT_REACH, INTERRUPTED = 2, 3, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(INVALID, f"{self.prog}: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="routerd",
        description="A declarative LLM router: one YAML file in, an OpenAI-compatible endpoint out.",
        epilog="Exit status: 0 fine, 1 a difference or a failing answer, 2 invalid, 3 cannot read or reach.",
    )
    parser.add_argument("--version", action="version", version=f"routerd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_serve(commands)
    _add_check(commands)
    _add_schema(commands)
    _add_explain(commands)
    _add_reload(commands)
    _add_status(commands)
    return parser


def _command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made


def _add_serve(commands: Any) -> None:
    serve = _command(
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
    flag("--workers", "serving processes, or `auto`: one per CPU", metavar="N")
    flag("--state-dir", "where the real addresses are written to routerd.json", metavar="DIR")
    flag("--drain-timeout", "how long running requests may finish after SIGTERM", metavar="TIME")
    flag("--log-format", "text or json", metavar="FORMAT")
    serve.add_argument(
        "--open",
        action="store_true",
        default=None,
        help="serve anybody on a public address even without a `clients` block (ROUTERD_OPEN=1)",
    )


def _add_check(commands: Any) -> None:
    check = _command(commands, "check", "validate a configuration as the daemon does", "routerd check routes.yaml --format json")
    check.add_argument("file", nargs="?", metavar="FILE", help="default: ROUTERD_CONFIG or routes.yaml")
    check.add_argument("--config", metavar="FILE", help="the same, as the other commands name it")
    check.add_argument("--format", choices=("text", "json"), default="text")


def _add_schema(commands: Any) -> None:
    _command(commands, "schema", "print the JSON schema of routes.yaml", "routerd schema > routes.schema.json")


def _add_explain(commands: Any) -> None:
    explain = _command(
        commands,
        "explain",
        "say where a request would go, and why",
        "routerd explain --model gpt-4 --client mobile --down gpu-a",
    )
    explain.add_argument("--model", required=True, metavar="X", help="the model as a client writes it")
    explain.add_argument("--client", metavar="C", help="a name of the `clients` block")
    explain.add_argument("--down", action="append", default=[], metavar="E", help="an endpoint to think away; may be repeated")
    explain.add_argument("--config", metavar="FILE", help="default: ROUTERD_CONFIG or routes.yaml")


def _add_reload(commands: Any) -> None:
    reload = _command(
        commands, "reload", "have the daemon read its configuration again", "routerd reload --wait --admin 127.0.0.1:9090"
    )
    reload.add_argument("--wait", action="store_true", help="return when every worker serves it, one being restarted too")
    _add_admin(reload)


def _add_status(commands: Any) -> None:
    status = _command(commands, "status", "say what serves now", "routerd status --format json")
    status.add_argument("--format", choices=("text", "json"), default="text")
    _add_admin(status)


def _add_admin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--admin", metavar="HOST:PORT", help=f"default: ROUTERD_ADMIN or {DEFAULTS['admin']}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parsed = _parser().parse_args(argv)
    try:
        return _RUN[parsed.command](vars(parsed), os.environ)
    except ValueError as exc:
        return _say(str(exc), INVALID)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `routerd schema | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say(why: str, code: int) -> int:
    print(f"routerd: {why}", file=sys.stderr)
    return code


def _serve(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    settings = settings_from(flags, environ)
    try:
        with open(settings.config, "rb"):
            pass
    except OSError as exc:
        return _say(f"cannot read {settings.config}: {exc.strerror}; name another file with --config", CANNOT_REACH)
    from routerd.daemon.control import serve

    return serve(settings)


def _check(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands import check

    return check(_config(flags["file"] or flags["config"], environ), flags["format"])


def _schema(_flags: Mapping[str, Any], _environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands import schema

    return schema()


def _explain(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands import explain

    return explain(_config(flags["config"], environ), flags["model"], flags["client"], flags["down"])


def _reload(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands import reload

    return reload(_admin(flags, environ), flags["wait"])


def _status(flags: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from routerd.daemon.commands import status

    return status(_admin(flags, environ), flags["format"])


def _config(told: str | None, environ: Mapping[str, str]) -> Path:
    return Path(told or environ.get("ROUTERD_CONFIG") or DEFAULTS["config"])


def _admin(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Address:
    try:
        return Address.parse(flags["admin"] or environ.get("ROUTERD_ADMIN") or DEFAULTS["admin"])
    except ValueError as exc:
        raise ValueError(f"--admin: {exc}") from exc


_RUN: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], int]] = {
    "serve": _serve,
    "check": _check,
    "schema": _schema,
    "explain": _explain,
    "reload": _reload,
    "status": _status,
}


if __name__ == "__main__":
    sys.exit(main())
