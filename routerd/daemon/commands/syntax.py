"""How a command is declared: its flags, its help with an example, its exit status; and the flags that several share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from routerd.daemon.settings import DEFAULTS, Address

__all__ = [
    "CANNOT_REACH", "FAILED", "FINE", "INVALID", "Parser", "add_admin", "add_config", "add_format", "admin_of", "closest",
    "command", "complain", "config_of", "count", "text_of",
]  # fmt: skip

MOST_BYTES = 8 * 2**20  # as the daemon reads a routes.yaml
FINE, FAILED, INVALID, CANNOT_REACH = 0, 1, 2, 3
_MEANINGS = {FINE: "fine", FAILED: "a difference or a failing answer", INVALID: "invalid", CANNOT_REACH: "cannot read or reach"}


class Parser(argparse.ArgumentParser):
    """A mistake is the usage of the command that it was made in, one line that says what was meant, and exit status 2.

    argparse itself tells of unknown flags last, with the usage of the program: `--modle x` would be a missing `--model`.
    """

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the line of a program with commands, and complain of what has no place in it."""
        at: argparse.ArgumentParser = self
        commands = next(action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        for word in words[: words.index("--") if "--" in words else None]:
            if at is self and not word.startswith("-"):
                if word not in commands.choices:
                    break
                at = commands.choices[word]
            flag = word.partition("=")[0]
            if flag.startswith("--") and not any(known.startswith(flag) for known in at._option_string_actions):
                meant = closest(flag, at._option_string_actions)
                at.error(f"there is no {flag}; {meant}" if meant else f"there is no {flag}")
        parsed, rest = self.parse_known_args(words)
        if rest:
            takes_file = "--config" in at._option_string_actions and not at._get_positional_actions()
            at.error(f"{rest[0]!r} has no place here" + (f"; a file is named with --config {rest[0]}" if takes_file else ""))
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "command" if isinstance(action, argparse._SubParsersAction) else (action.metavar or action.dest)
            meant = f"{meant} " if (meant := closest(value, action.choices)) else ""
            raise argparse.ArgumentError(None, f"no {what} is called {value!r}; {meant}there are: {', '.join(action.choices)}")

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(INVALID, f"{self.prog}: {message}\n")


def command(commands: Any, name: str, what: str, example: str, **exits: str) -> argparse.ArgumentParser:
    """Declare a command. `exits`: meanings other than the usual ones (`failed="a test fails"`); empty: it cannot be."""
    words = {code: exits.get(key, _MEANINGS[code]) for key, code in _CODES.items()}
    listed = "\n".join(f"  {code}  {meaning}" for code, meaning in words.items() if meaning)
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n  {example}\n\nexit status:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made


_CODES = {"fine": FINE, "failed": FAILED, "invalid": INVALID, "unreachable": CANNOT_REACH}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument("--config", metavar="FILE", help="default: ROUTERD_CONFIG or routes.yaml")


def config_of(told: str | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration that is meant."""
    return Path(told or environ.get("ROUTERD_CONFIG") or DEFAULTS["config"])


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Add --admin."""
    parser.add_argument("--admin", metavar="HOST:PORT", help=f"default: ROUTERD_ADMIN or {DEFAULTS['admin']}")


def admin_of(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Address:
    """Return the admin listener that is meant; ValueError for nonsense."""
    try:
        told = flags["admin"] or environ.get("ROUTERD_ADMIN") or DEFAULTS["admin"]
        return Address.parse(told.removeprefix("http://").rstrip("/"))  # as `serve` prints it
    except ValueError as exc:
        raise ValueError(f"--admin: {exc}") from exc


def add_format(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add --format."""
    parser.add_argument("--format", choices=("text", "json", *more), default="text")


def text_of(file: Path) -> str:
    """Return what stands in a file. OSError; ValueError, which names it, when it is no text or larger than anybody writes."""
    with file.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{file} is larger than {MOST_BYTES // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{file} is not UTF-8: byte 0x{data[exc.start]:02x} at offset {exc.start}") from None


def closest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean X?` for the known word that is most like `word`, or an empty string."""
    import difflib

    found = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {found[0]}?" if found else ""


def count(number: int, what: str) -> str:
    """Return `1 model`, `2 models`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def complain(why: str, code: int) -> int:
    """Say on stderr why not; return `code`."""
    print(f"routerd: {why}", file=sys.stderr)
    return code
