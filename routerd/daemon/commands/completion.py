"""`routerd completion SHELL`: a script that completes commands, flags, choices and file names.

It is made of the parser that reads the command line, so the two cannot differ: first a table of plain facts, then one writer for
each shell. The scripts start no process while somebody types.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routerd.daemon.commands.syntax import FINE, command

__all__ = ["SHELLS", "add_completion", "completion"]

FILES = frozenset({"FILE", "DIR"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag. `choices` are its values if they are a closed set; `files`: its value is a path."""

    names: tuple[str, ...]
    what: str
    takes_value: bool
    choices: tuple[str, ...]
    files: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One command, and what may follow it: `words` or file names."""

    name: str
    what: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...]
    files: bool


def add_completion(commands: Any) -> None:
    """Declare `completion`."""
    example = 'eval "$(routerd completion bash)"'
    parser = command(commands, "completion", "print a script for the completion of a shell", example, failed="", unreachable="")
    parser.add_argument("shell", choices=tuple(SHELLS))


def completion(parser: argparse.ArgumentParser, flags: Mapping[str, Any]) -> int:
    """Print the script for one shell."""
    print(SHELLS[flags["shell"]](_verbs(parser)), end="")
    return FINE


def _verbs(parser: argparse.ArgumentParser) -> tuple[Verb, ...]:
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    told = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    return tuple(_verb(name, told.get(name, ""), one) for name, one in commands.choices.items())


def _verb(name: str, what: str, parser: argparse.ArgumentParser) -> Verb:
    places = [action for action in parser._actions if not action.option_strings]
    nested = [word for action in places for word in action.choices or ()]
    return Verb(
        name=name,
        what=what,
        flags=tuple(_flag(action) for action in parser._actions if action.option_strings),
        words=tuple(map(str, nested)),
        files=any(action.metavar in FILES for action in places),
    )


def _flag(action: argparse.Action) -> Flag:
    return Flag(
        names=tuple(action.option_strings),
        what=(action.help or "").partition(";")[0].partition(" (default")[0],
        takes_value=action.nargs != 0,
        choices=tuple(map(str, action.choices or ())),
        files=action.metavar in FILES,
    )


def _bash(verbs: Sequence[Verb]) -> str:
    values, after = [], []
    for verb in verbs:
        for flag in verb.flags:
            if flag.takes_value:
                then = "_routerd_files" if flag.files else f"_routerd_words {shlex.quote(' '.join(flag.choices))}"
                cases = "|".join(f"{verb.name}:{name}" for name in flag.names)
                values.append(f"    {cases}) {then}; return ;;")
        names = " ".join(name for flag in verb.flags for name in flag.names)
        files = " [[ $cur == -* ]] || _routerd_files;" if verb.files else ""
        after.append(f"    {verb.name}) _routerd_words {shlex.quote(f'{names} {chr(32).join(verb.words)}'.strip())};{files} ;;")
    return "\n".join([_BASH_HEAD % " ".join(verb.name for verb in verbs), *values, _BASH_MIDDLE, *after, _BASH_TAIL])


_BASH_HEAD = """# bash completion of routerd:  eval "$(routerd completion bash)"
_routerd_words() { mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$1" -- "$cur"); }
_routerd_files() { compopt -o filenames 2>/dev/null; mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur"); }
_routerd() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    _routerd_words '%s --help --version'
    return
  fi
  case ${COMP_WORDS[1]}:$prev in"""
_BASH_MIDDLE = """  esac
  case ${COMP_WORDS[1]} in"""
_BASH_TAIL = """  esac
}
complete -F _routerd routerd
"""


def _zsh(verbs: Sequence[Verb]) -> str:
    lines = [_ZSH_HEAD]
    lines += [f"      {shlex.quote(f'{verb.name}:{verb.what}')}" for verb in verbs]
    lines.append(_ZSH_MIDDLE)
    for verb in verbs:
        specs = [_zsh_flag(flag, name) for flag in verb.flags for name in flag.names]
        if verb.words:
            specs.append(f"1:what:({' '.join(verb.words)})")
        elif verb.files:
            specs.append("*:file:_files")
        lines.append(f"    {verb.name}) _arguments {' '.join(map(shlex.quote, specs))} ;;")
    return "\n".join([*lines, _ZSH_TAIL])


def _zsh_flag(flag: Flag, name: str) -> str:
    what = "".join("\\" + sign if sign in "[]:" else sign for sign in flag.what)
    then = "_files" if flag.files else f"({' '.join(flag.choices)})" if flag.choices else " "
    return f"*{name}[{what}]{f':value:{then}' if flag.takes_value else ''}"


_ZSH_HEAD = """#compdef routerd
# zsh completion of routerd:  source <(routerd completion zsh)
_routerd() {
  local -a verbs
  if ((CURRENT == 2)); then
    verbs=("""
_ZSH_MIDDLE = """    )
    _describe command verbs
    return
  fi
  local verb=$words[2]
  shift words
  ((CURRENT--))
  case $verb in"""
_ZSH_TAIL = """  esac
}
if [[ $funcstack[1] == _routerd ]]; then _routerd "$@"; else compdef _routerd routerd; fi
"""


def _fish(verbs: Sequence[Verb]) -> str:
    lines = ["# fish completion of routerd:  routerd completion fish | source", "complete -c routerd -f"]
    for verb in verbs:
        lines.append(f"complete -c routerd -n __fish_use_subcommand -a {verb.name} -d {_fish_quoted(verb.what)}")
        seen = f"complete -c routerd -n '__fish_seen_subcommand_from {verb.name}'"
        for flag in verb.flags:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            value = (" -r -F" if flag.files else " -x") if flag.takes_value else ""
            value += f" -a {_fish_quoted(' '.join(flag.choices))}" if flag.choices else ""
            lines.append(f"{seen} {names}{value} -d {_fish_quoted(flag.what)}")
        if verb.words:
            lines.append(f"{seen} -a {_fish_quoted(' '.join(verb.words))}")
        elif verb.files:
            lines.append(f"{seen} -F")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: Mapping[str, Callable[[Sequence[Verb]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
