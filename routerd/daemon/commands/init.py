"""`routerd init`: a first routes.yaml that serves as it is, with the providers that are asked for.

What is written is commented, passes `check` and overwrites nothing. A provider with a key reads it from the environment and is
`optional`: without the key it is switched off, and the simulator answers. The schema goes beside it, for editors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routerd.daemon.commands.syntax import CANNOT_REACH, FINE, INVALID, closest, command, complain

__all__ = ["SCHEMA_LINE", "add_init", "init", "key_name", "provider_lines"]

FILE, SCHEMA = "routes.yaml", "routes.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema=./{SCHEMA}"
NEEDS_URL = {"azure-openai": "https://RESOURCE.openai.azure.com/openai/v1"}  # every customer has an address of their own
OWN, ELSEWHERE = "http://localhost:8080", "http://localhost:8081"  # where routerd itself listens unless told otherwise
KEYS = {"huggingface": "HF_TOKEN"}  # environment variables that are not NAME_API_KEY in the provider's own documentation
_HEAD = f"""{SCHEMA_LINE}
#
# What `routerd serve` serves. Save a change and it serves a moment later; a mistake is told and changes nothing.
#   routerd check                 is it right?
#   routerd explain --model chat  where would a request go, and why?
# Values may hold ${{NAME}} or ${{NAME:-default}}; durations and sizes have units (30s, 8MiB); keys that begin with x- are yours.
version: 1

# Who answers. A `preset` is a provider that routerd knows; any key beside it overrides the preset's.
providers:
  demo: # built in: repeats what it is told, without a key and without a network
    dialect: simulator
    simulator: {{reply: echo}}
"""
_MODELS = """
# What clients ask for. A step of a chain is provider/model; the next one is tried when one fails before its first content.
models:
  demo:
    description: The built-in echo.
    chain: [demo/echo]
"""
_CHAT = """  chat:
    description: Put the models that you want here, the preferred one first; the echo answers when nothing else can.
    # system_prompt: {text: "Answer in English.", mode: if_missing}
    # params: {defaults: {temperature: 0.7}, clamp: {max_tokens: {max: 4096}}}
    chain: # in the order of failover
"""
_TAIL = """
# Who may ask, and how much. Without `clients` routerd serves loopback only.
# budgets:
#   burst: {requests: 600, per: 1m, scope: client}
# clients:
#   team: {key: "${TEAM_KEY}", budgets: [burst]}
"""


def add_init(commands: Any) -> None:
    """Declare `init`."""
    example = "routerd init --provider openrouter --provider vllm"
    parser = command(commands, "init", "write a first routes.yaml", example, failed="")
    what = "a preset to take in; may be repeated. Its key is read from the environment"
    parser.add_argument("--provider", action="append", default=[], metavar="NAME", help=what)
    parser.add_argument("--dir", default=".", metavar="DIR", help="where to; made if it is not there (default: here)")
    parser.add_argument("--force", action="store_true", help="even if there is a routes.yaml already")


def init(flags: Mapping[str, Any], _environ: Mapping[str, str]) -> int:
    """Write the starter file and the schema."""
    from routerd.config import schema_json
    from routerd.config.source import preset_names

    names = list(dict.fromkeys(flags["provider"]))
    for name in names:
        if name not in preset_names():
            meant = f"{meant} " if (meant := closest(name, preset_names())) else ""
            return complain(f"no preset is called {name!r}; {meant}there are: {', '.join(preset_names())}", INVALID)
    folder = Path(flags["dir"])
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("w" if flags["force"] else "x", encoding="utf-8") as out:
            out.write(starter(names))
        schema = folder / SCHEMA
        if flags["force"] or not schema.exists():
            schema.write_text(schema_json(), encoding="utf-8")
    except FileExistsError:
        if not folder.is_dir():
            return complain(f"{folder} is no directory", CANNOT_REACH)
        return complain(f"{file} is there already; it stays as it is (--force overwrites it)", INVALID)
    except OSError as exc:
        return complain(f"cannot write {exc.filename or file}: {exc.strerror or exc}", CANNOT_REACH)
    print(f"{file} written. Next:")
    for name in names:
        if has_key(name):
            print(f"  export {key_name(name)}=...")
    print(f"  routerd serve{'' if folder == Path('.') else f' --config {file}'}")
    return FINE


def starter(names: Sequence[str]) -> str:
    """Return the file."""
    parts = [_HEAD]
    parts += ["\n".join(["", *provider_lines(name), ""]) for name in names]
    parts += [_MODELS, _CHAT if names else ""]
    parts += [f"      # - {name}/MODEL\n" for name in names]
    if names:
        parts.append("      - demo/echo\n")
    return "".join([*parts, _TAIL])


def provider_lines(name: str) -> list[str]:
    """Return the block of a preset, as lines of routes.yaml."""
    lines = [f"  {name}:", f"    preset: {name}"]
    if name in NEEDS_URL:
        lines.append(f"    base_url: {NEEDS_URL[name]} # yours")
    if has_key(name):
        lines += [f"    api_key: ${{{key_name(name)}:-}}", "    optional: true # without its key it is switched off"]
    elif (url := _preset_url(name)).startswith(OWN):
        lines.append(f"    base_url: {url.replace(OWN, ELSEWHERE)} # where it listens; its usual port is routerd's as well")
    else:
        lines.append(f"    # base_url: {url} # where it listens, if not there")
    return [*lines, f"    direct: true # clients may ask for {name}/<any of its models>"]


def has_key(name: str) -> bool:
    """Return whether a preset wants a credential."""
    return re.search(r"^auth:\s*\{type: (?!none)", _text(name), re.MULTILINE) is not None


def key_name(name: str) -> str:
    """Return the environment variable that holds the credential of a preset."""
    return KEYS.get(name, f"{name.upper().replace('-', '_')}_API_KEY")


def _preset_url(name: str) -> str:
    found = re.search(r"^base_url:\s*(\S+)", _text(name), re.MULTILINE)
    return found[1] if found else ""


def _text(name: str) -> str:
    from routerd.config.source import preset_text

    return preset_text(name).decode()
