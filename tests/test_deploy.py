"""What an operator copies is true: the unit verifies, its flags and variables exist, the image copies files that are there."""

from __future__ import annotations

import configparser
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from routerd.observe import FAMILIES
from tests.support.daemon import ROUTERD
from tests.support.process import clean_environ

REPO = pathlib.Path(__file__).resolve().parents[1]
DEPLOY = REPO / "deploy"
UNIT = (DEPLOY / "routerd.service").read_text()
IMAGE = (DEPLOY / "Dockerfile").read_text()


def help_of(command: str) -> str:
    return subprocess.run([*ROUTERD, command, "--help"], env=clean_environ(), capture_output=True, text=True, check=True).stdout


def test_systemd_accepts_the_unit(tmp_path: pathlib.Path) -> None:
    tool = shutil.which("systemd-analyze")
    assert tool is not None, "systemd-analyze is not installed"
    unit = tmp_path / "routerd.service"
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    told = UNIT if int(version.split()[1]) >= 253 else UNIT.replace("Type=notify-reload", "Type=notify")  # as its comment says
    assert "Type=notify" in told
    unit.write_text(re.sub(r"/opt/routerd/bin/routerd", "/bin/true", told))
    done = subprocess.run([tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    mine = [line for line in done.stderr.splitlines() if "routerd.service" in line]
    assert mine == []


@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_the_unit_uses_flags_that_exist(key: str) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT)
    program, command, *flags = shlex.split(unit["Service"][key])
    assert program.endswith("/routerd")
    shown = help_of(command)
    for flag in flags:
        assert not flag.startswith("--") or flag in shown


@pytest.mark.parametrize("text", [UNIT, IMAGE], ids=["unit", "image"])
def test_every_variable_is_one_that_serve_reads(text: str) -> None:
    shown = help_of("serve")
    named = set(re.findall(r"\bROUTERD_[A-Z_]+", text))
    assert named
    for variable in named:
        assert variable in shown


def test_the_guide_to_replicas_names_what_there_is() -> None:
    guide = (DEPLOY / "replicas.md").read_text()
    metrics, alerts = set(re.findall(r"\brouterd_\w+", guide)), set(re.findall(r"\bRouterd[A-Z]\w+", guide))
    assert metrics
    assert metrics <= set(FAMILIES)
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    known = {rule["alert"] for group in groups for rule in group["rules"]}
    assert alerts
    assert alerts <= known
    shown = help_of("serve")
    unknown = {flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", guide) if flag not in shown}
    assert unknown == set()
    for file in re.findall(r"`([\w./-]+\.(?:yaml|json|md|service))`", guide):
        assert (DEPLOY / file).exists() or file == "routes.yaml", file


def test_the_stop_timeout_leaves_room_for_the_drain() -> None:
    drain = re.search(r"--drain-timeout (\d+)s", UNIT)
    stop = re.search(r"TimeoutStopSec=(\d+)s", UNIT)
    assert drain is not None
    assert stop is not None
    assert int(stop[1]) > int(drain[1])


def test_the_image_copies_what_the_build_needs() -> None:
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", IMAGE, re.MULTILINE) for word in line.split()]
    assert {"pyproject.toml", "README.md", "routerd", "schema"} <= set(copied)
    for name in copied:
        assert (REPO / name).exists(), name
